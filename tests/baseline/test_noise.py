"""The noise of a model, and the limits that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import isolate
from tasks.artifact_views import Pinned, Restored
from tasks.baseline import noise
from tasks.baseline.training_run import TrainingRun
from tasks.errors import EnvironmentFailure, ParityError, UnsupportedGraph
from tasks.parity import compare
from tasks.records.parity import CEILING, FIXED, MULTIPLE, Limit, Limits, Noise, ParityReport, ParityTest, Tolerance
from tasks.tensors.tensor_file import read_tensors, write_tensors
from tests.adoption.pipeline import Shipyard, require_shipped
from tests.makers import cancelling, weight_faults
from tests.makers.chain import Chain

EPS = float(np.finfo(np.float32).eps)


def one(*asked: Any) -> Noise:
    """The noise of one output, whose answers in each way are given."""
    (found,) = noise.spread([{"s/y": array} for array in asked])
    return found


def allowed(limit: Limit, expected: Any) -> Any:
    """The limit of each element."""
    absolute, relative = (np.asarray(part if len(part) > 1 else part[0]) for part in (limit.absolute, limit.relative))
    return absolute + relative * np.abs(expected.astype(np.float64))


@given(st.integers(0, 2**32 - 1), st.sampled_from([(7,), (5, 3), (4, 2, 3), (3, 70)]), st.floats(1e-7, 1e-2))
def test_no_answer_lies_above_the_noise(seed: int, shape: tuple[int, ...], size: float) -> None:
    random = np.random.default_rng(seed)
    first = (random.standard_normal(shape) * 10 ** random.uniform(-3, 5, shape[-1:])).astype(np.float32)
    others = [(first * (1 + size * random.standard_normal(shape))).astype(np.float32) for _ in range(3)]
    found = one(first, *others)
    line = allowed(Limit(absolute=found.absolute, relative=found.relative), first)
    for other in others:
        assert (np.abs(other.astype(np.float64) - first) <= line * (1 + 1e-9)).all()
    assert found.ways == 4


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=5), st.floats(1e-6, 1e6), st.floats(0, 1.0))
def test_a_limit_is_neither_below_rounding_nor_above_the_ceiling(parts: list[float], scale: float, rel: float) -> None:
    columns = len(parts)
    found = Noise(
        signature="s", output="y", ways=4, absolute=tuple(parts), relative=(rel,) * columns,
        scale=(scale,) * columns, rounding=EPS,
    )  # fmt: skip
    for bound, part in zip(found.limit.absolute, parts, strict=True):
        assert 16 * EPS * scale <= bound <= max(CEILING * scale, FIXED, 16 * EPS * scale)
        assert bound >= min(MULTIPLE * part, CEILING * scale)
    assert all(16 * EPS <= bound <= CEILING for bound in found.limit.relative)


def test_noise_of_a_large_column_allows_nothing_in_a_small_one() -> None:
    first = np.array([[1e6, 0.5], [2e6, 0.25], [3.0, 0.75]], dtype=np.float32)
    other = first + np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    limit = one(first, other).limit
    assert limit.absolute[0] + limit.relative[0] * 1e6 >= MULTIPLE
    assert limit.absolute[1] + limit.relative[1] < 1e-5


def test_columns_of_one_size_share_what_was_seen_in_one_of_them() -> None:
    first = np.array([[1.0, 1.1]], dtype=np.float32)
    other = first + np.array([[1e-4, 0.0]], dtype=np.float32)
    limit = allowed(one(first, other).limit, first)
    assert limit[0, 1] == pytest.approx(MULTIPLE * 1e-4, rel=0.2)


@pytest.mark.parametrize(
    ("dtype", "roundings"), [(np.float16, 2), (ml_dtypes.bfloat16, 2), (np.float32, 16), (np.float64, 16)]
)
def test_a_float_may_always_be_rounded_in_its_own_dtype(dtype: Any, roundings: int) -> None:
    values = np.linspace(1.0, 2.0, 5).astype(dtype) / np.asarray(3, dtype)
    (limit,) = one(values).limit.relative
    assert limit == pytest.approx(roundings * float(ml_dtypes.finfo(dtype).eps))


def test_float64_that_was_float32_is_rounded_as_float32() -> None:
    (limit,) = one(np.linspace(1.0, 2.0, 5).astype(np.float32).astype(np.float64)).limit.relative
    assert limit == pytest.approx(16 * EPS)


def test_with_one_way_nothing_was_measured() -> None:
    found = one(np.ones(3, np.float32))
    assert found.limit.noise is None
    assert one(np.ones(3, np.float32), np.ones(3, np.float32)).limit.noise == ((0.0,), (0.0,))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_not_a_number_or_nothing_has_a_limit_too(value: float) -> None:
    first = np.full((3, 2), value, np.float32)
    found = one(first, first).limit
    assert all(np.isfinite(found.absolute)) and all(np.isfinite(found.relative)) and min(found.absolute) > 0


@pytest.mark.parametrize("dtype", [np.int64, bool, object])
def test_what_is_no_float_has_no_noise(dtype: Any) -> None:
    assert not list(noise.spread([{"s/y": np.array([1, 0], dtype=dtype)}] * 2))


def test_rows_that_need_their_batch_are_no_noise() -> None:
    """A model that looks at the whole batch answers one row otherwise, and that is what it computes."""
    first = np.array([1.0, 2.0, 3.0], np.float32)
    ways = {"s/y": first, "/alone/s/y": first[:1] + 5, "/pieces/s/y": first + 1e-6}
    (found,) = noise.spread([ways])
    assert 0 < found.absolute[0] + found.relative[0] < 1e-5


def test_a_row_shows_noise_and_limit_where_the_difference_comes_nearest_to_it() -> None:
    expected, got = np.array([[1.0, 100.0]]), np.array([[1.0 + 1e-6, 100.0 + 2e-6]])
    bounds = Limit(absolute=(1e-5, 1e-3), relative=(0.0, 0.0), noise=((1e-6, 1e-4), (0.0, 0.0)))
    row = compare.compare("form", "s", "y", ParityTest.SERVED, expected, got, bounds)
    assert (row.passed, row.limit, row.noise) == (True, 1e-5, 1e-6)
    row = compare.compare("form", "s", "y", ParityTest.SERVED, expected, got + np.array([[0, 1.0]]), bounds)
    assert (row.passed, row.limit, row.noise) == (False, 1e-3, 1e-4)
    wider = np.ones((1, 3))
    row = compare.compare("form", "s", "y", ParityTest.SERVED, wider, wider + 2e-5, bounds)
    assert row.passed is False and row.limit == 1e-5, "columns that were not measured have the strictest limit"
    row = compare.compare("form", "s", "y", ParityTest.EXACT, expected, expected, bounds)
    assert row.limit is None and row.noise is None


def test_what_is_declared_goes_before_what_was_measured() -> None:
    measured = one(np.ones(3, np.float32))
    limits = Limits.measured_of(Tolerance(outputs={"other": (0.5, 0.0)}), [measured])
    assert limits.of("s", "y") == measured.limit
    assert limits.of("s", "other").absolute == (0.5,)
    assert limits.of("s", "unknown").absolute == (FIXED,)
    assert Limits.measured_of(Tolerance(absolute=0.25), [measured]).of("s", "y").absolute == (0.25,)


def test_every_float_output_is_measured_in_every_way(chain: Chain) -> None:
    found = weight_faults.noise_of(chain.pinned.path, chain.trained.path)
    floats = {"serving_default/logits", "serving_default/probabilities", "classify/scores"}
    assert {f"{one.signature}/{one.output}" for one in found.noise} == floats
    assert {one.ways for one in found.noise} == {3}
    assert not found.notes
    assert any(max(one.absolute) > 0 for one in found.noise), "another way of computing moves a bit"


def test_a_checkpoint_that_answers_as_the_baseline_is_not_measured(chain: Chain) -> None:
    report = Restored(chain.verified.path).report()
    assert report is not None and report.noise and {one.ways for one in report.noise} == {1}
    assert not report.parity.noise


def test_every_weight_fault_is_noticed_as_before_and_smaller_ones_too(chain: Chain) -> None:
    noise_of = weight_faults.noise_of(chain.pinned.path, chain.trained.path).noise
    found = isolate.call(weight_faults.noticed, noise_of, chain.pinned.path, chain.trained.path)
    assert sum(one.fixed for one in found) > 20
    # Below a thousandth of itself, a weight's fault is as small as the noise: which limit is tighter depends on the processor.
    assert not [one for one in found if one.lost and one.part >= 1e-3]
    assert sum(one.measured for one in found) >= sum(one.fixed for one in found)


def test_a_network_whose_large_terms_cancel_is_good_by_what_is_measured_and_was_refused(yard: Shipyard) -> None:
    model = yard.written(cancelling.write) / "mlp.pb"
    given = {"inputs": ["x"], "outputs": ["y"]}
    with pytest.raises(ParityError, match=r"served.*limit"):
        yard.ship(model, "cancelling-fixed", given=given, tolerance={"absolute": FIXED, "relative": FIXED})
    shipped = yard.ship(model, "cancelling", given=given, tolerance={})
    require_shipped(shipped)
    rows = [row for row in shipped.summary.parity if row.limit is not None]
    assert rows and all(row.noise and row.max_abs <= row.limit for row in rows)


def test_the_ceiling_is_what_no_noise_exceeds() -> None:
    first = np.array([[1e3, 1.0], [2e3, -2.0]], np.float32)
    ceiling, wild = one(first).limit.ceiling, one(first, first + np.float32(1e6)).limit
    assert ceiling == ((CEILING * 1.5e3, CEILING * 1.5), (CEILING, CEILING))
    assert ceiling[0] == wild.absolute and wild.ceiling is None
    assert ceiling[1] == one(first, first * np.float32(1e3)).limit.relative


@pytest.mark.parametrize(("moved", "could_be"), [(1e-7, None), (1e-4, True), (1e-2, False)])
def test_a_difference_could_be_noise_up_to_the_ceiling(moved: float, could_be: bool | None) -> None:
    first = np.array([[1.0, 100.0]], np.float32)
    got = first * np.array([[1.0 + moved, 1.0]], np.float32)
    row = compare.compare("form", "s", "y", ParityTest.SERVED, first, got, one(first).limit)
    assert row.could_be_noise is could_be and row.passed is (could_be is None)
    row = compare.compare("form", "s", "y", ParityTest.SERVED, first, got, one(first, first).limit)
    assert row.could_be_noise is None, "it was measured"


def test_only_a_difference_that_noise_may_decide_or_explain_is_measured(chain: Chain) -> None:
    """A form is asked once where rounding is enough, and again within the measured limits where it is not."""
    pin, asked = Pinned(chain.pinned.path).record(), list[Tolerance]()
    baseline = read_tensors(TrainingRun(chain.trained.path).outputs_file(pin.step))
    output, expected = "logits", baseline["serving_default/logits"]
    noise_of = weight_faults.noise_of(chain.pinned.path, chain.trained.path).noise
    rounding = Restored(chain.verified.path).limits(Tolerance())

    def form(moved: float) -> Any:
        def ask(limits: Tolerance) -> ParityReport:
            asked.append(limits)
            bounds = limits.of("serving_default", output)
            got = (expected * np.float32(1 + moved)).astype(np.float32)
            args = ("form", "serving_default", output, ParityTest.SERVED, expected, got, bounds)
            return ParityReport(rows=(compare.compare(*args),))

        asked.clear()
        return noise.decided(ask, rounding, chain.pinned.path, pin, chain.trained.path)

    assert form(1e-7).passed and asked == [rounding]
    refused = form(0.5)
    assert not refused.passed and refused.rows[0].noise is not None, "and its noise is said"
    assert asked == [rounding, Limits.measured_of(Tolerance(), noise_of)] and refused.noise == noise_of


def unusable(way: noise.Way, file: Path) -> None:
    """In a child: the other choice of oneDNN fails."""
    if way.settings.environment:
        raise EnvironmentFailure("a disk", "room", "none", "free some.")
    write_tensors(file, {"s/y": np.ones(3, np.float32)})


def unasked(way: noise.Way, file: Path) -> None:
    """In a child: the model cannot be asked with the other choice of oneDNN."""
    if way.settings.environment:
        raise UnsupportedGraph("the model", "a kernel", "none for an op", "another server.")
    write_tensors(file, {"s/y": np.ones(3, np.float32)})


def test_what_is_wrong_outside_the_model_ends_the_measurement_and_what_is_in_it_is_noted(chain: Chain) -> None:
    recorded = TrainingRun(chain.trained.path).baseline(chain.step).environment
    with pytest.raises(EnvironmentFailure, match="room"):
        noise.measure(unusable, (), recorded)
    found = noise.measure(unasked, (), recorded)
    assert [one.ways for one in found.noise] == [2]
    assert [note.partition(": ")[2] for note in found.notes] == ["none for an op"]
