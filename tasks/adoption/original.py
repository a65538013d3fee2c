"""A model as it was brought: its graph read from its file, and opened by TensorFlow's own loader of its form.

What is opened here is the original that every other form is compared with: nothing in it is rewritten beyond what
importing an old graph takes. Pins and cut inputs are fed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.adoption import flatten, option_use
from tasks.errors import ChildFailed, DamagedError, UsageError
from tasks.forms import detect, file_signature, frozen_graph, saved_model, saver
from tasks.graphs import constant_folding, rewrite
from tasks.graphs import variables as graph_variables
from tasks.graphs.variables import Slice
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import Asset, GraphNames, Signature
from tasks.tensors.tensor_file import Array, Tensors

WITH_GRAPH = (Form.SAVER_V2, Form.SAVER_V1, Form.META_GRAPH, Form.GRAPH_DEF, Form.SAVED_MODEL)


def graph(found: Found, given: ModelOptions) -> Any:
    """The MetaGraphDef of a brought model, as it was saved but importable here; for a GraphDef one that holds only it.

    Importing it runs nothing (`unfolded`).

    Raises:
        UsageError: the form holds no graph and none is given, or several and none is chosen.
        DamagedError: the file is cut, or no such message.
    """
    if found.form is Form.SAVED_MODEL:
        return _importable(_of_saved_model(found.path, given))
    if found.form in (Form.META_GRAPH, Form.GRAPH_DEF):
        return _importable(_of_file(found.path, found.form))
    if given.graph is not None:
        brought = option_use.graph_of(found, given)
        if brought.form not in (Form.META_GRAPH, Form.GRAPH_DEF, Form.SAVED_MODEL):
            raise UsageError("--graph", "a GraphDef or a MetaGraphDef", brought.form.value, "give the graph's file.")
        return graph(brought, given)
    if found.meta is not None:
        return _importable(_of_file(found.meta, Form.META_GRAPH))
    what = "Python code" if found.form is Form.OBJECT_CHECKPOINT else "its graph"
    remedy = "give the model's code: --model module:Model" + (
        "." if found.form is Form.OBJECT_CHECKPOINT else ", or its GraphDef: --graph FILE."
    )
    raise UsageError(str(found.path), f"{what} beside the values ({found.form.value})", "none", remedy)


def _of_saved_model(folder: Path, given: ModelOptions) -> Any:
    path, sets = _sets(folder)
    wanted = frozenset(given.tags or ([saved_model.SERVE] if len(sets) > 1 else next(iter(sets))))
    if wanted not in sets:
        expected, remedy = f"tags {_tags(wanted)}", "choose one of these sets: --tags A,B."
        facts = {"tags": sorted(sorted(tags) for tags in sets)}
        raise UsageError(str(path), expected, "; ".join(map(_tags, sets)), remedy, facts)
    return sets[wanted]


def tag_notes(folder: Path, taken: Any) -> tuple[str, ...]:
    """What there is to say of the tags of the MetaGraph that was taken of a SavedModel, and of others beside it."""
    tags = frozenset(taken.meta_info_def.tags)
    others = "; ".join(_tags(other) for other in _sets(folder)[1] if other != tags)
    odd = f"its MetaGraph has the tags {_tags(tags)}, where a server looks for {saved_model.SERVE}"
    notes = (
        odd if tags != {saved_model.SERVE} else "",
        f"MetaGraphs of other tags are left out: {others}" * bool(others),
    )
    return tuple(note for note in notes if note)


def _tags(tags: Iterable[str]) -> str:
    return ",".join(sorted(tags)) or "(none)"


def _sets(folder: Path) -> tuple[Path, dict[frozenset[str], Any]]:
    """A SavedModel's file, and its MetaGraphDefs by their tags."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = next(folder / name for name in detect.SAVED_MODEL if (folder / name).is_file())
    held = _parsed(path, saved_model_pb2.SavedModel, text=path.suffix == ".pbtxt").meta_graphs  # as a loader does
    if not held:
        remedy = "export the model again."
        raise DamagedError(str(path), "a SavedModel with a MetaGraphDef", "0 MetaGraphDefs", remedy)
    sets: dict[frozenset[str], Any] = {}
    for meta in held:  # a loader takes the first of a set (tensorflow/python/saved_model/loader_impl.py)
        if sets.setdefault(frozenset(meta.meta_info_def.tags), meta) is not meta:
            found, remedy = f"two of {_tags(set(meta.meta_info_def.tags))}", "export the model again."
            raise DamagedError(str(path), "one MetaGraphDef of each set of tags", found, remedy)
    return path, sets


def _of_file(path: Path, form: Form) -> Any:
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef()
    if form is Form.META_GRAPH:
        meta = _parsed(path, meta_graph_pb2.MetaGraphDef)
    else:
        meta.graph_def.CopyFrom(_parsed(path, graph_pb2.GraphDef))
        if path.name == frozen_graph.GRAPH and (names := path.with_name(frozen_graph.NAMES)).is_file():
            _declare(meta, _ours(names))
    if not meta.graph_def.node:
        raise DamagedError(str(path), f"a {form.value} with nodes", "none", "give a whole file.")
    return meta


def _declare(meta: Any, names: GraphNames) -> None:
    """What a graph that we froze cannot say of itself: its signatures, and what fills its tables from which files."""
    rewrite.declare(meta, names.signatures)
    if names.table_init:
        meta.collection_def["table_initializer"].node_list.value.append(names.table_init)
    for asset in names.assets:
        meta.asset_file_def.add(filename=asset.filename).tensor_info.name = asset.tensor


def _ours(names: Path) -> GraphNames:
    """What we wrote beside a graph that we froze."""
    try:
        return GraphNames.model_validate_json(names.read_bytes())
    except ValidationError as error:
        found = f"{error.error_count()} things that are not so, the first {error.errors()[0]['msg']}"
        remedy = "freeze again, or take the graph from this folder and give --input and --output."
        raise DamagedError(str(names), "the signatures of the graph beside it", found, remedy) from None


def _parsed(path: Path, message_class: Any, *, text: bool | None = None) -> Any:
    """A message from its binary or its text form; which, its first bytes say if nobody else does."""
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError

    content = path.read_bytes()
    message = message_class()
    try:
        if any(pattern.match(content[:4096]) for pattern, _ in file_signature.TEXT) if text is None else text:
            return text_format.Parse(content.decode(), message)
        message.ParseFromString(content)
    except (DecodeError, text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        words = str(error).split("\n")[0][:200]
        remedy = "restore the file from a backup: it is cut or changed."
        raise DamagedError(str(path), f"a whole {message_class.__name__}", words, remedy) from None
    return message


def _importable(meta: Any) -> Any:
    """Changed, in place, only as far as an old graph must be to be imported."""
    version = meta.meta_info_def.tensorflow_version
    if version and not re.fullmatch(r"\d+\.\d+\.\d+.*", version):
        meta.meta_info_def.tensorflow_version = ""  # `0.12.head` cannot be parsed, and stops an import
    rewrite.modernise(meta)
    constant_folding.guard(meta.graph_def)
    return meta


class OriginalPredictor(SessionPredictor):
    """The brought model in a session, with its pins fed in every call."""

    def __init__(
        self,
        form: str,
        session: Any,
        signatures: Iterable[Signature],
        named: Mapping[str, str],
        pins: Mapping[str, Array],
    ) -> None:
        super().__init__(form, session, signatures, named)
        self.pins = dict(pins)

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`. Raises UsageError or ChildFailed where the model does not take the inputs."""
        import tensorflow as tf

        try:
            return self.ask(signature, inputs, self.pins)
        except tf.errors.ResourceExhaustedError as error:
            remedy = "give fewer or smaller rows (--probe FILE), or run where there is more memory."
            raise ChildFailed(f"{self.form}, signature {signature}", "an answer", _said(error), remedy) from None
        except tf.errors.OpError as error:
            remedy = "give inputs that it takes: --probe FILE; if no inputs work, the file itself is broken."
            raise UsageError(
                f"{self.form}, signature {signature}", "an answer to the probe", _said(error), remedy
            ) from None


@contextmanager
def restored(
    form: str,
    meta: Any,
    prefix: Path | None,
    variables: Mapping[str, Slice],
    signatures: Iterable[Signature],
    pins: Mapping[str, Array],
    table_init: str | None,
    assets: Iterable[Asset],
    places: Mapping[str, Path],
    options: SessionOptions,
) -> Iterator[OriginalPredictor]:
    """A graph with its Saver (`flatten.with_saver`), restored from the brought files in a fresh session."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    imported = tf.Graph()
    with imported.as_default():
        try:
            saving = tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
        except (tf.errors.OpError, DecodeError, ValueError, TypeError, KeyError) as error:
            remedy = "save the model again, or restore its `.meta` from a backup."
            raise DamagedError(f"the graph of the {form}", "one that can be imported", _said(error), remedy) from None
    readers = graph_variables.read_tensors(imported, variables)
    # Closed, but not entered: an entered session's graph is the default one, where nothing eager is done.
    with closing(predictors.session(imported, options)) as session:
        if prefix is not None and variables:
            try:
                with imported.as_default():
                    saving.restore(session, saver.spelled(prefix))
            except (tf.errors.OpError, ValueError, KeyError) as error:
                raise _unreadable(prefix, error) from None
        if table_init is not None:
            feeds = {asset.tensor: str(places[asset.filename]) for asset in assets}
            try:
                session.run(imported.get_operation_by_name(table_init), feeds)
            except tf.errors.OpError as error:
                listed = ", ".join(map(str, places.values())) or "the graph's own constants"
                remedy = "give the file with which the model was trained."
                where, expected = f"a lookup table ({table_init})", f"one that {listed} fills"
                raise DamagedError(where, expected, _said(error), remedy) from None
        yield OriginalPredictor(form, session, signatures, readers, pins)


@contextmanager
def loaded(
    folder: Path,
    meta: Any,
    signatures: Iterable[Signature],
    pins: Mapping[str, Array],
    options: SessionOptions,
    *,
    reduced: bool = False,
) -> Iterator[OriginalPredictor]:
    """A SavedModel by the v1 loader, which TensorFlow Serving uses; with the graph of `meta` where that was `reduced`.

    Raises DamagedError where it refuses the model.
    """
    with ExitStack() as stack:
        try:
            # Of a guarded graph, loading the file's own would run something.
            changed = reduced or constant_folding.guarded(meta.graph_def)
            loadable = stack.enter_context(_rewritten(folder, meta)) if changed else folder
            session, _ = stack.enter_context(saved_model.session_of(loadable, meta.meta_info_def.tags, options))
        except DamagedError:
            if (folder / "variables").is_dir():
                saver.tensor_table(folder / "variables" / "variables")  # says which file it is, if it is one of these
            raise
        readers = graph_variables.read_tensors(session.graph, graph_variables.variable_facts(meta.graph_def))
        yield OriginalPredictor("SavedModel", session, signatures, readers, pins)


@contextmanager
def _rewritten(folder: Path, meta: Any) -> Iterator[Path]:
    """The SavedModel with another graph, which is read in the place of its own."""
    from tensorflow.core.protobuf import saved_model_pb2

    with tempfile.TemporaryDirectory() as scratch:
        for part in ("variables", "assets"):
            (Path(scratch) / part).symlink_to((folder / part).resolve())
        model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
        (Path(scratch) / detect.SAVED_MODEL[0]).write_bytes(model.SerializeToString())
        yield Path(scratch)


def _unreadable(prefix: Path, error: Exception) -> DamagedError:
    """The error for a checkpoint that cannot be restored: of the first tensor that cannot be read, if there is one."""
    try:
        saver.tensor_table(prefix)
    except DamagedError as damage:
        return damage
    return DamagedError(str(prefix), "a checkpoint that its graph restores", _said(error), "save the model again.")


def _said(error: Exception) -> str:
    """What TensorFlow says of an error, without the places in the code that met it."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    noise = ("Graph execution error", "Detected at node", "Node:", "Original stack trace", "Hint:")
    told = [line for line in lines if line and not line.startswith(noise)]
    return (told[0] if told else type(error).__name__)[:300]


def values_of(
    meta: Any, prefix: Path, given: ModelOptions, targets: Iterable[str]
) -> tuple[dict[str, Slice], Any | None, tuple[str, ...]]:
    """Which variables a checkpoint fills and from where, the SaverDef that does it if the graph has one, and notes.

    Raises:
        CoverageError: the outputs need a variable that is not there, or is of another dtype or shape.
        UsageError: the name map is wrong.
    """
    found, own = flatten.sources(meta, prefix, renamed(given.var_map))
    covered = saver.compared(meta.graph_def, found, prefix, targets)
    saver.require_coverage(covered, prefix)
    matched = {status.name for status in covered.variables if status.status == "matched"}
    missing = [status.name for status in covered.variables if status.status == "missing"]
    notes = []
    if missing:
        some = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
        notes.append(f"{len(missing)} variables are not in the checkpoint and not needed by the outputs: {some}")
    if covered.extra:
        some = ", ".join(covered.extra[:4]) + (", …" if len(covered.extra) > 4 else "")
        notes.append(f"{len(covered.extra)} tensors of the checkpoint have no variable in the graph: {some}")
    complete = own is not None and set(found) == matched
    return {name: source for name, source in found.items() if name in matched}, own if complete else None, tuple(notes)


def renamed(file: Path | None) -> dict[str, str]:
    """A name map, variable -> checkpoint's key. Raises UsageError where the file is none."""
    if file is None:
        return {}
    import yaml

    try:
        held = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        words = str(error).split("\n")[0]
        raise UsageError(f"--var-map {file}", "a YAML or JSON file", words, "give `variable: key` lines.") from None
    if not isinstance(held, dict) or not all(isinstance(part, str) for pair in held.items() for part in pair):
        raise UsageError(f"--var-map {file}", "names by name", type(held).__name__, "give `variable: key` lines.")
    return held
