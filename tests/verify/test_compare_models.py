"""Several forms are paired and compared with the first, and never called equal without a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tasks import isolate
from tasks.errors import ImpureError, NondeterministicError, ParityError, UsageError
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.baseline import TensorFact
from tasks.records.parity import ParityRow, ParityTest, Tolerance
from tasks.records.settings import SessionOptions
from tasks.records.signature import Impurity, Method, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.verify import compare_models, pairing
from tasks.verify.candidate import Answered, values_row
from tasks.verify.compare_models import Comparison
from tests.makers import cancelling, compared_models
from tests.makers.tolerance import DECLARED

GIVEN = ModelOptions(inputs=("x:0",), outputs=("logits:0", "probs:0"))


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model in its forms, and every fault in `FAULTS` as a GraphDef of that name."""
    folder = tmp_path_factory.mktemp("forms")
    isolate.call(compared_models.every, folder)
    return folder


def _compare(
    *paths: Path, given: ModelOptions = GIVEN, tolerance: Tolerance | None = None, probe: Path | None = None
) -> Comparison:
    source = ProbeSource(file=probe)
    return compare_models.compare(paths, given, None, SessionOptions(), source, tolerance or Tolerance())


def _rows(found: Comparison) -> list[tuple[str, bool | None]]:
    return [(f"{row.signature}/{row.output}", row.passed) for one in found.candidates for row in one.rows]


def test_saved_forms_of_one_model_are_equal_bit_for_bit_and_their_values_are_told_but_not_judged(forms: Path) -> None:
    found = _compare(forms / "model.ckpt", forms / "frozen.pb", forms / "saved_model")
    assert found.divergent is None
    for one in found.candidates:
        *outputs, values = one.rows
        assert [(row.output, row.passed, row.note, row.test) for row in outputs] == [
            (name, True, "bit for bit", ParityTest.SERVED) for name in ("logits", "probs")
        ]
        assert values.passed is None and values.note == "4 of 4 values found byte for byte"


def test_a_changed_weight_is_the_first_divergence_and_its_value_is_named(forms: Path) -> None:
    found = _compare(forms / "model.ckpt", forms / "frozen.pb", forms / "weight changed.pb", forms / "op changed.pb")
    divergent = found.divergent
    assert divergent is not None and divergent.path.endswith("weight changed.pb")
    assert divergent.rows[-1].note == "3 of 4 values found byte for byte; not found: dense/kernel"
    report = found.refused(divergent)
    assert report is not None and {row.output for row in report.failures} == {"logits", "probs"}


def test_a_tolerance_widens_and_the_row_says_that_it_did(forms: Path) -> None:
    found = _compare(forms / "frozen.pb", forms / "weight changed.pb", tolerance=Tolerance(absolute=1e6))
    assert found.divergent is None
    assert [row.note for row in found.candidates[0].rows[:2]] == ["within the tolerance"] * 2


def test_a_first_model_that_differs_from_itself_is_nondeterministic_and_another_one_differs(forms: Path) -> None:
    for names in (("noisy", "frozen"), ("frozen", "noisy")):
        with pytest.raises(ImpureError, match=r"random numbers, by noise \(RandomUniform\)"):
            _compare(*(forms / f"{name}.pb" for name in names))
    declared = GIVEN.model_copy(update={"impure": (Impurity.RANDOM,)})
    with pytest.raises(NondeterministicError, match=r"noise \(RandomUniform\).*") as raised:
        _compare(forms / "noisy.pb", forms / "frozen.pb", given=declared)
    assert "--pin" in raised.value.remedy
    found = _compare(forms / "frozen.pb", forms / "noisy.pb", given=declared)
    assert found.divergent is not None
    assert all("differs from itself" in row.note for row in found.candidates[0].rows[:2])


@pytest.mark.parametrize(("fault", "got"), [("other dtype", "float64[?, 4]"), ("other width", "float32[?, 5]")])
def test_inputs_of_another_kind_are_refused_and_nothing_is_cast(forms: Path, fault: str, got: str) -> None:
    found = _compare(forms / "frozen.pb", forms / f"{fault}.pb")
    row = found.candidates[0].rows[0]
    assert (row.output, row.passed) == ("input x", False)
    assert row.worst is not None and (row.worst.expected, row.worst.got) == ("float32[?, 4]", got)
    assert found.divergent is not None


def test_a_fixed_batch_asks_for_a_probe_that_fits_and_takes_one(forms: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batches of 1"):
        _compare(forms / "frozen.pb", forms / "one row.pb")
    np.save(tmp_path / "row.npy", np.ones((1, 4), np.float32))
    assert _compare(forms / "frozen.pb", forms / "one row.pb", probe=tmp_path / "row.npy").divergent is None
    assert _compare(forms / "one row.pb", forms / "frozen.pb").divergent is None


def test_keras_and_graph_are_paired_where_names_differ(forms: Path) -> None:
    found = _compare(forms / "model.keras", forms / "exported", given=ModelOptions())
    assert found.divergent is None
    assert _rows(found) == [("serving_default/out", True), ("serve/*", None), ("/values", None)]
    assert found.candidates[0].rows[-1].note == "4 of 4 values found byte for byte"
    assert _compare(forms / "model.keras", forms / "other.keras", given=ModelOptions()).divergent is not None


def test_a_signature_that_is_missing_differs_and_one_too_many_is_said_to_be_not_compared(forms: Path) -> None:
    fewer = _compare(forms / "both", forms / "one", given=ModelOptions())
    assert _rows(fewer) == [
        ("serving_default/y", True),
        ("extra/y", False),
        ("extra/z", False),
        ("/values", None),
    ]
    more = _compare(forms / "one", forms / "both", given=ModelOptions())
    assert _rows(more) == [("serving_default/y", True), ("extra/*", None), ("/values", None)]
    assert more.divergent is None and more.candidates[0].rows[1].note.startswith("not compared")


def test_words_are_for_the_models_that_have_such_tensors_and_one_for_none_is_refused(forms: Path) -> None:
    mixed = _compare(forms / "frozen.pb", forms / "exported", given=ModelOptions(inputs=("x:0",), outputs=("probs:0",)))
    assert mixed.divergent is not None  # another model, but one that the words are not for and that could be asked
    with pytest.raises(UsageError, match="--pin nope"):
        _compare(forms / "frozen.pb", forms / "frozen.pb", given=GIVEN.model_copy(update={"pins": {"nope": 1}}))
    with pytest.raises(UsageError, match="--output typo:0"):
        _compare(forms / "both", forms / "one", given=ModelOptions(inputs=("x:0",), outputs=("typo:0",)))


def test_outputs_that_cannot_be_paired_are_both_named(forms: Path) -> None:
    with pytest.raises(UsageError) as raised:
        _compare(forms / "model.keras", forms / "frozen.pb")
    assert "out (float32)" in str(raised.value) and "logits (float32), probs (float32)" in str(raised.value)


def test_a_model_that_fails_on_what_the_first_one_takes_differs(forms: Path) -> None:
    found = _compare(forms / "easy.pb", forms / "picky.pb", given=ModelOptions(inputs=("x:0",), outputs=("y:0",)))
    assert _rows(found)[0] == ("serving_default/*", False) and found.divergent is not None
    worst = found.candidates[0].rows[0].worst
    assert worst is not None and worst.expected == "an answer" and "not in [0, 3)" in worst.got


def test_a_signature_whose_outputs_are_all_empty_is_not_called_equal() -> None:
    def row(output: str, passed: bool | None) -> ParityRow:
        return ParityRow(candidate="B", signature=output, output="y", test=ParityTest.SERVED, passed=passed)

    first = Answered(path="A", form="", chosen="", signatures=(_signature("a", [], ["y"]), _signature("b", [], ["y"])))
    other = Answered(path="B", form="", chosen="", rows=(row("a", True), row("b", None)))
    found = Comparison(baseline=first, candidates=(other,))
    assert found.divergent == other
    report = found.refused(other)
    assert report is not None and not report.failures
    assert "something that was compared" in str(ParityError.of(report))


def _signature(key: str, inputs: Sequence[str], outputs: Sequence[str]) -> Signature:
    def specs(names: Sequence[str]) -> dict[str, TensorSpec]:
        return {name: TensorSpec(tensor=f"{name}:0", dtype="float32", shape=(None,)) for name in names}

    return Signature(key=key, method=Method.PREDICT, inputs=specs(inputs), outputs=specs(outputs))


def test_pairs() -> None:
    one, other = _signature("a", ["x"], ["y", "z"]), _signature("b", ["q"], ["z", "w"])
    (alone,), _, _ = pairing.pair([one], [other], "B")
    assert (alone.inputs, alone.outputs) == ({"x": "q"}, {"z": "z"})
    pairs, mine, theirs = pairing.pair([one, other], [other, _signature("c", ["x"], ["y"])], "B")
    assert [pair.baseline.key for pair in pairs] == ["b"] and (mine[0].key, theirs[0].key) == ("a", "c")
    with pytest.raises(UsageError, match="a signature among a"):
        pairing.pair([one], [other, _signature("c", [], ["y"])], "B")
    with pytest.raises(UsageError, match="inputs of the signature"):
        pairing.pair([_signature("a", ["x", "k"], ["y"])], [_signature("a", ["x"], ["y"])], "B")
    with pytest.raises(UsageError, match="outputs of the signature"):
        pairing.pair([one], [_signature("a", ["x"], ["p", "q"])], "B")


def test_values_are_found_by_name_else_by_content_and_a_row_of_them_is_never_passed() -> None:
    def fact(name: str, number: float) -> TensorFact:
        return tensor_file.fact(name, np.full((2, 2), number, np.float32))

    wanted = [fact("a", 1), fact("b", 2), fact("c", 3)]
    row = values_row("B", wanted, [fact("a", 1), fact("renamed", 2), fact("c", 9), fact("other", 3)])
    assert row.passed is None and row.mismatched == 1
    assert row.note == "2 of 3 values found byte for byte; not found: c"
    assert values_row("B", [], []).passed is None


def test_another_order_of_sums_is_the_model_s_own_noise(tmp_path: Path) -> None:
    isolate.call(cancelling.write, tmp_path)
    paths = [tmp_path / "mlp.pb", tmp_path / "reordered.pb"]
    given = ModelOptions(inputs=("x",), outputs=("y",))
    found = compare_models.compare(paths, given, None, SessionOptions(), ProbeSource(), Tolerance())
    (row,) = [row for row in found.candidates[0].rows if row.passed is not None]
    assert found.divergent is None and row.noise and row.limit and 0 < row.max_abs <= row.limit
    refused = compare_models.compare(paths, given, None, SessionOptions(), ProbeSource(), DECLARED)
    assert refused.divergent is not None, "it is no rounding of the output"
