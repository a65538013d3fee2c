"""Frozen graphs: one GraphDef whose variables became constants, written from a graph and a checkpoint prefix.

frozen_graph.pb     no variable op, in the graph or its function library; devices cleared
signature.json      GraphNames: which tensors are the inputs and outputs
assets/             what lookup tables are filled from, for graphs that have them
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import DamagedError
from tasks.forms import saver
from tasks.graphs import graph as graphs
from tasks.graphs import rewrite
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.records.baseline import TensorFact
from tasks.records.forms import CandidateForm
from tasks.records.parity import NotMade
from tasks.records.settings import SessionOptions
from tasks.records.signature import GraphNames
from tasks.tensors.tensor_type import Shape

GRAPH = "frozen_graph.pb"
NAMES = "signature.json"
LIMIT = 2 * 2**30  # protobuf's limit on one message


def write(folder: Path, prefix: Path, names: GraphNames, out: Path) -> NotMade | None:
    """Write the frozen form of `prefix` into `out`, or return why it cannot be made.

    Values go from the checkpoint into the graph one tensor at a time; no session is made.

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
    constants = {node.name: node for node in frozen.node if node.op == "Const"}
    for name, source in needed.items():
        value = tf.make_tensor_proto(saver.read_slice(checkpoint, source, prefix))
        constants[name].attr["value"].tensor.CopyFrom(value)
        constants[name].attr.pop("_output_shapes", None)
    rewrite.name_assets(frozen, names.assets)
    graphs.drop_unused_functions(frozen)  # the unconverted originals are still in the library
    for node in graphs.Graph(frozen).every_node():
        node.device = ""
    if left := variables_left(frozen):
        return NotMade(f"the graph keeps state that cannot be folded, {', '.join(left[:3])}")
    (out / GRAPH).write_bytes(frozen.SerializeToString(deterministic=True))
    (out / NAMES).write_text(names.model_copy(update={"train_op": None, "loss": None}).model_dump_json(indent=1))
    for asset in names.assets:
        (out / "assets").mkdir(exist_ok=True)
        shutil.copyfile(folder / "assets" / asset.filename, out / "assets" / asset.filename)
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


@contextmanager
def loaded(folder: Path, options: SessionOptions) -> Iterator[SessionPredictor]:
    """Open the frozen graph of `folder` in a fresh graph and session.

    Raises:
        DamagedError: the file is not a GraphDef, or its names are not in it.
    """
    import tensorflow as tf

    names, graph_def = _read(folder)
    remedy = "freeze again."
    if left := variables_left(graph_def):
        raise DamagedError(str(folder / GRAPH), "no variable op", ", ".join(left[:5]), remedy)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        for target in graph_variables.signature_targets(names):
            graph.as_graph_element(target)
    except (ValueError, KeyError) as error:
        raise DamagedError(str(folder / GRAPH), "a graph that imports", str(error)[:300], remedy) from None
    with predictors.session(graph, options) as session:
        saver.fill_tables(session, names.table_init, names.assets, folder / "assets")
        yield SessionPredictor(CandidateForm.FROZEN_GRAPH, session, names.signatures, {})


def graph(folder: Path) -> GraphDef:
    """Return the frozen graph. Raises DamagedError."""
    found: GraphDef = _read(folder)[1]
    return found


def constants(folder: Path) -> list[TensorFact]:
    """Yield the constants that its signatures read, including former variables, from its file."""
    names, graph_def = _read(folder)
    outputs = [spec.tensor for signature in names.signatures for spec in signature.outputs.values()]
    return list(graphs.Graph(graph_def).constants(outputs, names.assets))


def _read(folder: Path) -> tuple[GraphNames, Any]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    names = GraphNames.model_validate_json((folder / NAMES).read_bytes())
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString((folder / GRAPH).read_bytes())
    except DecodeError:
        raise DamagedError(str(folder / GRAPH), "a GraphDef", "bytes that do not parse", "freeze again.") from None
    return names, graph_def


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
