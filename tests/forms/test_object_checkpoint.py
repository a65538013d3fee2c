"""Object-based checkpoints: their contents are listed, and all of a live object's variables are restored or none."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import CoverageError, DamagedError, UsageError
from tasks.forms import object_checkpoint
from tests.forms import object_calls

IRIS = Path(os.environ.get("TFSHIP_CORPUS", "../shared/corpus")).absolute() / "iris-2shard" / "model.ckpt"
corpus = pytest.mark.skipif(not IRIS.with_name("model.ckpt.index").exists(), reason=f"no corpus at {IRIS}")


@corpus
def test_the_table_tells_variables_from_an_optimisers_slots() -> None:
    entries = {entry.path: entry for entry in isolate.call(object_checkpoint.table, IRIS)}
    assert entries["layer-1/kernel"].full_name == "sequential/dense/kernel"
    assert entries["layer-1/kernel"].value.shape == (4, 128)
    assert entries["layer-1/kernel"].kind == "variable"
    assert entries["layer-1/kernel/.OPTIMIZER_SLOT/optimizer/m"].kind == "slot"


@corpus
def test_two_shards_written_by_keras_2_restore_a_model_of_keras_3() -> None:
    assert isolate.call(object_calls.restore_iris, IRIS) == pytest.approx([1.0] * 5, abs=1e-5)


@corpus
@pytest.mark.parametrize(
    ("classes", "layers", "message"),
    [
        (4, 2, r"2 of 4 variables(.|\n)*float32\[128, 4\] \(float32\[128, 3\]\)"),
        (3, 3, r"of 6 variables(.|\n)*dense_2/kernel float32\[128, 3\] \(missing\)"),
        (3, 1, r"2 of 2 variables(.|\n)*float32\[4, 3\] \(float32\[4, 128\]\)"),
    ],
    ids=["another width", "a layer more", "a layer less"],
)
def test_another_model_is_refused_with_the_list(classes: int, layers: int, message: str) -> None:
    with pytest.raises(CoverageError, match=message):
        isolate.call(object_calls.restore_iris, IRIS, classes, layers)


@corpus
@pytest.mark.parametrize("shard", [0, 1])
def test_a_missing_shard_is_damage(tmp_path: Path, shard: int) -> None:
    for path in IRIS.parent.glob("model.ckpt*"):
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / f"model.ckpt.data-0000{shard}-of-00002").unlink()
    with pytest.raises(DamagedError):
        isolate.call(object_calls.restore_iris, tmp_path / "model.ckpt")


@pytest.mark.parametrize(("kind", "extra"), [("itself", 1), ("model", 1), ("net", 10)])
def test_the_object_is_found_under_the_usual_roots(tmp_path: Path, kind: str, extra: int) -> None:
    prefix = Path(isolate.call(object_calls.write_checkpoint, tmp_path / "ckpt", kind))
    coverage = isolate.call(object_calls.restore_module, prefix)
    assert {status.status for status in coverage.variables} == {"matched"}
    assert sorted(status.name for status in coverage.variables) == ["heads/a", "layers/0", "layers/1"]
    assert len(coverage.extra) == extra
    entries = isolate.call(object_checkpoint.table, prefix)
    assert [entry.path for entry in entries if entry.kind == "counter"] == ["save_counter"]


def test_of_two_that_fit_neither_is_taken_unasked(tmp_path: Path) -> None:
    prefix = Path(isolate.call(object_calls.write_checkpoint, tmp_path / "ckpt", "two"))
    with pytest.raises(UsageError, match="'ema', 'model'"):
        isolate.call(object_calls.restore_module, prefix)
    for at in ("ema", "model"):
        isolate.call(object_calls.restore_module, prefix, at)


@pytest.mark.parametrize(
    ("size", "more", "message"), [(4, False, r"layers/0 float32\[4\]"), (3, True, r"more .*missing")]
)
def test_a_changed_or_missing_variable_is_refused_and_nothing_is_assigned(
    tmp_path: Path, size: int, more: bool, message: str
) -> None:
    prefix = Path(isolate.call(object_calls.write_checkpoint, tmp_path / "ckpt", "model"))
    with pytest.raises(CoverageError, match=message):
        isolate.call(object_calls.restore_module, prefix, None, size, more)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(isolate.call(object_calls.write_checkpoint, tmp_path_factory.mktemp("written") / "ckpt", "net"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.booleans(), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_flipped_bits_and_cut_ends_are_refused_or_change_nothing(
    written: Path, tmp_path: Path, data: bool, where: float, bit: int, cut: bool
) -> None:
    shutil.rmtree(tmp_path / "hurt", ignore_errors=True)
    shutil.copytree(written.parent, tmp_path / "hurt")
    (target,) = (tmp_path / "hurt").glob(f"{written.name}.{'data*' if data else 'index'}")
    content = bytearray(target.read_bytes())
    place = int(where * len(content))
    if cut:
        content = content[:place]
    else:
        content[place] ^= 1 << bit
    target.write_bytes(content)
    with contextlib.suppress(DamagedError, CoverageError, UsageError):
        isolate.call(object_calls.restore_module, tmp_path / "hurt" / written.name)  # asserts the values themselves
