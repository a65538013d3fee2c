"""Prometheus metrics under the real server's names (`tensorflow_serving/servables/tensorflow/util.cc`)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric

from tasks.serving.embedded import model_configs
from tasks.serving.embedded.errors import Code, ServingError
from tasks.serving.embedded.tensors import Proto

_DEFAULT_PATH = "/monitoring/prometheus/metrics"
# monitoring::Buckets::Exponential(10, 1.8, 33): from 10 microseconds to about 20 minutes.
_MICROSECOND_BUCKETS = [10 * 1.8**power for power in range(33)]


def metrics_path(monitoring_config_file: str) -> str | None:
    """Where `--monitoring_config_file` wants the metrics; None when it wants none.

    Raises:
        ServingError: the file is no MonitoringConfig.
    """
    if not monitoring_config_file:
        return None
    config = model_configs.read_text_proto(Path(monitoring_config_file), _monitoring_config())
    if not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or _DEFAULT_PATH


def _monitoring_config() -> Proto:
    """An empty `MonitoringConfig` (tensorflow_serving/config/monitoring_config.proto); the Python package lacks it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfship/monitoring_config.proto", package="tfship", syntax="proto3")
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=field.TYPE_BOOL, label=field.LABEL_OPTIONAL)
    prometheus.field.add(name="path", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    file.message_type.add(name="MonitoringConfig").field.add(
        name="prometheus_config",
        number=1,
        type=field.TYPE_MESSAGE,
        label=field.LABEL_OPTIONAL,
        type_name=".tfship.PrometheusConfig",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tfship.MonitoringConfig"))()


class Metrics:
    """Counts requests by outcome and measures their latency."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counts: dict[tuple[str, str], int] = {}
        self._latency = Histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for servicing requests.",
            ("model_name", "API", "entrypoint"),
            buckets=_MICROSECOND_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The request counter; prometheus_client's own would append `_total` to its name."""
        counter = Metric(":tensorflow:serving:request_count", "The total number of requests.", "unknown")
        for (model_name, status), count in list(self._counts.items()):
            counter.add_sample(counter.name, {"model_name": model_name, "status": status}, count)
        return [counter]

    @contextmanager
    def observe(self, model_name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count one request and its time; `api` is `Predict`, `entrypoint` `REST` or `GRPC`."""
        started = time.monotonic()
        code = Code.OK
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        finally:
            key = (model_name, code.name)
            self._counts[key] = self._counts.get(key, 0) + 1
            self._latency.labels(model_name, api, entrypoint).observe((time.monotonic() - started) * 1e6)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
