"""A full server is asked again until the deadline; what else it lacks keeps its own cause."""

from __future__ import annotations

import socket

import grpc
import pytest

from tasks import isolate
from tasks.errors import ChildFailed, EnvironmentFailure
from tasks.records.serving import Cause
from tasks.serving.clients.admission import NO_THREAD, admitted
from tasks.serving.clients.grpc import AnsweredError, reaching
from tests.forms import no_descriptors


class Answered(grpc.RpcError):  # type: ignore[misc]  # grpcio ships no types
    """An error as a call raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = lambda: code, lambda: details


FULL = Answered(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_THREAD)


def test_a_request_is_sent_again_until_it_is_admitted_with_what_is_left_of_its_time() -> None:
    left: list[float] = []

    def send(seconds: float) -> str:
        left.append(seconds)
        if len(left) < 4:
            raise FULL
        return "answer"

    away: list[None] = []
    assert admitted(send, 60.0, lambda: away.append(None)) == "answer"
    assert len(away) == 3 and left == sorted(left, reverse=True) and left[0] <= 60.0


def test_it_is_given_up_at_its_deadline_and_every_attempt_is_counted() -> None:
    away: list[None] = []

    def send(seconds: float) -> None:
        raise FULL

    with pytest.raises(Answered):
        admitted(send, 0.05, lambda: away.append(None))
    assert away


def test_another_error_is_not_sent_again() -> None:
    calls: list[float] = []

    def send(seconds: float) -> None:
        calls.append(seconds)
        raise Answered(grpc.StatusCode.INVALID_ARGUMENT, "no such input")

    with pytest.raises(AnsweredError, match="no such input"), reaching("gRPC", 1.0):
        admitted(send, 1.0, calls.clear)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("details", "cause", "remedy"),
    [
        (NO_THREAD, Cause.FULL, "--grpc_max_threads"),
        ("Received message larger than max (30 vs. 20)", Cause.TOO_LARGE, "probe"),
        ("OOM when allocating tensor with shape[9999,9999]", Cause.TOO_LARGE, "serving.memory"),
    ],
)
def test_what_is_exhausted_has_its_own_cause_and_remedy(details: str, cause: Cause, remedy: str) -> None:
    with pytest.raises(ChildFailed) as failed, reaching("gRPC", 1.0):
        raise Answered(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
    assert failed.value.cause is cause and remedy in failed.value.remedy and details in failed.value.found


def _asked_without_descriptors(port: int) -> None:
    """In a child: over both protocols, when this process can open no file or socket more."""
    import httpcore  # noqa: F401 - imported at the first request, of which the descriptors are gone
    import httpx

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    with httpx.Client() as client, no_descriptors.none_left():
        with pytest.raises(EnvironmentFailure, match="Too many open files") as of_grpc, reaching("gRPC", 5.0):
            channel.unary_unary("/a/b")(b"", timeout=5.0)
        with pytest.raises(EnvironmentFailure, match="Too many open files") as of_rest, reaching("REST", 5.0):
            client.get(f"http://127.0.0.1:{port}/")
    channel.close()
    for error in (of_grpc, of_rest):
        assert "ulimit -n" in error.value.remedy and "too slow" not in str(error.value)


def test_a_full_table_of_file_descriptors_is_this_machines_and_not_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        isolate.call(_asked_without_descriptors, listening.getsockname()[1])
