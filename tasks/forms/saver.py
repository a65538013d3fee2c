"""Checkpoints of `tf.compat.v1.train.Saver`, versions 1 and 2: the files behind a prefix, their tensors, their restore.

A prefix is a path stem, not a file: `…/model.ckpt-1200`. Functions that need TensorFlow run in a child.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.artifacts.hashes import hash_file
from tasks.errors import CoverageError, DamagedError
from tasks.forms import checkpoint_files, literal_path
from tasks.graphs import graph as graphs
from tasks.graphs import rewrite
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import GraphDef, MetaGraphDef
from tasks.graphs.variables import Slice
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.parity.transient_errors import failure, transient
from tasks.records.baseline import TensorFact
from tasks.records.coverage import Coverage, Status, VariableStatus
from tasks.records.forms import CandidateForm
from tasks.records.parity import NotMade
from tasks.records.settings import SessionOptions
from tasks.records.signature import Asset, GraphNames
from tasks.tensors import tensor_file
from tasks.tensors.tensor_type import Shape

# What a reader of the format knows; a writer knows some more (tensorflow/core/util/tensor_slice_reader.cc, GetTensor).
_V1_DTYPES = frozenset({"bool", "float32", "float64", "int8", "int16", "int32", "int64", "string", "uint8"})


def readable(prefix: Path) -> str:
    """Return `spelled`, through links where TensorFlow would not take the path as it stands."""
    return f"{literal_path.literal_prefix(prefix, checkpoint_files.files(prefix))}{checkpoint_files.spelled(prefix).removeprefix(str(prefix))}"


def reader(prefix: Path) -> Any:
    """TensorFlow's reader of a checkpoint of either version; a model without variables has none, and one that is empty.

    Raises:
        DamagedError: it cannot be read.
        EnvironmentFailure: this machine cannot read it now.
    """
    import tensorflow as tf

    if not checkpoint_files.files(prefix):
        return _NoTensors()
    try:
        return tf.compat.v1.train.NewCheckpointReader(readable(prefix))
    # The reader maps TensorFlow's status codes to Python's own exceptions as it likes: out of range is an IndexError.
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        if transient(error):
            raise failure(error, str(prefix)) from None
        remedy = "give a prefix whose files are all there (`.index` and every `.data-…`)."
        raise DamagedError(str(prefix), "a readable checkpoint", _sentence(error), remedy) from None


def read(checkpoint: Any, key: str, prefix: Path) -> tensor_file.Array:
    """Read one tensor; TensorFlow verifies its checksum. Raises DamagedError, EnvironmentFailure."""
    import tensorflow as tf

    try:
        value: tensor_file.Array = checkpoint.get_tensor(key)
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        if transient(error):
            raise failure(error, f"{prefix}, tensor {key}") from None
        remedy = "restore the file from a backup, or pin another step."
        raise DamagedError(
            f"{prefix}, tensor {key}", "bytes that match their checksum", _sentence(error), remedy
        ) from None
    return tensor_file.as_array(value)


class _NoTensors:
    """The reader of a checkpoint without files."""

    def get_variable_to_shape_map(self) -> dict[str, tuple[int, ...]]:
        return {}

    get_variable_to_dtype_map = get_variable_to_shape_map


def read_slice(checkpoint: Any, source: Slice, prefix: Path) -> tensor_file.Array:
    """Read one variable's value, which may be a slice of a tensor. Raises as `read`."""
    whole = read(checkpoint, source.key, prefix)
    return whole[source.window] if source.spec else whole


def tensor_table(prefix: Path, known: Iterable[TensorFact] = ()) -> list[TensorFact]:
    """Return the facts of every tensor of a checkpoint, by its key.

    Each is read, one at a time, unless it is among the `known` ones with the dtype and shape that the checkpoint has.
    """
    checkpoint = reader(prefix)
    shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    facts = {(fact.name, fact.dtype, fact.shape): fact for fact in known}
    found = []
    for key in sorted(shapes):
        fact = facts.get((key, dtypes[key].base_dtype.name, tuple(shapes[key])))
        found.append(fact or tensor_file.fact(key, read(checkpoint, key, prefix)))
    return found


def meta_graph(path: Path) -> MetaGraphDef:
    """Read the MetaGraphDef of a `.meta` file and make it importable.

    Raises:
        DamagedError: it is not one.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import meta_graph_pb2

    graph = meta_graph_pb2.MetaGraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError:
        graph.Clear()
    if not graph.graph_def.node:
        raise DamagedError(str(path), "a MetaGraphDef with a graph", "none", "give the `.meta` that Saver wrote.")
    return rewrite.modernise(graph)


def coverage(meta: MetaGraphDef, prefix: Path, targets: Iterable[str]) -> Coverage:
    """Return what restoring `prefix` into the graph would write, by the graph's own saver."""
    return compared(meta.graph_def, graph_variables.restored_slices(meta.graph_def, meta.saver_def), prefix, targets)


def compared(graph_def: GraphDef, sources: Mapping[str, Slice], prefix: Path, targets: Iterable[str]) -> Coverage:
    """Compare what restoring each variable from its source would write with what `targets` need.

    Every variable of the graph is matched, missing, or changed in dtype or shape; every tensor of the checkpoint that no
    variable takes is extra. Initialisers do not count: a variable that only they would fill is missing.
    """
    targets = list(targets)
    checkpoint = reader(prefix)
    shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    needed = graphs.Graph(graph_def).variables(targets)
    statuses = []
    for name, (dtype, shape) in sorted(graph_variables.variable_facts(graph_def).items()):
        source = sources.get(name)
        found = None
        if source is not None and source.key in shapes:
            found = dtypes[source.key].base_dtype.name, source.shape(tuple(shapes[source.key]))
        matched = found is not None and found[0] == dtype and graph_variables.takes(shape, found[1])
        status: Status = "missing" if found is None else "matched" if matched else "changed"
        statuses.append(
            VariableStatus(
                name=name,
                key=source.key if source else None,
                status=status,
                needed=name in needed,
                expected=f"{dtype}{_written(shape)}",
                found=f"{found[0]}{list(found[1])}" if found else None,
            )
        )
    used = {status.key for status in statuses}
    return Coverage(
        variables=tuple(statuses),
        extra=tuple(sorted(set(shapes) - used)),
        other_state=tuple(graphs.Graph(graph_def).other_state(targets)),
    )


def require_coverage(found: Coverage, prefix: Path) -> None:
    """Raise CoverageError where a needed variable would not be restored as it must be, or the outputs need more."""
    if found.other_state:
        raise CoverageError(
            f"{prefix.name}: what the outputs read",
            "variables, constants and tables that are filled from files",
            ", ".join(found.other_state[:5]),
            "keep what was learned in variables, or in an asset: this state does not survive the training session.",
        )
    if not found.refused:
        return
    first = found.refused[0]
    more = f" (and {len(found.refused) - 1} more: {', '.join(v.name for v in found.refused[1:6])})"
    raise CoverageError(
        f"{prefix.name}: variable {first.name}, which the outputs need",
        f"a tensor {first.expected} under the key {first.key or first.name!r}",
        (first.found or "none") + (more if len(found.refused) > 1 else ""),
        "save it (training.saver.var_list leaves it out?), or pin a checkpoint that holds it; "
        "initial values are never put in its place.",
        coverage=found,
    )


def to_convert(prefix: Path, names: GraphNames) -> tuple[Any, list[str], dict[str, Slice]]:
    """Return the input of a conversion: the MetaGraphDef, its targets, and the sources of the variables that they need.

    Raises:
        CoverageError: the outputs need what the checkpoint does not hold.
        DamagedError: a file cannot be read.
    """
    meta = meta_graph(checkpoint_files.meta_file(prefix))
    targets = graph_variables.signature_targets(names)
    found = coverage(meta, prefix, targets)
    require_coverage(found, prefix)
    sources = graph_variables.restored_slices(meta.graph_def, meta.saver_def)
    return meta, targets, {status.name: sources[status.name] for status in found.variables if status.needed}


@contextmanager
def restored(folder: Path, prefix: Path, names: GraphNames, options: SessionOptions) -> Iterator[SessionPredictor]:
    """Restore the graph of `<prefix>.meta` from `prefix` in a fresh session, with assets from `folder`/assets.

    Raises:
        CoverageError: the outputs need a variable that the checkpoint does not hold as the graph requires.
        DamagedError: a file cannot be read.
    """
    import tensorflow as tf

    meta = meta_graph(checkpoint_files.meta_file(prefix))
    found = coverage(meta, prefix, graph_variables.signature_targets(names))
    require_coverage(found, prefix)
    matched = {status.name: status.key for status in found.variables if status.status == "matched"}
    graph = tf.Graph()
    with graph.as_default():
        saver = tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
        if any(status.status != "matched" and status.key for status in found.variables):
            by_name = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
            saver = tf.compat.v1.train.Saver({key: by_name[name] for name, key in matched.items() if name in by_name})
    readers = graph_variables.read_tensors(graph, matched)
    with predictors.session(graph, options) as session:
        if matched:
            saver.restore(session, readable(prefix))
        fill_tables(session, names.table_init, names.assets, folder / "assets")
        yield SessionPredictor(CandidateForm.CHECKPOINT, session, names.signatures, readers)


def write(folder: Path, prefix: Path, names: GraphNames, version: str, out: Path) -> NotMade | None:
    """Write the checkpoint `prefix` again in another version, V1 or V2, with a `.meta` of its own, or return why not.

    Everything that the checkpoint holds of the graph is written, optimiser slots too.

    Raises:
        CoverageError: the outputs need a variable that the checkpoint does not hold.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saver_pb2

    meta, _, _ = to_convert(prefix, names)
    held = graph_variables.restored_slices(meta.graph_def, meta.saver_def)
    if not held:
        return NotMade("there are no variables to save")
    with restored(folder, prefix, names, SessionOptions()) as opened:
        graph = opened.session.graph
        # Under the names that the baseline knows them by; parts of a partitioned variable are tensors of their own.
        by_name = {variable.op.name: variable for variable in graph.get_collection("variables")}
        keys = {name if source.spec else source.key: by_name[name] for name, source in held.items() if name in by_name}
        dtypes = {variable.dtype.base_dtype.name for variable in keys.values()}
        if version == "V1" and (more := sorted(dtypes - _V1_DTYPES)):
            return NotMade(f"format V1 cannot hold {', '.join(more)}")
        for variable in keys.values():
            variable._save_slice_info = None
        with graph.as_default():
            saver = tf.compat.v1.train.Saver(
                keys, write_version=saver_pb2.SaverDef.V1 if version == "V1" else saver_pb2.SaverDef.V2
            )
            saver.save(opened.session, str(out / prefix.name), write_meta_graph=False)
            written = saver.export_meta_graph(clear_devices=True)
    rewrite.declare(written, names.signatures)
    (out / f"{prefix.name}{checkpoint_files.META}").write_bytes(written.SerializeToString(deterministic=True))
    (out / "checkpoint").write_text(checkpoint_files.state_file(prefix.name))
    for asset in names.assets:
        (out / "assets").mkdir(exist_ok=True)
        shutil.copyfile(folder / "assets" / asset.filename, out / "assets" / asset.filename)
    return None


def fill_tables(session: Any, table_init: str | None, assets: Iterable[Asset], folder: Path) -> None:
    """Run what fills lookup tables, with asset paths fed from where the files are now."""
    if table_init:
        feeds = {asset.tensor: str(folder / asset.filename) for asset in assets}
        session.run(session.graph.get_operation_by_name(table_init), feeds)


def changed_assets(folder: Path, assets: Iterable[Asset]) -> Mapping[str, str]:
    """Assets in `folder` that are missing or not the recorded ones: file name -> what was found."""
    found = {}
    for asset in assets:
        path = folder / asset.filename
        sha = hash_file(path) if path.is_file() else "no such file"
        if sha != asset.sha256:
            found[asset.filename] = sha
    return found


def _written(shape: Shape) -> str:
    return " of any shape" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _sentence(error: Exception) -> str:
    return str(error).split("\n")[0][:300]
