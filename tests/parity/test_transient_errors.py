"""A shortage on the machine is never a verdict on a model; bytes that the model lacks always are."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import EnvironmentFailure
from tasks.parity.transient_errors import failure, transient
from tests.forms import no_descriptors
from tests.makers.chain import Chain


class ResourceExhaustedError(Exception):
    """Called as TensorFlow's."""


@pytest.mark.parametrize("way", no_descriptors.WAYS, ids=lambda way: way.__name__)
def test_a_process_without_file_descriptors_says_nothing_about_a_model(
    chain: Chain, way: Callable[[Path], None]
) -> None:
    with pytest.raises(EnvironmentFailure, match=r"saved_model[^\n]* Too many open files[^\n]*\n[^\n]*ulimit -n"):
        isolate.call(way, chain.exported.path / "saved_model")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EIO])
def test_an_error_of_the_machine_is_known_by_its_number_and_by_its_words(number: int) -> None:
    assert transient(OSError(number, os.strerror(number)))
    assert transient(RuntimeError(f"/a/variables.index; {os.strerror(number)}"))
    assert failure(OSError(number, os.strerror(number)), "here").retryable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (IndexError("Read less bytes than requested"), False),
        (RuntimeError("Checksum does not match: stored 1 vs. calculated on the restored bytes 2"), False),
        (ValueError(), False),
        (MemoryError(), True),
        (ResourceExhaustedError("OOM when allocating tensor"), True),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_bytes_is_not_the_machines(error: Exception, expected: bool) -> None:
    assert transient(error) is expected
