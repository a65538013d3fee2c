"""Forms that only live objects have: written from a checkpoint's values, proven in a fresh child, adopted again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import isolate
from tasks.adopt import adopt
from tasks.artifact_views import Pinned
from tasks.artifacts.store import Artifact
from tasks.checkpoint import checkpoint
from tasks.convert import convert
from tasks.errors import CoverageError, ParityError, UnsafeGraph, UsageError
from tasks.forms import object_checkpoint
from tasks.forms.detect import detect
from tasks.records.adoption import ModelFiles, ModelOptions, ProbeSource
from tasks.records.baseline import Baseline
from tasks.records.forms import Form, Target
from tasks.records.parity import ParityReport
from tasks.records.settings import SaverPolicy, Selection, SessionOptions, Training
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.tensors import tensor_file
from tasks.train import train
from tasks.training import rebuild
from tasks.training.rebuild import Origin
from tasks.user_code.source import ModelSource
from tests.forms import object_calls
from tests.makers import objects
from tests.makers.tolerance import DECLARED

MODELS = Path(__file__).parents[1] / "makers"
FLOWERS = ModelSource(name="flowers", module="keras_flowers", attribute="Flowers", folder=MODELS)
LINE = ModelSource(name="line", module="module_line", attribute="Line", folder=MODELS)
TF1 = ModelSource(name="small", module="small_model", attribute="Line", folder=MODELS)
DOUBLING = LINE.model_copy(update={"name": "doubling", "attribute": "Doubling"})
TOLERANCE = DECLARED
OBJECTS, KERAS = Target.OBJECT_CHECKPOINT, Target.KERAS


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with `mine.py`."""
    folder = tmp_path / "own"
    folder.mkdir()
    objects.write_code(folder)
    return folder


def mine(folder: Path, attribute: str) -> ModelSource:
    return ModelSource(name="mine", module="mine", attribute=attribute, folder=folder)


def trained(source: ModelSource, **hyperparameters: Any) -> Artifact:
    steps = None if source in (FLOWERS, LINE, TF1) else 0
    return train(source, Training(steps=steps, hyperparameters=hyperparameters, saver=SaverPolicy(every_steps=20)))


def adopted(path: Path, code: ModelSource | None, probe: ProbeSource | None = None) -> Artifact:
    return adopt(ModelFiles(name="again", path=path), ModelOptions(), probe or ProbeSource(), SessionOptions(), code)


def probe_of(run: Artifact, out: Path) -> ProbeSource:
    """What a run was asked, to ask another the same."""
    np.savez(out / "probe.npz", **tensor_file.read_tensors(run.path / "probe.tensors"))
    return ProbeSource(file=out / "probe.npz")


def converted(made: Artifact, to: Target, code: ModelSource | None, path: Path | None = None) -> Artifact:
    found = checkpoint(made, Selection())
    verified = restore_verify(found, made, TOLERANCE)
    files = ModelFiles(name="again", path=path) if path is not None else None
    return convert(found, verified, made, (to,), files, code, TOLERANCE)


def reported(artifact: Artifact) -> ParityReport:
    return ParityReport.model_validate_json((artifact.path / "parity.json").read_bytes())


def outputs(run: Artifact) -> dict[str, bytes]:
    """The newest baseline's outputs on the whole probe, bit for bit."""
    path = max((run.path / "baselines").glob("*.tensors"), key=lambda path: int(path.stem))
    return {name: tensor_file.as_bytes(array) for name, array in tensor_file.read_tensors(path).items()}


def not_made(artifact: Artifact) -> str:
    (row,) = reported(artifact).rows
    assert row.passed is None
    assert {path.name for path in artifact.path.iterdir()} == {"manifest.json", "parity.json"}
    return row.note


@pytest.mark.parametrize("source", [FLOWERS, LINE], ids=lambda source: source.name)
def test_a_trained_object_is_written_as_its_checkpoint_and_adopted_again_equal(run: Run, source: ModelSource) -> None:
    made = trained(source)
    written = converted(made, OBJECTS, source)
    report = reported(written)
    assert report.passed
    assert {row.test.value for row in report.rows} == {"values", "exact", "structure"}
    folder = written.path / "object_checkpoint"
    found = detect(folder)
    assert (found.form, found.path.name) == (Form.OBJECT_CHECKPOINT, "model.ckpt-40")
    again = adopted(folder, source)
    assert outputs(again) == outputs(made)
    twice = converted(again, OBJECTS, source, folder)
    values = [
        {entry.key: entry.value.sha256 for entry in isolate.call(object_checkpoint.table, detect(path).path)}
        for path in (folder, twice.path / "object_checkpoint")
    ]
    assert values[0] == values[1]


def test_an_earlier_step_is_written_with_that_steps_values(run: Run) -> None:
    made = trained(LINE)
    found = checkpoint(made, Selection(which=20))
    verified = restore_verify(found, made, TOLERANCE)
    written = convert(found, verified, made, (OBJECTS,), None, LINE, TOLERANCE).path / "object_checkpoint"
    held = {entry.path: entry.value.sha256 for entry in isolate.call(object_checkpoint.table, detect(written).path)}
    wanted = {fact.sha256 for fact in Pinned(found.path).record().tensors}
    assert wanted == {held["model/w"], held["model/b"]}


def test_a_keras_model_trained_here_is_written_as_an_archive_that_needs_no_code(run: Run, tmp_path: Path) -> None:
    made = trained(FLOWERS)
    written = converted(made, KERAS, FLOWERS)
    assert reported(written).passed
    again = adopted(written.path / "keras" / "model.keras", None, probe_of(made, tmp_path))
    assert outputs(again) == outputs(made)


def test_weights_with_their_code_are_written_as_an_archive(run: Run, own: Path) -> None:
    """`Signed` without its signature is plain Keras: the README's way to bring weights alone."""
    (own / "plain.py").write_text((MODELS / "user_objects.py").read_text())
    code = ModelSource(name="plain", module="plain", attribute="Network", folder=own)
    isolate.call(objects.save_plain_weights, own)
    made = adopted(own / "model.weights.h5", code)
    written = converted(made, KERAS, code, own / "model.weights.h5")
    assert reported(written).passed
    assert outputs(adopted(written.path / "keras", None, probe_of(made, own))) == outputs(made)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_keras_file_without_code_is_written_as_an_object_checkpoint(run: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    isolate.call(object_calls.save, "cnn", path)
    made = adopted(path, None)
    written = converted(made, OBJECTS, None, path)
    report = reported(written)
    assert report.passed and {row.test.value for row in report.rows} == {"values", "exact", "structure"}
    assert isolate.call(object_calls.restored_as_saved, "cnn", detect(written.path / "object_checkpoint").path)


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        (DOUBLING, OBJECTS, "a graph function stands alone"),
        (LINE, KERAS, "Keras writes its own models, and this is a Affine"),
        (TF1, OBJECTS, "small_model:Line builds a TF1 graph, and no live object"),
        (TF1, KERAS, "small_model:Line builds a TF1 graph, and no live object"),
    ],
    ids=["function", "module", "graph", "graph as keras"],
)
def test_what_has_no_such_form_is_a_row_that_says_why(run: Run, source: ModelSource, to: Target, message: str) -> None:
    assert f"not made: {message}" in not_made(converted(trained(source), to, source))


@pytest.mark.parametrize(
    ("attribute", "to", "message"),
    [
        ("Custom", KERAS, "Python class unknown: mine.Doubling"),
        ("Signed", KERAS, "this model has some of its own"),
        ("Hidden", OBJECTS, "no attribute of the object leads to loose"),
    ],
)
def test_what_a_form_cannot_hold_is_a_row_that_says_why(
    run: Run, own: Path, attribute: str, to: Target, message: str
) -> None:
    source = mine(own, attribute)
    assert message in not_made(converted(trained(source), to, source))


def test_a_graph_that_was_brought_has_no_objects(run: Run, tmp_path: Path) -> None:
    from tests.makers import inspected_files

    isolate.call(inspected_files.checkpoint, tmp_path / "model.ckpt")
    given = ModelOptions(inputs=("x:0",), outputs=("y:0",))
    made = adopt(ModelFiles(name="a", path=tmp_path), given, ProbeSource(), SessionOptions(), None)
    for to in (OBJECTS, KERAS):
        assert "and this is Saver checkpoint V2, without code" in not_made(converted(made, to, None, tmp_path))


def test_code_is_built_as_it_was_trained(run: Run, own: Path) -> None:
    source = mine(own, "Ungrown")
    assert reported(converted(trained(source, width=5), OBJECTS, source)).passed


def test_what_code_draws_anew_in_each_process_is_in_no_checkpoint(run: Run, own: Path) -> None:
    source = mine(own, "Drawn")
    with pytest.raises(ParityError, match="object_checkpoint differs"):
        converted(trained(source), OBJECTS, source)


@pytest.mark.parametrize("key", ["model/w/", "model/b/"])
def test_another_value_in_what_was_written_is_found(run: Run, tmp_path: Path, key: str) -> None:
    """One unit in the last place; and in the other form of the same fault, a checkpoint of other variables."""
    made = trained(LINE)
    folder = tmp_path / "written"
    shutil.copytree(converted(made, OBJECTS, LINE).path / "object_checkpoint", folder)
    origin = Origin(code=LINE)
    proof = (rebuild.prove_checkpoint, "object_checkpoint", origin, folder, made.path, 40, TOLERANCE)
    assert isolate.call(*proof).passed
    held = Baseline.model_validate_json((made.path / "baselines" / "40.json").read_bytes()).variables
    names = {variable.value.sha256: variable.name for variable in held}
    table = isolate.call(object_checkpoint.table, detect(folder).path)
    named = {f"{entry.path}/": names.get(entry.value.sha256) for entry in table}
    isolate.call(objects.spoil, folder, key, 2e-7)
    report = isolate.call(*proof)
    assert {row.output for row in report.failures if row.test.value == "values"} == {named[key]}
    with pytest.raises(CoverageError):
        other = Origin(code=FLOWERS)
        isolate.call(rebuild.prove_checkpoint, "object_checkpoint", other, folder, made.path, 40, TOLERANCE)


def test_a_restore_that_does_nothing_is_found(run: Run) -> None:
    made = trained(LINE)
    folder = converted(made, OBJECTS, LINE).path / "object_checkpoint"
    for way in ("restore", "restore_by_tensorflow"):
        report = isolate.call(objects.proven_without, way, LINE, folder, made.path, 40)
        assert report.failures


def test_a_changed_model_is_written_again(run: Run, own: Path) -> None:
    made = trained(mine(own, "Custom"))
    found = checkpoint(made, Selection())
    verified = restore_verify(found, made, TOLERANCE)
    arguments = (found, verified, made, (OBJECTS,), None, mine(own, "Custom"), TOLERANCE)
    before = convert.recipe(*arguments)[0].key
    assert convert.recipe(*arguments)[0].key == before
    (own / "mine.py").write_text((own / "mine.py").read_text() + "\n# other code\n")
    assert convert.recipe(*arguments)[0].key != before
    plain = (found, verified, made, (Target.SAVER_V2,), None, mine(own, "Custom"), TOLERANCE)
    key = convert.recipe(*plain)[0].key
    (own / "mine.py").write_text((own / "mine.py").read_text() + "\n# other code again\n")
    assert convert.recipe(*plain)[0].key == key


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("attribute", ["Custom", "Compiled"])
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_with_a_class_of_the_users_own_is_adopted_with_its_code(
    run: Run, own: Path, name: str, attribute: str, fitted: bool
) -> None:
    answers = isolate.call(objects.save, own, "model", name, fitted)
    made = adopted(own / name, mine(own, attribute))
    (found,) = [array for key, array in _arrays(made).items() if not key.startswith("/")]
    np.testing.assert_array_equal(found, np.array(answers, np.float32))
    assert reported(converted(made, OBJECTS, mine(own, attribute), own / name)).passed


def _arrays(run: Artifact) -> dict[str, Any]:
    (path,) = (run.path / "baselines").glob("*.tensors")
    return tensor_file.read_tensors(path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Other", r"activation: expected 'relu', found 'tanh' in the code"),
        ("Wired", "in the code"),
        ("Ungrown", "in the code"),
    ],
)
def test_code_of_another_model_than_the_files_is_refused(
    run: Run, own: Path, name: str, attribute: str, message: str
) -> None:
    """Its weights fit, and its answers would be another model's."""
    isolate.call(objects.save, own, "model", name)
    with pytest.raises(CoverageError, match=message):
        adopted(own / name, mine(own, attribute))


def test_an_archive_that_brings_more_than_weights_is_not_opened_by_code(run: Run, own: Path) -> None:
    isolate.call(objects.save, own, "lookup", "model.keras")
    with pytest.raises(UsageError, match="further files: assets/"):
        adopted(own / "model.keras", mine(own, "Lookup"))


def test_code_without_a_keras_model_takes_no_archive(run: Run, own: Path) -> None:
    isolate.call(objects.save, own, "model", "model.keras")
    with pytest.raises(UsageError, match="a Keras model from the code"):
        adopted(own / "model.keras", mine(own, "NoModel"))


def test_an_archives_structure_is_looked_at_before_code_reads_it(run: Run, own: Path) -> None:
    import zipfile

    isolate.call(objects.save, own, "model", "model.keras")
    with zipfile.ZipFile(own / "model.keras", "a") as archive:
        archive.writestr("../evil", "{}")
    with pytest.raises(UnsafeGraph, match="leads out"):
        adopted(own / "model.keras", mine(own, "Custom"))
