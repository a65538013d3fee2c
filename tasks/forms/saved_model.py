"""SavedModels, written from a graph and a checkpoint prefix, and loaded by both of TensorFlow's loaders.

saved_model.pb                                graph, signatures, assets' names (tensorflow/core/protobuf/saved_model.proto)
variables/variables.index, .data-*            the variables that the signatures need
assets/                                       files that fill lookup tables
assets.extra/tf_serving_warmup_requests       PredictionLogs, for TensorFlow Serving to run at load
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tasks.artifacts.hashes import NONE, Hashes
from tasks.errors import DamagedError, PipelineError
from tasks.forms import checkpoint_files, checkpoint_table, literal_path, saver, warmup_requests
from tasks.graphs import graph as graphs
from tasks.graphs import rewrite
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.variables import Slice
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.parity.transient_errors import failure, transient
from tasks.records.baseline import TensorFact
from tasks.records.forms import CandidateForm
from tasks.records.settings import SessionOptions
from tasks.records.signature import Asset, GraphNames, Method, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors

SERVE = "serve"
_SUPERFLUOUS = 0.01  # of the variables' bytes: a global step, not slots
_SHARD_BYTES = 256 * 2**20
_WITHOUT_FINGERPRINT = (
    "export the model again, or copy all of its files again; if it was changed on purpose, delete its fingerprint.pb."
)
_KEPT_COLLECTIONS = ("variables", "trainable_variables", "table_initializer", "hyperparameters")


def write(folder: Path, prefix: Path, names: GraphNames, probe_file: Path, out: Path, hashes: Hashes = NONE) -> None:
    """Write the SavedModel of `prefix` into `out`, its variables tensor by tensor.

    Where the checkpoint holds hardly more than the variables, its files are brought as they are.

    The graph is cut to what the signatures need (optimiser slots stay behind), keeping variables' collections, without
    which a SavedModel loads with nothing restored.

    Raises:
        CoverageError: the outputs need a variable that the checkpoint does not hold.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    meta, targets, needed = saver.to_convert(prefix, names)
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.train.import_meta_graph(_cut(meta, targets, set(needed)), clear_devices=True)
        by_name = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
        saver_def = None
        keys: dict[str, str] = {}
        if needed:
            # A part of a partitioned variable becomes a tensor of its own, under its own name.
            keys = {name: name if source.spec else source.key for name, source in needed.items()}
            variables = {key: by_name[name] for name, key in keys.items()}
            saver_def = tf.compat.v1.train.Saver(variables, name="save").as_saver_def()
        exported = tf.compat.v1.train.export_meta_graph(
            graph=graph, saver_def=saver_def, clear_devices=True, strip_default_attrs=True
        )
    rewrite.name_assets(exported.graph_def, names.assets)
    exported.meta_info_def.tags.append(SERVE)
    with graph.as_default():
        for signature in names.signatures:
            exported.signature_def[signature.key].CopyFrom(_signature_def(signature, graph))
    for asset in names.assets:
        entry = exported.asset_file_def.add()
        entry.filename = asset.filename
        entry.tensor_info.name = asset.tensor
        hashes.bring(folder / "assets" / asset.filename, out / "assets" / asset.filename)
    if names.table_init:
        exported.collection_def["saved_model_main_op"].node_list.value.append(names.table_init)
    saved_model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[exported])
    (out / "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))
    if needed:
        _write_variables(prefix, needed, keys, out / "variables", hashes)
    warmup_requests.write(out, names.signatures, tensor_file.read_tensors(probe_file))


def _write_variables(
    prefix: Path, needed: Mapping[str, Slice], keys: Mapping[str, str], folder: Path, hashes: Hashes
) -> None:
    """Write the variables of a SavedModel, of which `keys` are those of the checkpoint where no part is a tensor of its own."""
    checkpoint = saver.reader(prefix)
    index = prefix.with_name(f"{prefix.name}.index")
    if index.is_file() and not any(source.spec for source in needed.values()):
        sizes = {key: entry.size for key, entry in checkpoint_table.entries(index)}
        wanted = sum(sizes[key] for key in keys.values())
        if sum(sizes.values()) - wanted <= wanted * _SUPERFLUOUS:
            for path in checkpoint_files.files(prefix):
                hashes.bring(path, folder / f"variables{path.name.removeprefix(prefix.name)}")
            return
    folder.mkdir()
    order = sorted(keys, key=keys.__getitem__)
    write_bundle(
        folder / "variables", ((keys[name], saver.read_slice(checkpoint, needed[name], prefix)) for name in order)
    )


def _cut(meta: MetaGraphDef, targets: Iterable[str], needed: set[str]) -> Any:
    """Return the part of a MetaGraphDef that `targets` reach, with the nodes and collections of the needed variables."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    wanted = {graphs.node_name(target) for target in targets}
    cut = meta_graph_pb2.MetaGraphDef()
    cut.meta_info_def.CopyFrom(meta.meta_info_def)
    cut.meta_info_def.ClearField("tags")
    if meta.saver_def.restore_op_name:  # not used, but without one the import would build a saver of its own
        cut.saver_def.CopyFrom(meta.saver_def)
    for collection in _KEPT_COLLECTIONS:
        if collection not in meta.collection_def:
            continue
        kept = cut.collection_def[collection]
        if collection in ("variables", "trainable_variables"):
            for variable in graph_variables.declared_variables(meta, collection):
                if graphs.node_name(variable.variable_name) in needed:
                    variable.ClearField("save_slice_info_def")  # parts are saved as tensors of their own
                    kept.bytes_list.value.append(variable.SerializeToString())
                    for name in (variable.initializer_name, variable.initial_value_name, variable.snapshot_name):
                        wanted |= {graphs.node_name(name)} if name else set()
        else:
            kept.CopyFrom(meta.collection_def[collection])
    if "table_initializer" in cut.collection_def:
        wanted |= {graphs.node_name(name) for name in cut.collection_def["table_initializer"].node_list.value}
    cut.graph_def.CopyFrom(tf.compat.v1.graph_util.extract_sub_graph(meta.graph_def, sorted(wanted)))
    cut.graph_def.library.CopyFrom(meta.graph_def.library)
    cut.graph_def.versions.CopyFrom(meta.graph_def.versions)
    graphs.drop_unused_functions(cut.graph_def)
    return cut


def _signature_def(signature: Signature, graph: Any) -> Any:
    import tensorflow as tf

    def info(spec: TensorSpec) -> Any:
        return tf.compat.v1.saved_model.build_tensor_info(graph.get_tensor_by_name(spec.tensor))

    return tf.compat.v1.saved_model.signature_def_utils.build_signature_def(
        inputs={name: info(spec) for name, spec in signature.inputs.items()},
        outputs={name: info(spec) for name, spec in signature.outputs.items()},
        method_name=signature.method.value,
    )


def write_bundle(prefix: Path, named: Iterable[tuple[str, Array]]) -> None:
    """Write tensors as a tensor bundle, holding at most 256 MiB or one tensor at a time.

    Parts are written one after the other and merged without being read again
    (MergeV2Checkpoints, tensorflow/core/kernels/save_restore_v2_ops.cc). Call it where no graph is the default one.
    """
    import tensorflow as tf

    parts: list[str] = []
    held: dict[str, Array] = {}

    def flush() -> None:
        if held:
            part = prefix.with_name(f"part-{len(parts)}")
            tf.raw_ops.SaveV2(
                prefix=str(part),
                tensor_names=list(held),
                shape_and_slices=[""] * len(held),
                tensors=list(held.values()),
            )
            parts.append(str(part))
            held.clear()

    for key, value in named:
        held[key] = value
        if sum(array.nbytes for array in held.values()) >= _SHARD_BYTES:
            flush()
    flush()
    if parts:
        tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=False)


@contextmanager
def session_of(folder: Path, tags: Iterable[str], options: SessionOptions) -> Iterator[tuple[Any, Any]]:
    """Open a session with the SavedModel by TensorFlow Serving's loader, tables filled; also return its MetaGraphDef.

    Raises:
        DamagedError: the loader refuses it.
        EnvironmentFailure: this machine cannot load it at present.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    graph = tf.Graph()
    with closing(predictors.session(graph, options)) as session:
        try:
            with graph.as_default():
                meta = tf.compat.v1.saved_model.load(session, list(tags), str(literal_path.literal(folder)))
        except (tf.errors.OpError, DecodeError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise unloadable(folder, error) from None
        yield session, meta


@contextmanager
def loaded_v1(folder: Path, options: SessionOptions) -> Iterator[SessionPredictor]:
    """Open the SavedModel by `session_of`."""
    with session_of(folder, [SERVE], options) as (session, meta):
        named = [variable.op.name for variable in session.graph.get_collection("variables")]
        readers = graph_variables.read_tensors(session.graph, named)
        yield SessionPredictor(CandidateForm.SAVED_MODEL_V1, session, signatures_in(meta.signature_def), readers)


class FunctionPredictor:
    """A SavedModel by `tf.saved_model.load`: its signatures as functions."""

    form = CandidateForm.SAVED_MODEL_V2

    def __init__(self, model: Any, signatures: Iterable[Signature]) -> None:
        self.model = model
        self.signatures = {signature.key: signature for signature in signatures}

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`."""
        import tensorflow as tf

        function = self.model.signatures[signature]
        answers = function(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor_file.as_array(answer.numpy()) for name, answer in answers.items()}

    def values(self) -> Iterator[TensorFact]:
        """See `Predictor`."""
        for variable in self.model.variables:
            yield tensor_file.fact_of_pieces(variable.name.removesuffix(":0"), predictors.variable_pieces(variable))
        # TF1's reference variables get no Python object: they are read through the graph they stayed in.
        graph = getattr(self.model, "graph", None)
        every = graph.get_collection("variables") if graph is not None else ()
        tensors = {one.op.name: one.value() for one in every if one.dtype.name.endswith("_ref")}
        for names in predictors.batches(tensors):
            if len(names) > 1:
                values = self.model.prune([], [tensors[name].name for name in names])()
                yield from (
                    tensor_file.fact(name, tensor_file.as_array(v.numpy()))
                    for name, v in zip(names, values, strict=True)
                )
            else:
                yield tensor_file.fact_of_pieces(names[0], self._pieces(tensors[names[0]]))

    def _pieces(self, tensor: Any) -> Iterator[Array]:
        import tensorflow as tf

        starts = predictors.piece_starts_of(tensor)
        if len(starts) == 1:
            (value,) = self.model.prune([], [tensor.name])()
            yield tensor_file.as_array(value.numpy())
            return
        with tensor.graph.as_default():
            first, last = (tf.compat.v1.placeholder(tf.int64, ()) for _ in range(2))
            piece = tensor[first:last]
        read = self.model.prune([first.name, last.name], [piece.name])
        for start, end in pairwise([*starts, tensor.shape[0]]):
            (value,) = read(tf.constant(start, tf.int64), tf.constant(end, tf.int64))
            yield tensor_file.as_array(value.numpy())


@contextmanager
def loaded_v2(folder: Path, options: SessionOptions) -> Iterator[FunctionPredictor]:
    """Open the SavedModel by `tf.saved_model.load`. Raises DamagedError if the loader refuses it."""
    import tensorflow as tf

    predictors.eager(options)
    try:
        model = tf.saved_model.load(str(literal_path.literal(folder)), tags=[SERVE])
    except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise unloadable(folder, error) from None
    yield FunctionPredictor(model, signatures(folder))


def signatures(folder: Path) -> list[Signature]:
    """Return the signatures that the SavedModel declares, read from its proto without loading it."""
    return signatures_in(meta_graph(folder).signature_def)


def constants(folder: Path) -> list[TensorFact]:
    """Yield the constants that its signatures read, from its proto."""
    meta = meta_graph(folder)
    targets = [info.name for definition in meta.signature_def.values() for info in definition.outputs.values()]
    assets = [Asset(filename=entry.filename, tensor=entry.tensor_info.name, sha256="") for entry in meta.asset_file_def]
    try:
        return list(graphs.Graph(meta.graph_def).constants([target for target in targets if target], assets))
    except PipelineError as error:  # a signature or a node that reads what is not there
        raise unloadable(folder, error) from None


def meta_graph(folder: Path) -> Any:
    """Read its MetaGraphDef for serving without loading it. Raises DamagedError."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except (DecodeError, OSError) as error:
        raise unloadable(folder, error) from None
    tags = [" ".join(sorted(set(meta.meta_info_def.tags))) for meta in model.meta_graphs]
    if tags.count(SERVE) != 1:
        found = f"{len(tags)}: {'; '.join(tags) or '-'}"
        raise DamagedError(str(folder), f"one MetaGraph with the tag {SERVE}", found, "export it again.")
    return model.meta_graphs[tags.index(SERVE)]


def require_fingerprint(folder: Path) -> None:
    """Hold a SavedModel against its `fingerprint.pb`, which TensorFlow writes since 2.12.

    Its checksum is of the whole graph; that of the variables' index is of one definition only within a version of the
    format (tensorflow/cc/saved_model/fingerprinting.cc).

    Raises:
        DamagedError: the graph, or the index of the variables, is not the one that was saved with it.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import fingerprint_pb2
    from tensorflow.python.saved_model.pywrap_saved_model import (
        fingerprinting,
    )  # private, and the only one that computes

    file = folder / "fingerprint.pb"
    if not file.is_file() or not (folder / "saved_model.pb").is_file():
        return
    try:
        written = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
    except DecodeError:
        raise DamagedError(str(file), "a fingerprint", "bytes of another kind", _WITHOUT_FINGERPRINT) from None
    try:
        here = fingerprint_pb2.FingerprintDef.FromString(fingerprinting.CreateFingerprintDef(str(folder)))
    except fingerprinting.FingerprintException:
        return  # a model that cannot be read, as whoever reads it will say
    compared = {"saved_model.pb": (written.saved_model_checksum, here.saved_model_checksum)}
    if written.version.producer == here.version.producer:
        compared["variables/variables.index"] = (written.checkpoint_hash, here.checkpoint_hash)
    for name, (then, now) in compared.items():
        if then != now:
            found = f"the hash {now:016x}, where {then:016x} was written into fingerprint.pb with it"
            raise DamagedError(str(folder / name), "the file that was saved", found, _WITHOUT_FINGERPRINT)


def bundle_values(folder: Path) -> list[TensorFact]:
    """Yield the values of the variables as stored on disk, read without loading the model."""
    prefix = folder / "variables" / "variables"
    return saver.tensor_table(prefix) if prefix.with_name("variables.index").exists() else []


def declared_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of each tensor in the index of the variables, by key; none without one."""
    prefix = folder / "variables" / "variables"
    if not prefix.with_name("variables.index").exists():
        return {}
    checkpoint = saver.reader(prefix)
    shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    return {key: (dtypes[key].base_dtype.name, tuple(shape)) for key, shape in shapes.items()}


def loaded_values(folder: Path, options: SessionOptions) -> list[TensorFact]:
    """Yield the values with which a server computes: those of each variable that the outputs read, by its operation's name,
    after TensorFlow Serving's loader has restored and has run the main op.

    A variable that was never written has the dtype `uninitialised`, one inside a function, which cannot be read, `hidden`.

    Raises:
        DamagedError: the loader refuses it.
        EnvironmentFailure: this machine cannot load it at present.
    """
    with session_of(folder, [SERVE], options) as (session, meta):
        definitions = meta.signature_def.values()
        outputs = [info.name for definition in definitions for info in definition.outputs.values() if info.name]
        graph_def = session.graph.as_graph_def()
        readers = graph_variables.read_tensors(session.graph, sorted(graphs.Graph(graph_def).variables(outputs)))
        found = list(SessionPredictor("", session, (), readers).values())
        inside = (
            name
            for name, node in graphs.Graph(graph_def).reached_nodes(outputs).items()
            if "@" in name and node.op in graphs.VARIABLE_OPS
        )
        return found + [TensorFact(name=name, dtype="hidden", shape=(), sha256="") for name in inside]


def signatures_in(definitions: Any) -> list[Signature]:
    """Return a map of SignatureDefs as records, without TF2's internal entries."""
    return [_signature(key, definitions[key]) for key in sorted(definitions) if not key.startswith("__saved_model")]


def _signature(key: str, definition: Any) -> Signature:
    return Signature(
        key=key,
        method=Method(definition.method_name),
        inputs={name: _spec(info) for name, info in definition.inputs.items()},
        outputs={name: _spec(info) for name, info in definition.outputs.items()},
    )


def _spec(info: Any) -> TensorSpec:
    import tensorflow as tf

    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
    return TensorSpec(tensor=info.name, dtype=tf.dtypes.as_dtype(info.dtype).name, shape=sizes)


def unloadable(folder: Path, error: Exception) -> PipelineError:
    """Return the error for a SavedModel that a loader refuses: DamagedError, or EnvironmentFailure if the machine did."""
    if transient(error):
        return failure(error, str(folder))
    # A failed restore is told as a change of the graph, and why it failed after these words (training/saver.py).
    said = str(error).partition("Original error:")[2].strip() or str(error)
    found = f"{type(error).__name__}: {said.splitlines()[0][:300] if said else ''}"
    remedy = "export it again; a loader that refuses it here will refuse it in production."
    return DamagedError(str(folder), "a SavedModel that loads", found, remedy)
