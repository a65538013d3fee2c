"""A running model server's own account of its models: states of versions, labels, configuration. Needs no TensorFlow.

Every function runs in a child or a fork. Protocol: tensorflow_serving/apis/{model_service,get_model_status,
model_management,prediction_service,get_model_metadata}.proto.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import ChildFailed, EnvironmentFailure, SmokeRefused
from tasks.graphs.protos import import_alone
from tasks.records.base import Record
from tasks.records.serving import Cause

_POLL_SECONDS = 0.1
_CALL_SECONDS = 5.0
_UNKNOWN = frozenset({"NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION"})


class VersionState(Record):
    """The state of a version, by its name in get_model_status.proto, and why it ended."""

    state: str
    message: str = ""


def states(address: str, name: str, seconds: float = _CALL_SECONDS) -> dict[int, VersionState]:
    """Return the state of each version of a model; empty if the server does not know the model.

    Raises:
        EnvironmentFailure: there is no answer.
    """
    with _stubs(address) as (service, _), _answering(address):
        return _states(service, address, name, seconds)


def reload(address: str, text: str, seconds: float) -> None:
    """Give a server a configuration in text format, and return once it has taken it.

    Raises:
        SmokeRefused: the server refused it.
        EnvironmentFailure: there is no answer within `seconds`, in which it loads the models that it did not have.
    """
    import_alone()
    import grpc
    from google.protobuf import text_format
    from tensorflow_serving.apis import model_management_pb2
    from tensorflow_serving.config import model_server_config_pb2

    request = model_management_pb2.ReloadConfigRequest()
    request.config.CopyFrom(text_format.Parse(text, model_server_config_pb2.ModelServerConfig()))
    what = f"server {address}, a new configuration"
    with _stubs(address) as (service, _), _answering(address):
        try:
            status = service.HandleReloadConfigRequest(request, timeout=seconds).status
            refused = f"{status.error_code} {status.error_message}" if status.error_code else ""
        except grpc.RpcError as error:
            if error.code().name not in _UNKNOWN | {"INTERNAL", "ABORTED"}:
                raise
            refused = f"{error.code().name}: {error.details()}"
    if refused:
        remedy = "see the server's log; it must see the serving root under the base path that models.config names."
        raise SmokeRefused(what, "taken", refused, remedy, cause=Cause.LOAD_ERROR)


def wait(address: str, name: str, available: Collection[int], unloaded: Collection[int], seconds: float) -> float:
    """Return the seconds after which a server has loaded and unloaded these versions.

    A server that is full, or is started again meanwhile, is asked again.

    Raises:
        SmokeRefused: a version ended with an error.
        ChildFailed: not all are so within `seconds`.
        EnvironmentFailure: there is no answer at the end of these.
    """
    import grpc

    began = time.monotonic()
    with _stubs(address) as (service, _), _answering(address):
        while True:
            try:
                found = _states(service, address, name, _CALL_SECONDS)
            except grpc.RpcError:
                if time.monotonic() - began > seconds:
                    raise
                time.sleep(_POLL_SECONDS)
                continue
            missing = [version for version in available if found.get(version, _NONE).state != "AVAILABLE"]
            left = [version for version in unloaded if found.get(version, _NONE).state not in ("", "END")]
            passed = time.monotonic() - began
            if not missing and not left and passed <= seconds:
                return passed
            for version in missing:
                if (one := found.get(version, _NONE)).state == "END" and one.message:
                    what = f"server {address}, model {name} version {version}"
                    remedy = "fix what it names and make the model again."
                    raise SmokeRefused(what, "AVAILABLE", f"END: {one.message}", remedy, cause=Cause.LOAD_ERROR)
            if passed > seconds:
                expected = ", ".join(
                    [f"version {one} AVAILABLE" for one in available] + [f"version {one} unloaded" for one in unloaded]
                )
                states = ", ".join(f"version {version} {one.state}" for version, one in sorted(found.items()))
                raise ChildFailed(
                    f"server {address}, model {name}",
                    f"{expected} within {seconds:g} s",
                    f"{states or 'no such model'} after {passed:.3g} s",
                    "give the server that serves this serving root, let it poll (--file_system_poll_wait_seconds), or "
                    "raise `--load-timeout`.",
                    cause=Cause.NEVER_AVAILABLE,
                )
            time.sleep(_POLL_SECONDS)


def version_of(address: str, name: str, label: str) -> int | None:
    """Return the version that a server answers a label by, None if it knows no such label.

    Only an answer tells: metadata are asked of the label, and name the version (get_model_metadata.proto).

    Raises:
        EnvironmentFailure: there is no answer.
    """
    import_alone()
    import grpc
    from tensorflow_serving.apis import get_model_metadata_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    request.model_spec.version_label = label
    with _stubs(address) as (_, prediction), _answering(address):
        try:
            return int(prediction.GetModelMetadata(request, timeout=_CALL_SECONDS).model_spec.version.value)
        except grpc.RpcError as error:
            if error.code().name in _UNKNOWN:
                return None
            raise


_NONE = VersionState(state="")


def _states(service: Any, address: str, name: str, seconds: float) -> dict[int, VersionState]:
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    try:
        answer = service.GetModelStatus(request, timeout=seconds)
    except grpc.RpcError as error:
        if error.code().name in _UNKNOWN:
            return {}
        raise
    named = get_model_status_pb2.ModelVersionStatus.State.Name
    return {
        int(one.version): VersionState(state=str(named(one.state)), message=str(one.status.error_message))
        for one in answer.model_version_status
    }


@contextmanager
def _stubs(address: str) -> Iterator[tuple[Any, Any]]:
    """Provide the stubs of ModelService and PredictionService."""
    import_alone()
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        yield (
            model_service_pb2_grpc.ModelServiceStub(channel),
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
        )


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Turn what gRPC raises where no server answers into EnvironmentFailure."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        found = f"{error.code().name}: {error.details()}"
        remedy = "start the server, or give the host and gRPC port of the one that runs (--server HOST:PORT)."
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            remedy = "see its log for what keeps it, or raise `--load-timeout`."
        raise EnvironmentFailure(f"server {address}", "an answer over gRPC", found, remedy) from None
