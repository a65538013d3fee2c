"""A loaded SavedModel: one session over its graph, loaded and run as the real server does.

Steps of loading: tensorflow/cc/saved_model/loader.cc (graph, restore, then the main op that initialises tables) and
tensorflow_serving/servables/tensorflow/session_bundle_util.cc (the check of a SavedModel directory).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tasks.forms import wire_format
from tasks.graphs.protos import MetaGraphDef, SaverDef
from tasks.serving.embedded import log
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.tensors import Array
from tasks.serving.protos import SignatureDef

_INIT_SIGNATURE = "__saved_model_init_op"
_MAIN_OPS = ("saved_model_main_op", "legacy_init_op")
_ASSETS = "saved_model_assets"


class Servable(Protocol):
    """A model that answers. Safe to run from many threads at once."""

    @property
    def signatures(self) -> Mapping[str, SignatureDef]:
        """Every SignatureDef by key, the loader's own `__saved_model_init_op` included, as the real server reports."""
        ...

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
        """Feed tensors by graph name, fetch tensors by graph name.

        Raises:
            ServingError: the session's error, with its own message; DEADLINE_EXCEEDED after `timeout_ms`.
        """
        ...

    def close(self) -> None:
        """Free the model. No run may be in progress or follow."""
        ...


@dataclass(frozen=True)
class LoadOptions:
    """Options for loading SavedModels; 0 threads is TensorFlow's choice."""

    tags: frozenset[str] = frozenset({"serve"})
    intra_op_threads: int = 0
    inter_op_threads: int = 0


class SessionServable:
    """A servable with one session."""

    def __init__(self, session: Any, signatures: Mapping[str, SignatureDef]) -> None:
        self._session = session
        self.signatures = signatures

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int | None = None) -> list[Array]:
        """Do as `Servable.run`."""
        return _run(self._session, feeds, fetches, [], timeout_ms)

    def close(self) -> None:
        """Do as `Servable.close`: free the session and its graph."""
        self._session.close()
        self._session = None
        gc.collect()  # a graph and its operations refer to each other, and hold the model's memory


def load(path: Path, options: LoadOptions) -> Servable:
    """Load the SavedModel in a version directory.

    As in the real server, a SavedModel without `variables.index` is one without variables: nothing is restored, and
    where the graph has variables after all, requests fail, or the warmup does.

    Raises:
        ServingError: a step failed, with its code and message.
    """
    import tensorflow as tf

    meta_graph = _meta_graph(path, options.tags)
    log.info(f"Reading SavedModel from: {path}")
    graph = tf.Graph()
    with _serving_errors(), graph.as_default():
        producer_ops = meta_graph.meta_info_def.stripped_op_list
        tf.graph_util.import_graph_def(
            meta_graph.graph_def, name="", producer_op_list=producer_ops if producer_ops.op else None
        )
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads, inter_op_parallelism_threads=options.inter_op_threads
    )
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with _serving_errors():
            session._extend_graph()  # private: hands the imported graph to the runtime, as every Session.run does first
        assets = _asset_feeds(path, meta_graph)
        if (path / "variables" / "variables.index").exists():
            _restore(session, path, meta_graph.saver_def, assets)
        initialiser = _initialiser(path, meta_graph)
        if initialiser:
            _run(session, assets, [], [initialiser])
    except BaseException:
        session.close()
        raise
    return SessionServable(session, dict(meta_graph.signature_def))


def _meta_graph(path: Path, tags: frozenset[str]) -> MetaGraphDef:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    if not file.is_file():
        raise ServingError(
            Code.NOT_FOUND,
            "Specified file path does not appear to contain a SavedModel bundle"
            f" (should have a file called `saved_model.pb`)\nSpecified file path: {path}",
        )
    content = file.read_bytes()
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(content)
    except DecodeError:
        # `ReadBinaryProto` (tensorflow/core/platform/env.cc) reports the failed read, if one failed, and else the parser.
        if wire_format.is_cut(content):
            raise ServingError(Code.OUT_OF_RANGE, "Read less bytes than requested") from None
        raise ServingError(Code.DATA_LOSS, f"Can't parse {file} as binary proto") from None
    meta_graphs: Sequence[MetaGraphDef] = saved_model.meta_graphs
    for meta_graph in meta_graphs:
        if frozenset(meta_graph.meta_info_def.tags) == tags:
            return meta_graph
    raise ServingError(
        Code.NOT_FOUND,
        f"Could not find meta graph def matching supplied tags: {{ {' '.join(sorted(tags))} }}. To inspect available"
        " tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
    )


def _asset_feeds(path: Path, meta_graph: MetaGraphDef) -> dict[str, Array]:
    """Return the path of each asset file by the tensor that holds it; SavedModels may be moved, so paths are fed."""
    from tensorflow.core.protobuf import meta_graph_pb2

    feeds: dict[str, Array] = {}
    asset_files = list(meta_graph.asset_file_def)
    if not asset_files and _ASSETS in meta_graph.collection_def:  # where writers before 2.0 put them
        for packed in meta_graph.collection_def[_ASSETS].any_list.value:
            asset = meta_graph_pb2.AssetFileDef()
            packed.Unpack(asset)
            asset_files.append(asset)
    for asset in asset_files:
        feeds[asset.tensor_info.name] = _string(str(path / "assets" / asset.filename))
    return feeds


def _restore(session: Any, path: Path, saver: SaverDef, assets: Mapping[str, Array]) -> None:
    prefix = _string(str(path / "variables" / "variables"))
    _run(session, {**assets, saver.filename_tensor_name: prefix}, [], [saver.restore_op_name])


def _initialiser(path: Path, meta_graph: MetaGraphDef) -> str | None:
    """Return the op to run once after restoring, by the order of `GetInitOp`."""
    if _INIT_SIGNATURE in meta_graph.signature_def:
        name: str = meta_graph.signature_def[_INIT_SIGNATURE].outputs[_INIT_SIGNATURE].name
        return name
    for collection in _MAIN_OPS:
        if collection in meta_graph.collection_def:
            names = meta_graph.collection_def[collection].node_list.value
            if len(names) != 1:
                raise ServingError(Code.FAILED_PRECONDITION, f"Expected exactly one main op in : {path}")
            return str(names[0])
    return None


def _string(text: str) -> Array:
    return np.array(text.encode(), dtype=object)


def _run(
    session: Any,
    feeds: Mapping[str, Array],
    fetches: Sequence[str],
    targets: Sequence[str],
    timeout_ms: int | None = None,
) -> list[Array]:
    """Run one step below `Session.run`.

    `Session.run` checks shapes, which the real server does not, and rewrites the runtime's messages. Hence the private
    calls, which `Session.run` itself makes (tensorflow/python/client/session.py, 2.21).
    """
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.client import pywrap_tf_session

    graph = session.graph
    options = None
    with _serving_errors():
        fed = {_fed(graph, name)._as_tf_output(): value for name, value in feeds.items()}
        fetched = [_fetched(graph, name)._as_tf_output() for name in fetches]
        ops = [graph.get_operation_by_name(name.removesuffix(":0"))._c_op for name in targets]
        try:
            if timeout_ms is not None:
                run_options = config_pb2.RunOptions(timeout_in_ms=max(1, timeout_ms))
                options = pywrap_tf_session.TF_NewBufferFromString(run_options.SerializeToString())
            outputs = session._call_tf_sessionrun(options, fed, fetched, ops, None)
            # A scalar string comes as `bytes`.
            return [np.asarray(output, object) if isinstance(output, bytes) else output for output in outputs]
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)


def _fed(graph: Any, name: str) -> Any:
    """Find a tensor to feed, with the errors of `FeedInputs` (tensorflow/core/graph/subgraph.cc)."""
    outputs, index = _outputs(graph, name)
    if outputs is None:
        raise ServingError(Code.NOT_FOUND, f"FeedInputs: unable to find feed output {name}")
    if index >= len(outputs):
        raise invalid(f"FeedInputs: {name} should have output index < {len(outputs)}")
    return outputs[index]


def _fetched(graph: Any, name: str) -> Any:
    """Find a tensor to fetch, with the errors of `FetchOutputs` (tensorflow/core/graph/subgraph.cc)."""
    outputs, index = _outputs(graph, name)
    if outputs is None:
        raise ServingError(Code.NOT_FOUND, f"FetchOutputs node {name}: not found")
    if not outputs:
        raise invalid(
            f"Tried to fetch data for '{name}', which produces no output.  To run to a node but not fetch any data,"
            f" pass '{name}' as an argument to the 'target_node_names' argument of the Session::Run API."
        )
    if index >= len(outputs):
        raise invalid(f"FetchOutputs {name}: output index too large, must be < {len(outputs)}")
    return outputs[index]


def _outputs(graph: Any, name: str) -> tuple[Sequence[Any] | None, int]:
    """Return the outputs of the operation in a tensor's name, or None, and the index in it, 0 without one."""
    operation, colon, index = name.rpartition(":")
    if not colon or not index.isdecimal():
        operation, index = name, "0"
    try:
        return graph.get_operation_by_name(operation).outputs, int(index)
    except (KeyError, ValueError):
        return None, 0


@contextmanager
def _serving_errors() -> Iterator[None]:
    """Raise TensorFlow's errors as `ServingError`s with the same code and message."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise ServingError(Code(error.error_code), error.message) from error
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(str(error)) from error
