"""Prometheus metrics of requests, loads and warmups, under the real server's names.

Sources: tensorflow_serving/servables/tensorflow/util.cc (requests) and saved_model_warmup_util.cc,
tensorflow/cc/saved_model/loader.cc (loads), tensorflow_serving/util/prometheus_exporter.cc (names and layout).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric

from tasks.serving.embedded import model_configs
from tasks.serving.embedded.descriptors import Field, message_classes
from tasks.serving.embedded.errors import Code, ServingError

_DEFAULT_PATH = "/monitoring/prometheus/metrics"
# monitoring::Buckets::Exponential(10, 1.8, 33): from 10 microseconds to about 20 minutes.
_MICROSECOND_BUCKETS = [10 * 1.8**power for power in range(33)]


def metrics_path(monitoring_config_file: str) -> str | None:
    """Return the path at which `--monitoring_config_file` enables the metrics, or None.

    Raises:
        ServingError: the file is not a MonitoringConfig.
    """
    if not monitoring_config_file:
        return None
    config = model_configs.read_text_proto(Path(monitoring_config_file), _monitoring_config())
    if not config.prometheus_config.enable:
        return None
    return config.prometheus_config.path or _DEFAULT_PATH


def _monitoring_config() -> Any:
    """Return an empty `MonitoringConfig` (tensorflow_serving/config/monitoring_config.proto), which the package lacks."""
    classes = message_classes(
        "tfship.monitoring",
        {
            "PrometheusConfig": [Field("enable", 1, "bool"), Field("path", 2, "string")],
            "MonitoringConfig": [Field("prometheus_config", 1, "PrometheusConfig")],
        },
    )
    return classes["MonitoringConfig"]()


class _Counts:
    """A counter whose samples keep its name; prometheus_client's own would append `_total`."""

    def __init__(self, name: str, documentation: str, labels: tuple[str, ...]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def add(self, *values: str, amount: int = 1) -> None:
        """Add `amount` for these values of the labels."""
        with self._lock:
            self._counts[values] += amount

    def collect(self) -> Iterable[Metric]:
        """Return the samples, as prometheus_client requires of a collector."""
        metric = Metric(self._name, self._documentation, "unknown")
        with self._lock:
            counts = dict(self._counts)
        for values, count in counts.items():
            metric.add_sample(self._name, dict(zip(self._labels, values, strict=True)), count)
        return [metric]


class Metrics:
    """Counters of requests by outcome and of loads, and their durations in microseconds."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Counts(
            ":tensorflow:serving:request_count", "The total number of requests.", ("model_name", "status")
        )
        self._load_attempts = _Counts(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "The number of times a SavedModel was requested to be loaded.",
            ("model_path", "status"),
        )
        self._load_latency = _Counts(
            ":tensorflow:cc:saved_model:load_latency",
            "Latency in microseconds for SavedModels that were successfully loaded.",
            ("model_path",),
        )
        for counts in (self._requests, self._load_attempts, self._load_latency):
            self._registry.register(counts)
        self._request_latency = self._histogram(
            ":tensorflow:serving:request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
            ("model_name", "API", "entrypoint"),
        )
        self._warmup_latency = self._histogram(
            ":tensorflow:serving:model_warmup_latency",
            "Distribution of wall time (in microseconds) for warming up the model.",
            ("model_path", "status"),
        )

    def _histogram(self, name: str, documentation: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, documentation, labels, buckets=_MICROSECOND_BUCKETS, registry=self._registry)

    @contextmanager
    def observe(self, model_name: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count a request, and its time if it succeeds. `api` is for example `Predict`, `entrypoint` `REST` or `GRPC`."""
        started = time.monotonic()
        code = Code.UNKNOWN
        try:
            yield
            code = Code.OK
            self._request_latency.labels(model_name, api, entrypoint).observe(_micros_since(started))
        except ServingError as error:
            code = error.code
            raise
        finally:
            self._requests.add(model_name, code.name)

    @contextmanager
    def load(self, path: str) -> Iterator[None]:
        """Count an attempt to load the SavedModel at `path`, and its time if it succeeds."""
        started = time.monotonic()
        status = "fail"
        try:
            yield
            status = "success"
            self._load_latency.add(path, amount=_micros_since(started))
        finally:
            self._load_attempts.add(path, status)

    def warmed_up(self, path: str, micros: float) -> None:
        """Count a successful warmup."""
        self._warmup_latency.labels(path, Code.OK.name).observe(micros)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry).replace(b" untyped\n", b" counter\n")


def _micros_since(started: float) -> int:
    return int((time.monotonic() - started) * 1e6)
