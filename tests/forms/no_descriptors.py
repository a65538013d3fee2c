"""Reading while the machine has nothing left to give. In a child: it takes every file descriptor that there is."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tasks.forms import checkpoint_files, saved_model, saver
from tasks.records.settings import SessionOptions


@contextmanager
def none_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    held: list[int] = []
    try:
        while True:
            try:
                held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def reader(model: Path) -> None:
    """The index of a tensor bundle, opened by TensorFlow."""
    prefix = model / "variables" / "variables"
    listed = checkpoint_files.files(prefix)
    checkpoint_files.files = lambda _: listed
    saver.reader(prefix)
    with none_left():
        saver.reader(prefix)


def read(model: Path) -> None:
    """Its data file, opened as a tensor is read."""
    prefix = model / "variables" / "variables"
    checkpoint = saver.reader(prefix)
    with none_left():
        saver.read(checkpoint, "dense/kernel", prefix)


def proto(model: Path) -> None:
    """A SavedModel's proto."""
    saved_model.meta_graph(model)
    with none_left():
        saved_model.meta_graph(model)


def loader(model: Path) -> None:
    """A SavedModel, by the loader."""
    for starve in (nullcontext, none_left):
        with starve(), saved_model.session_of(model, [saved_model.SERVE], SessionOptions()):
            pass


WAYS = (reader, read, proto, loader)
