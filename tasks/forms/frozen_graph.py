"""Frozen graphs: one GraphDef whose variables became constants, written from a graph and a checkpoint prefix.

frozen_graph.pb     no variable op, in the graph or its function library; devices cleared
signature.json      GraphNames: which tensors are the inputs and outputs
assets/             what lookup tables are filled from, for graphs that have them
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.artifacts.hashes import NONE, Hashes
from tasks.errors import DamagedError
from tasks.forms import graph_file, saver
from tasks.graphs import graph as graphs
from tasks.graphs import rewrite
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.records.baseline import TensorFact
from tasks.records.forms import FROZEN_GRAPH_FILE, FROZEN_NAMES_FILE, CandidateForm
from tasks.records.parity import NotMade
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames
from tasks.tensors.tensor_file import Array
from tasks.tensors.tensor_type import Shape

GRAPH = FROZEN_GRAPH_FILE
NAMES = FROZEN_NAMES_FILE
LIMIT = 2 * 2**30  # protobuf's limit on one message


def write(folder: Path, prefix: Path, names: GraphNames, out: Path, hashes: Hashes = NONE) -> NotMade | None:
    """Write the frozen form of `prefix` into `out`, or return why it cannot be made.

    Values go from the checkpoint into the file one tensor at a time; no session is made.

    Raises:
        CoverageError: the outputs need a variable that the checkpoint does not hold.
    """
    import tensorflow as tf

    meta, targets, needed = saver.to_convert(prefix, names)
    checkpoint = saver.reader(prefix)
    facts, shapes = graph_variables.variable_facts(meta.graph_def), checkpoint.get_variable_to_shape_map()
    held = [(facts[name][0], source.shape(tuple(shapes[source.key]))) for name, source in needed.items()]
    size = sum(map(_bytes_of, held)) + meta.graph_def.ByteSize()
    if size >= LIMIT:
        return NotMade(f"{size / 2**30:.1f} GiB > 2 GiB")
    try:
        frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
            Placeholders(facts), meta.graph_def, sorted({graphs.node_name(target) for target in targets})
        )
    except (ValueError, NotImplementedError) as error:
        if not _raised_by_converter(error):
            raise
        return NotMade(f"TensorFlow cannot fold this graph's variables ({str(error).splitlines()[0][:160]})")
    for node in frozen.node:
        if node.name in needed:
            node.attr.pop("_output_shapes", None)
    rewrite.name_assets(frozen, names.assets)
    graphs.drop_unused_functions(frozen)  # the unconverted originals are still in the library
    for node in graphs.Graph(frozen).every_node():
        node.device = ""
    if left := variables_left(frozen):
        return NotMade(f"the graph keeps state that cannot be folded, {', '.join(left[:3])}")

    def value_of(name: str) -> Array | None:
        return saver.read_slice(checkpoint, needed[name], prefix) if name in needed else None

    hashes.keep(out / GRAPH, graph_file.write(out / GRAPH, frozen, value_of))
    (out / NAMES).write_text(names.model_copy(update={"train_op": None, "loss": None}).model_dump_json(indent=1))
    for asset in names.assets:
        hashes.bring(folder / "assets" / asset.filename, out / "assets" / asset.filename)
    return None


def variables_left(graph_def: GraphDef) -> list[str]:
    """Return the nodes that still need a variable, in the graph or in a function's body."""
    return sorted(
        {
            f"{node.name} ({node.op})"
            for node in graphs.Graph(graph_def).every_node()
            if node.op in graph_variables.STATEFUL_OPS
        }
    )


@dataclass
class Stored:
    """A frozen graph as its file holds it.

    `graph_def` is without the bytes of its large constants. `constants` are the facts of all that its signatures read,
    former variables among them. `content` is the file, until the graph is opened.
    """

    names: GraphNames
    graph_def: GraphDef
    constants: list[TensorFact]
    content: bytes | None


def read(folder: Path) -> Stored:
    """Read the frozen graph of `folder`, its file once.

    Raises:
        DamagedError: the file is not a GraphDef, or has a variable.
    """
    from google.protobuf.message import DecodeError

    names = GraphNames.model_validate_json((folder / NAMES).read_bytes())
    content = (folder / GRAPH).read_bytes()
    try:
        graph_def, apart = graph_file.parse(content)
    except (DecodeError, ValueError, TypeError):
        raise DamagedError(str(folder / GRAPH), "a GraphDef", "bytes that do not parse", "freeze again.") from None
    if left := variables_left(graph_def):
        raise DamagedError(str(folder / GRAPH), "no variable op", ", ".join(left[:5]), "freeze again.")
    outputs = [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]
    constants = list(graphs.Graph(graph_def).constants(outputs, names.assets, apart))
    return Stored(names, graph_def, constants, content)


@contextmanager
def opened(stored: Stored, folder: Path, options: SessionOptions) -> Iterator[SessionPredictor]:
    """Open a frozen graph, once, in a fresh graph and session.

    Raises:
        DamagedError: it cannot be imported, or its names are not in it.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    content, stored.content = stored.content, None
    graph = tf.Graph()
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(content)
        del content
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        del graph_def
        for target in graph_variables.signature_targets(stored.names):
            graph.as_graph_element(target)
    except (ValueError, KeyError, DecodeError) as error:
        remedy = "freeze again."
        raise DamagedError(str(folder / GRAPH), "a graph that imports", str(error)[:300], remedy) from None
    with predictors.session(graph, options) as session:
        saver.fill_tables(session, stored.names.table_init, stored.names.assets, folder / "assets")
        yield SessionPredictor(CandidateForm.FROZEN_GRAPH, session, stored.names.signatures, {})


@contextmanager
def loaded(folder: Path, options: SessionOptions) -> Iterator[SessionPredictor]:
    """Read and open the frozen graph of `folder`. Raises as `read` and `opened`."""
    with opened(read(folder), folder, options) as predictor:
        yield predictor


class Placeholders:
    """Stands in for a session where TensorFlow's converter asks for all variables at once.

    It answers with empty scalars of the right dtype: the converter copies them into Const nodes, whose values are
    then filled in from the checkpoint one by one.
    """

    def __init__(self, facts: dict[str, tuple[str, Shape]]) -> None:
        self.facts = facts

    def run(self, tensors: list[str]) -> list[Any]:
        """Return what the converter takes for each tensor's value."""
        import numpy as np
        import tensorflow as tf

        answers = []
        for tensor in tensors:
            name = tensor.removesuffix(":0").removesuffix("/Read/ReadVariableOp")
            dtype = tf.dtypes.as_dtype(self.facts[name][0])
            answers.append(np.array(b"") if dtype == tf.string else np.zeros((), dtype=dtype.as_numpy_dtype))
        return answers


def _raised_by_converter(error: Exception) -> bool:
    """Return True if TensorFlow's converter reports that it cannot convert; other errors on its way do not count.

    (tensorflow/python/framework/convert_to_constants.py: ValueError, as for a gather with batch dimensions, and
    NotImplementedError, for nodes that it cannot convert.)
    """
    from tensorflow.python.framework import convert_to_constants

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == convert_to_constants.__name__


def _bytes_of(fact: tuple[str, tuple[int, ...]]) -> int:
    import numpy as np
    import tensorflow as tf

    dtype, shape = fact
    return int(np.prod(shape, dtype=np.int64)) * int(tf.dtypes.as_dtype(dtype).size or 1)
