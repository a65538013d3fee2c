"""A source model opened by TensorFlow's own loader of its form.

This is the original that every other form is compared with: nothing in it is rewritten beyond what importing an old
graph takes. Pins and cut inputs are fed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from tasks.adoption import flatten
from tasks.errors import ChildFailed, DamagedError, UsageError
from tasks.forms import detect, saved_model, saver
from tasks.graphs import constant_folding
from tasks.graphs import variables as graph_variables
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.variables import Slice
from tasks.parity import predictor as predictors
from tasks.parity.predictor import SessionPredictor
from tasks.records.adoption import ModelOptions
from tasks.records.settings import SessionOptions
from tasks.records.signature import Asset, Signature
from tasks.tensors.tensor_file import Array, Tensors


class SourcePredictor(SessionPredictor):
    """A source model in a session; its pins are fed in every call."""

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
        """See `Predictor`.

        Raises:
            UsageError: the model does not accept the inputs.
            ChildFailed: it runs out of memory.
        """
        import tensorflow as tf

        try:
            return self.ask(signature, inputs, self.pins)
        except tf.errors.ResourceExhaustedError as error:
            remedy = "give fewer or smaller rows (--probe FILE), or run where there is more memory."
            raise ChildFailed(f"{self.form}, signature {signature}", "an answer", _sentence(error), remedy) from None
        except tf.errors.OpError as error:
            remedy = (
                "the model may take only some inputs: `tfship probe PATH > probe.json` writes rows to correct, and "
                "--probe probe.json gives them."
            )
            at = f"{error.op.type} {error.op.name}: " if error.op is not None else ""
            raise UsageError(
                f"{self.form}, signature {signature}", "an answer to the probe", f"{at}{_sentence(error)}", remedy
            ) from None


@contextmanager
def restored(
    form: str,
    meta: MetaGraphDef,
    prefix: Path | None,
    variables: Mapping[str, Slice],
    signatures: Iterable[Signature],
    pins: Mapping[str, Array],
    table_init: str | None,
    assets: Iterable[Asset],
    places: Mapping[str, Path],
    options: SessionOptions,
) -> Iterator[SourcePredictor]:
    """Restore a graph with its Saver (`flatten.with_saver`) from the source model's checkpoint in a fresh session.

    Raises:
        DamagedError: the graph cannot be imported, the checkpoint not restored, or a lookup table not filled.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    imported = tf.Graph()
    with imported.as_default():
        try:
            saving = tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
        except (tf.errors.OpError, DecodeError, ValueError, TypeError, KeyError) as error:
            remedy = "save the model again, or restore its `.meta` from a backup."
            raise DamagedError(
                f"the graph of the {form}", "one that can be imported", _sentence(error), remedy
            ) from None
    readers = graph_variables.read_tensors(imported, variables)
    # Closed, but not entered: an entered session's graph is the default one, where nothing eager is done.
    with closing(predictors.session(imported, options)) as session:
        if prefix is not None and variables:
            try:
                with imported.as_default():
                    saving.restore(session, saver.readable(prefix))
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
                raise DamagedError(where, expected, _sentence(error), remedy) from None
        yield SourcePredictor(form, session, signatures, readers, pins)


@contextmanager
def loaded(
    folder: Path,
    meta: MetaGraphDef,
    signatures: Iterable[Signature],
    pins: Mapping[str, Array],
    options: SessionOptions,
    *,
    reduced: bool = False,
) -> Iterator[SourcePredictor]:
    """Load a SavedModel by the v1 loader, which TensorFlow Serving uses; with the graph of `meta` where that is `reduced`.

    Raises:
        DamagedError: the loader refuses the model.
    """
    with ExitStack() as stack:
        try:
            # Of a guarded graph, loading the file's own would run something.
            changed = reduced or constant_folding.guarded(meta.graph_def)
            loadable = stack.enter_context(_rewritten(folder, meta)) if changed else folder
            session, _ = stack.enter_context(saved_model.session_of(loadable, meta.meta_info_def.tags, options))
        except DamagedError:
            if (folder / "variables").is_dir():
                saver.tensor_table(folder / "variables" / "variables")  # its error names the file
            raise
        readers = graph_variables.read_tensors(session.graph, graph_variables.variable_facts(meta.graph_def))
        yield SourcePredictor("SavedModel", session, signatures, readers, pins)


@contextmanager
def _rewritten(folder: Path, meta: MetaGraphDef) -> Iterator[Path]:
    """Yield a copy of the SavedModel whose graph is `meta`."""
    from tensorflow.core.protobuf import saved_model_pb2

    with tempfile.TemporaryDirectory() as scratch:
        for part in ("variables", "assets"):
            (Path(scratch) / part).symlink_to((folder / part).resolve())
        model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[meta])
        (Path(scratch) / detect.SAVED_MODEL[0]).write_bytes(model.SerializeToString())
        yield Path(scratch)


def _unreadable(prefix: Path, error: Exception) -> DamagedError:
    """Return the error for a checkpoint that cannot be restored; it names the first tensor that cannot be read."""
    try:
        saver.tensor_table(prefix)
    except DamagedError as damage:
        return damage
    return DamagedError(str(prefix), "a checkpoint that its graph restores", _sentence(error), "save the model again.")


def _sentence(error: Exception) -> str:
    """Return the first line of TensorFlow's error that is neither a heading nor a place in the code."""
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines()]
    noise = ("Graph execution error", "Detected at node", "Node:", "Original stack trace", "Hint:")
    kept = [line for line in lines if line and not line.startswith(noise)]
    return (kept[0] if kept else type(error).__name__)[:300]


def values_of(
    meta: MetaGraphDef, prefix: Path, options: ModelOptions, targets: Iterable[str]
) -> tuple[dict[str, Slice], Any | None, tuple[str, ...]]:
    """Return where a checkpoint holds each variable, the graph's own SaverDef if it restores them all, and notes.

    Raises:
        CoverageError: a variable that the outputs need is missing, or has another dtype or shape.
        UsageError: the name map names a variable or a key that does not exist.
    """
    found, own = flatten.sources(meta, prefix, renamed(options.var_map))
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
    """Read a name map, variable -> checkpoint key.

    Raises:
        UsageError: the file is no such map.
    """
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
