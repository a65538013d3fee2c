"""Session options decide on which devices sessions and eager functions compute."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks import isolate
from tasks.errors import UsageError
from tasks.records.settings import SessionOptions
from tests.forms import object_calls


def test_the_named_device_computes_and_is_recorded() -> None:
    assert isolate.call(object_calls.seen_devices, "/CPU:0") == ["CPU"]


@pytest.mark.parametrize("device", ["/GPU:7", "/CPU:9"])
def test_a_device_that_is_not_there_is_said_with_those_that_are(device: str) -> None:
    with pytest.raises(UsageError, match=r"session\.device"):
        isolate.call(object_calls.seen_devices, device)


def test_a_device_is_spelled_as_tensorflow_does() -> None:
    with pytest.raises(ValidationError):
        SessionOptions(device="gpu")
