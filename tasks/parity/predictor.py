"""The interface over every form: a signature and inputs in, outputs out.

Everything here runs in a child process, in which TensorFlow is loaded.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

from tasks.errors import UsageError
from tasks.records.baseline import Environment, TensorFact
from tasks.records.settings import SessionOptions
from tasks.records.signature import Signature, TensorSpec
from tasks.tensors.tensor_file import Array, Tensors, as_array, fact_of_pieces, piece_starts

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
_BATCH = 1000  # variables
_BATCH_BYTES = 1 << 26
_rewriting: ContextVar[bool] = ContextVar("rewriting", default=False)


@contextmanager
def rewriting(wanted: bool) -> Iterator[None]:
    """Let Grappler rewrite the graphs of models that are opened in the block, as a server does; or not, as is the rule."""
    token = _rewriting.set(wanted)
    try:
        yield
    finally:
        _rewriting.reset(token)


class Predictor(Protocol):
    """A model in one of its forms, loaded. `form` is how reports call it."""

    @property
    def form(self) -> str:
        """The form's name."""
        ...

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures that the form declares, by key."""
        ...

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """The outputs of one signature key on one batch, by output name."""
        ...

    def values(self) -> Iterator[TensorFact]:
        """Every variable or constant that stands for one, one at a time."""
        ...


class SessionPredictor:
    """A graph in a session: the live model, a restored checkpoint, a frozen graph, a SavedModel by the v1 loader.

    `named` gives for each value to report the tensor that reads it.
    """

    def __init__(self, form: str, session: Any, signatures: Iterable[Signature], named: Mapping[str, str]) -> None:
        self.form = form
        self.session = session
        self.signatures: Mapping[str, Signature] = {
            signature.key: _as_in_graph(signature, session.graph) for signature in signatures
        }
        self.named = dict(named)

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`."""
        return self.ask(signature, inputs, {})

    def ask(self, signature: str, inputs: Mapping[str, Array], extra: Mapping[str, Array]) -> Tensors:
        """`predict`, with `extra` tensors of the graph fed beside the inputs."""
        spec = self.signatures[signature]
        feeds = {spec.inputs[name].tensor: value for name, value in inputs.items()} | dict(extra)
        fetches = {name: output.tensor for name, output in spec.outputs.items()}
        return {name: as_array(value) for name, value in self.session.run(fetches, feeds).items()}

    def values(self) -> Iterator[TensorFact]:
        """See `Predictor`; a variable that nobody initialised has the dtype `uninitialised`."""
        for names in self.batches():
            for name, pieces in self._in_pieces(names):
                if pieces is None:
                    yield TensorFact(name=name, dtype="uninitialised", shape=(), sha256="")
                else:
                    yield fact_of_pieces(name, pieces)

    def read(self) -> Iterator[tuple[str, Array | None]]:
        """Yield every value that is to be reported, whole; None for a variable that nobody initialised."""
        for names in self.batches():
            for name, pieces in self._in_pieces(names, whole=True):
                yield name, None if pieces is None else next(iter(pieces))

    def batches(self) -> Iterator[list[str]]:
        """Yield the names of `named` as `batches` does."""
        return batches({name: self.session.graph.get_tensor_by_name(tensor) for name, tensor in self.named.items()})

    def _in_pieces(self, names: list[str], *, whole: bool = False) -> Iterator[tuple[str, Iterable[Array] | None]]:
        """Yield the values of variables, each in pieces or `whole`; None for one that nobody initialised."""
        import tensorflow as tf

        if len(names) > 1:
            try:
                found = self.session.run({name: self.named[name] for name in names})
            except tf.errors.FailedPreconditionError:
                pass  # at least one of them
            else:
                yield from ((name, [as_array(value)]) for name, value in found.items())
                return
        for name in names:
            pieces = self._pieces(self.named[name], whole)
            try:
                first = next(pieces)
            except tf.errors.FailedPreconditionError:
                yield name, None
            else:
                yield name, chain([first], pieces)

    def _pieces(self, name: str, whole: bool) -> Iterator[Array]:
        """Yield the value of a tensor, a large one in pieces along its first axis unless it is wanted `whole`."""
        import tensorflow as tf

        tensor = self.session.graph.get_tensor_by_name(name)
        starts = piece_starts_of(tensor)
        if whole or len(starts) == 1:
            yield as_array(self.session.run(name))
            return
        with self.session.graph.as_default(), tf.name_scope("tfship_piece/"):
            first, last = (tf.compat.v1.placeholder(tf.int64, ()) for _ in range(2))
            piece = tensor[first:last]
        for start, end in pairwise([*starts, tensor.shape[0]]):
            yield as_array(self.session.run(piece, {first: start, last: end}))


def batches(tensors: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the names of tensors in lists to be read at once: each run with other tensors costs as much as the graph is long."""
    batch: list[str] = []
    held = 0
    for name, tensor in tensors.items():
        size = _bytes(tensor)
        if batch and (held + size > _BATCH_BYTES or len(batch) == _BATCH):
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += size
    if batch:
        yield batch


def piece_starts_of(tensor: Any) -> list[int]:
    """Return `piece_starts` of a tensor or variable of TensorFlow's."""
    shape, dtype = tensor.shape.as_list() if tensor.shape.rank else None, tensor.dtype.base_dtype
    return piece_starts(shape, None if dtype.name == "string" else dtype.size)


def _bytes(tensor: Any) -> int:
    """Return the size of a tensor in bytes, that of a batch where it is not known, as of strings."""
    shape = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
    item = tensor.dtype.base_dtype.size
    return _BATCH_BYTES if None in shape or not item else math.prod(shape) * int(item)


def variable_pieces(variable: Any) -> Iterator[Array]:
    """Yield the value of a tf.Variable outside graphs, a large one in pieces along its first axis."""
    starts = piece_starts_of(variable)
    if len(starts) == 1:
        yield as_array(variable.numpy())
        return
    for start, end in pairwise([*starts, variable.shape[0]]):
        yield as_array(variable[start:end].numpy())


def _as_in_graph(signature: Signature, graph: Any) -> Signature:
    """Return the signature with the dtypes of its tensors, whatever was declared."""

    def found(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        dtypes = {name: graph.get_tensor_by_name(spec.tensor).dtype.base_dtype.name for name, spec in specs.items()}
        return {name: spec.model_copy(update={"dtype": dtypes[name]}) for name, spec in specs.items()}

    return signature.model_copy(update={"inputs": found(signature.inputs), "outputs": found(signature.outputs)})


def session(graph: Any, options: SessionOptions) -> Any:
    """Open a session on `graph` with Grappler off: with it, saved forms differ from the live model by up to 4e-6.

    Raises:
        UsageError: the device of the options does not exist.
    """
    import tensorflow as tf

    _use_devices(options)
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
        allow_soft_placement=options.allow_soft_placement,
    )
    config.gpu_options.allow_growth = options.memory_growth
    config.graph_options.rewrite_options.disable_meta_optimizer = not _rewriting.get()
    return tf.compat.v1.Session(graph=graph, config=config)


def eager(options: SessionOptions) -> None:
    """Apply the same settings to functions that run eagerly; call it once, before anything else is computed.

    Raises:
        UsageError: the device of the options does not exist.
    """
    import tensorflow as tf

    _use_devices(options)
    tf.config.set_soft_device_placement(options.allow_soft_placement)
    tf.config.threading.set_intra_op_parallelism_threads(options.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.inter_op_threads)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not _rewriting.get()})


def _use_devices(options: SessionOptions) -> None:
    """Hide every device but the one that is named, from sessions and eager functions alike."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if options.device is not None:
        kind, index = options.device.removeprefix("/device:").removeprefix("/").split(":")
        devices = tf.config.list_physical_devices(kind)
        if int(index) >= len(devices):
            found = ", ".join(f"/{device.device_type}:{device.name.rpartition(':')[2]}" for device in [*devices, *gpus])
            raise UsageError("session.device", options.device, found or "no such device", "name one that is here.")
        gpus = [devices[int(index)]] if kind == "GPU" else []
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, options.memory_growth)


def onednn() -> bool:
    """Return True if TensorFlow uses oneDNN in this process."""
    return os.environ.get(ONEDNN, "1") != "0"


def environment(options: SessionOptions) -> Environment:
    """Return the environment of this process; outputs from equal environments may be compared bit for bit."""
    import tensorflow as tf

    relevant = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in _cpuinfo().splitlines() if line.split("\t")[0].rstrip(" :") in relevant}
    described = "\n".join(sorted(lines)) + f"\ncores {len(os.sched_getaffinity(0))}"
    return Environment(
        tensorflow=f"{tf.version.VERSION} {tf.version.GIT_VERSION}",
        cpu=hashlib.sha256(described.encode()).hexdigest()[:16],
        onednn=onednn(),
        intra_op_threads=options.intra_op_threads,
        inter_op_threads=options.inter_op_threads,
        device=options.device,
    )


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
