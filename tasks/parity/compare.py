"""The comparison of one form with the baseline: values, and outputs bit for bit or within a tolerance.

This is the chain of proof. Nothing here is called passed unless it was looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np

from tasks.errors import NondeterministicError, ParityError, PipelineError
from tasks.parity.predictor import Predictor
from tasks.parity.transient_errors import transient
from tasks.records.baseline import Baseline, Environment, TensorFact
from tasks.records.forms import LIVE_SESSION
from tasks.records.parity import Columns, Difference, Limit, ParityReport, ParityRow, ParityTest, Tolerance
from tasks.records.signature import OutputRef, Signature
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors, as_bytes, dtype_name


def require_usable(baseline: Baseline, finite: Container[str] = ()) -> None:
    """Refuse a baseline that nothing can be compared with.

    `finite` are the variables that must hold no NaN and no infinity: a class or a string that is made of NaN shows none.

    Raises:
        NondeterministicError: the live model gave two answers to one probe.
        ParityError: an output, or one of these variables, holds NaN or infinities where the signature does not allow them.
    """
    if baseline.unstable:
        raise NondeterministicError(
            f"the live model at step {baseline.step}",
            "the same outputs for the same probe, twice",
            f"{', '.join(baseline.unstable)} differ between two calls",
            "pin what is random at inference (dropout's keep probability, `training`), or remove it from the outputs.",
        )
    lost = [variable for variable in baseline.variables if variable.value.nonfinite and variable.name in finite]
    if baseline.nonfinite or lost:
        rows = [
            _not_finite(*OutputRef.parse(name), ParityTest.EXACT, "NaN or infinities") for name in baseline.nonfinite
        ]
        counted = [f"{one.name} ({one.value.nonfinite} of {one.value.size} values)" for one in lost]
        for variable in lost:
            got = f"{variable.value.nonfinite} of {variable.value.size} values NaN or infinite"
            rows.append(_not_finite("", variable.name, ParityTest.VALUES, got))
        named = [*baseline.nonfinite, *counted[:5], *([f"{len(counted) - 5} more"] if len(counted) > 5 else [])]
        raise ParityError(
            f"the live model at step {baseline.step}",
            "finite outputs" if baseline.nonfinite else "finite values in the variables that the outputs read",
            f"NaN or infinities in {', '.join(named)}",
            "train again with a lower learning rate, or declare `allow_nonfinite` for a signature that means them.",
            report=ParityReport(rows=tuple(rows)),
        )


def _not_finite(signature: str, output: str, test: ParityTest, got: str) -> ParityRow:
    return ParityRow(
        candidate=LIVE_SESSION,
        signature=signature,
        output=output,
        test=test,
        passed=False,
        note="not finite",
        worst=Difference(expected="finite numbers", got=got),
    )


def values(candidate: str, expected: Iterable[TensorFact], got: Iterable[TensorFact]) -> list[ParityRow]:
    """Compare the live model's variables and constants with those of a form, byte for byte.

    A value is looked up by its own name, and by an unexpected name only if its own is missing, since renaming nodes changes
    nothing; each such value counts once. There is one row for all that agree, and one for each that does not.
    """
    wanted = list(expected)
    names = {fact.name for fact in wanted}
    by_name: dict[str, TensorFact] = {}
    spare: Counter[tuple[object, ...]] = Counter()  # contents under names that nobody asked for, each to be used once
    rows = []
    for fact in got:
        twin = by_name.setdefault(fact.name, fact)
        if twin is not fact and _content(twin) != _content(fact):
            worst = Difference(expected=f"one value of this name, {_described(twin)}", got=_described(fact))
            rows.append(_row(candidate, "", fact.name, ParityTest.VALUES, 1, 1, worst))
        elif twin is fact and fact.name not in names:
            spare[_content(fact)] += 1
    agreed, count = 0, len(wanted)
    for fact in wanted:
        found = by_name.get(fact.name)
        if found is None and spare[_content(fact)]:
            spare[_content(fact)] -= 1
            agreed += 1
        elif found is not None and _content(found) == _content(fact):
            agreed += 1
        else:
            worst = Difference(expected=_described(fact), got=_described(found) if found else "no such value")
            rows.append(_row(candidate, "", fact.name, ParityTest.VALUES, 1, 1, worst))
    if count == 0:
        note = "the outputs need no variable and no constant"
        return [
            ParityRow(
                candidate=candidate, signature="", output="variables", test=ParityTest.VALUES, passed=None, note=note
            )
        ]
    passed = ParityRow(
        candidate=candidate,
        signature="",
        output="variables",
        test=ParityTest.VALUES,
        compared=agreed,
        passed=True,
        note=f"{agreed} of {count} equal byte for byte",
    )
    return ([passed] if agreed else []) + rows


def unexpected(candidate: str, expected: Iterable[TensorFact], got: Iterable[TensorFact]) -> list[ParityRow]:
    """Return a row for each value of a form beyond the expected ones: the form reads something that was not recorded."""
    wanted = list(expected)
    names = {fact.name for fact in wanted}
    found = [fact for fact in got if fact.name not in names]
    twins = Counter(_content(fact) for fact in wanted) - Counter(_content(fact) for fact in got if fact.name in names)
    rows = []
    for fact in found:
        if twins[_content(fact)]:
            twins[_content(fact)] -= 1
            continue
        worst = Difference(expected="no variable that the live model does not have", got=_described(fact))
        rows.append(_row(candidate, "", fact.name, ParityTest.VALUES, 1, 1, worst))
    return rows


def assets(candidate: str, recorded: Mapping[str, str], changed: Mapping[str, str]) -> list[ParityRow]:
    """Compare asset files by hash. `recorded` is file name -> sha256, `changed` what differs from it."""
    return [
        ParityRow(
            candidate=candidate,
            signature="",
            output=f"asset {name}",
            test=ParityTest.VALUES,
            compared=1,
            mismatched=int(name in changed),
            passed=name not in changed,
            worst=Difference(expected=f"sha256 {sha[:12]}", got=f"sha256 {changed[name][:12]}")
            if name in changed
            else None,
        )
        for name, sha in recorded.items()
    ]


def outputs(
    predictor: Predictor,
    signatures: Iterable[Signature],
    probe: Tensors,
    baseline: Tensors,
    test: ParityTest,
    tolerance: Tolerance,
) -> list[ParityRow]:
    """Send the entire probe through every signature and compare every output with the baseline.

    `probe` is keyed `signature/input`, `baseline` `signature/output`. A signature that the form does not have is a failure,
    as are missing and additional outputs.
    """
    rows: list[ParityRow] = []
    for signature in signatures:
        inputs = tensor_file.select(probe, signature.key)
        expected = tensor_file.select(baseline, signature.key)
        if (signature.inputs and not inputs) or not expected:
            raise PipelineError(
                f"the probe of {signature.key}", "inputs and recorded outputs", "none", "train or adopt again."
            )
        try:
            got = predictor.predict(signature.key, inputs)
        except (PipelineError, MemoryError, OSError):
            raise  # they say nothing about the model
        except Exception as error:
            if transient(error):
                raise
            worst = Difference(expected="an answer", got=f"{type(error).__name__}: {str(error)[:300]}")
            rows.append(_row(predictor.form, signature.key, "*", test, 0, 0, worst))
            continue
        for name in sorted(expected.keys() | got.keys()):
            if name not in got or name not in expected:
                worst = Difference(
                    expected="this output" if name in expected else "no such output",
                    got="none" if name in expected else "one",
                )
                rows.append(_row(predictor.form, signature.key, name, test, 0, 0, worst))
            else:
                bounds = tolerance.of(signature.key, name)
                rows.append(compare(predictor.form, signature.key, name, test, expected[name], got[name], bounds))
        if test is ParityTest.SERVED:
            rows = [_tie_excused(row, signature.key, expected, got, tolerance) for row in rows]
    return rows


def signature_difference(expected: Iterable[Signature], reported: Iterable[Signature]) -> str | None:
    """Describe the first difference between signatures, None where there is none; tensor names do not count."""

    def shape(signature: Signature) -> dict[str, Any]:
        def specs(side: Mapping[str, Any]) -> dict[str, str]:
            return {name: f"{spec.dtype}{_dims(spec.shape)}" for name, spec in sorted(side.items())}

        return {"method": signature.method.value, "in": specs(signature.inputs), "out": specs(signature.outputs)}

    wanted, got = ({signature.key: shape(signature) for signature in side} for side in (expected, reported))
    if missing := sorted(wanted.keys() - got.keys()):
        return f"signature {missing[0]} is missing"
    if added := sorted(got.keys() - wanted.keys()):
        return f"signature {added[0]} is not expected"
    for key, signature in wanted.items():
        for part, value in signature.items():
            if got[key][part] != value:
                return f"signature {key}: {part} expected {value}, reported {got[key][part]}"
    return None


def _dims(shape: tuple[int | None, ...] | None) -> str:
    return "[...]" if shape is None else "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def signatures(candidate: str, expected: Iterable[Signature], found: Iterable[Signature]) -> list[ParityRow]:
    """Return a row if the signatures of a form differ from the live model's; TensorFlow casts inputs silently."""
    difference = signature_difference(expected, found)
    if not difference:
        return []
    worst = Difference(expected="the signatures of the live model", got=difference)
    return [_row(candidate, "", "signatures", ParityTest.VALUES, 0, 0, worst)]


def rows_of(signature: Signature, probe: Tensors) -> int:
    """Return the number of rows in the probe of a signature, 0 if its inputs do not share an open first dimension."""
    if not signature.inputs or any(not spec.shape or spec.shape[0] is not None for spec in signature.inputs.values()):
        return 0
    sizes = {len(probe[str(OutputRef(signature.key, name))]) for name in signature.inputs}
    return sizes.pop() if len(sizes) == 1 else 0


def first_rows(probe: Tensors, count: int) -> Tensors:
    """Return the first rows of every input that has rows."""
    return {name: array[:count] if array.ndim else array for name, array in probe.items()}


def test_for(recorded: Environment, here: Environment) -> ParityTest:
    """Exact where everything that moves a float is as it was when the baseline was taken, else Served."""
    return ParityTest.EXACT if recorded == here else ParityTest.SERVED


def compare(
    candidate: str,
    signature: str,
    output: str,
    test: ParityTest,
    expected: Array,
    got: Array,
    bounds: Limit,
) -> ParityRow:
    """Compare one output with its baseline: dtype and shape first, then values; places of NaN must agree in every test."""
    kinds = [f"{dtype_name(array)}{list(array.shape)}" for array in (expected, got)]
    if kinds[0] != kinds[1]:
        worst = Difference(expected=kinds[0], got=kinds[1])
        return _row(candidate, signature, output, test, expected.size, expected.size, worst)
    numbers = floating(expected)
    limits = None
    if not numbers or test is ParityTest.EXACT:
        differs = _bitwise_different(expected, got)
    else:
        limits = _allowed(expected, bounds.absolute, bounds.relative)
        differs = _outside(expected, got, limits)
    max_abs, max_rel = _distances(expected, got) if numbers or expected.dtype.kind in "iu" else (0.0, 0.0)
    mismatched = int(differs.sum())
    worst_difference = None
    if mismatched:
        distance = np.where(differs, _absolute(expected, got), -1.0) if numbers else differs.astype(float)
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(distance)), expected.shape))
        worst_difference = Difference(index=index, expected=_shown(expected[index]), got=_shown(got[index]))
    noise = limit = could_be_noise = None
    if limits is not None and limits.size:
        place = worst_difference.index if worst_difference else _nearest(expected, got, limits)
        limit = float(limits[place])
        noise = float(_allowed(expected, *bounds.noise)[place]) if bounds.noise else None
        if mismatched and bounds.ceiling:
            could_be_noise = not _outside(expected, got, _allowed(expected, *bounds.ceiling)).any()
    return ParityRow(
        candidate=candidate,
        signature=signature,
        output=output,
        test=test,
        compared=expected.size,
        max_abs=max_abs,
        max_rel=max_rel,
        mismatched=mismatched,
        noise=noise,
        limit=limit,
        could_be_noise=could_be_noise,
        # An empty tensor holds nothing to look at: it is not called passed.
        passed=None if expected.size == 0 else mismatched == 0,
        note="empty" if expected.size == 0 else "",
        worst=worst_difference,
    )


def _row(
    candidate: str, signature: str, output: str, test: ParityTest, compared: int, mismatched: int, worst: Difference
) -> ParityRow:
    return ParityRow(
        candidate=candidate,
        signature=signature,
        output=output,
        test=test,
        compared=compared,
        mismatched=mismatched,
        passed=False,
        worst=worst,
    )


def floating(array: Array) -> bool:
    """Tell whether an array holds floats or complex numbers."""
    # ml_dtypes' types are of kind V (bfloat16, float8): they are floats all the same.
    return array.dtype.kind in "fcV" and array.dtype.names is None


def wide(array: Array) -> Array:
    """Return the array in float64 or complex128."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _bitwise_different(expected: Array, got: Array) -> Array:
    if expected.dtype.kind in "OSU":
        pairs = zip(expected.ravel().tolist(), got.ravel().tolist(), strict=True)
        return np.array([_bytes(a) != _bytes(b) for a, b in pairs], dtype=bool).reshape(expected.shape)
    if as_bytes(expected) == as_bytes(got):
        return np.zeros(expected.shape, dtype=bool)
    width = expected.dtype.itemsize
    rows = [np.frombuffer(as_bytes(array), dtype=np.uint8).reshape(-1, width) for array in (expected, got)]
    different: Array = (rows[0] != rows[1]).any(axis=1).reshape(expected.shape)
    return different


def _allowed(expected: Array, absolute: Columns, relative: Columns) -> Array:
    """Return absolute + relative * |expected|, where each is one number, or one for each index of the last axis."""
    # A last axis of another length has other columns: the strictest limit is right for all of them.
    fitting = [one if expected.shape[-1:] == (len(one),) else min(one) for one in (absolute, relative)]
    with np.errstate(invalid="ignore", over="ignore"):
        allowed: Array = np.asarray(fitting[0]) + np.asarray(fitting[1]) * np.abs(wide(expected))
    return np.asarray(allowed)


def _nearest(expected: Array, got: Array, limits: Array) -> tuple[int, ...]:
    """Return the place whose difference is nearest to its limit; without any, the place with the smallest limit."""
    distance = np.where(np.isfinite(wide(expected)), _absolute(expected, got), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.nan_to_num(distance / limits)
    flat = int(np.argmax(share)) if share.any() else int(np.argmin(np.nan_to_num(limits, nan=np.inf)))
    return tuple(int(i) for i in np.unravel_index(flat, expected.shape))


def _outside(expected: Array, got: Array, limits: Array) -> Array:
    """|got - expected| > limit; NaN and infinities must stand in the same places."""
    a, b = wide(expected), wide(got)
    with np.errstate(invalid="ignore", over="ignore"):
        within = np.abs(b - a) <= limits
    finite = np.isfinite(a) & np.isfinite(b)
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    outside: Array = ~np.where(finite, within, same)
    return outside


def _absolute(expected: Array, got: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(wide(got) - wide(expected))
    return np.where(np.isnan(distance), np.inf, distance)


def _distances(expected: Array, got: Array) -> tuple[float, float]:
    """Return the largest absolute and relative difference over the places where both are finite."""
    a, b = wide(expected), wide(got)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return 0.0, 0.0
    distance = np.abs(b[both] - a[both])
    scale = np.abs(a[both])
    relative = np.divide(distance, scale, out=np.zeros_like(distance), where=scale > 0)
    return float(distance.max()), float(relative.max())


def _tie_excused(row: ParityRow, signature: str, expected: Tensors, got: Tensors, tolerance: Tolerance) -> ParityRow:
    """Return True if a class differs in a served answer only because the two best scores lie within the tolerance.

    Each score may move by its own limit: the best one down and the other up, so the scores may be apart by the sum of both.
    The output must be the argmax of a float output of the same signature in every other row.
    """
    if row.passed is not False or row.signature != signature or row.output not in expected or row.output not in got:
        return row
    classes, answered = expected[row.output], got[row.output]
    if classes.dtype.kind not in "iu" or classes.ndim != 1 or answered.shape != classes.shape:
        return row
    if dtype_name(answered) != dtype_name(classes):
        return row
    for name, scores in expected.items():
        if scores.dtype.kind != "f" or scores.ndim != 2 or len(scores) != len(classes) or scores.shape[1] < 2:
            continue
        within = (answered >= 0) & (answered < scores.shape[1])
        if not (np.argmax(scores, axis=1) == classes).all() or not within.all():
            continue
        best = scores.max(axis=1)
        taken = np.take_along_axis(scores, answered[:, np.newaxis].astype(np.int64), axis=1)[:, 0]
        bounds = tolerance.of(signature, name)
        limits = _allowed(scores, bounds.absolute, bounds.relative)
        both = np.stack([classes, answered], axis=1).astype(np.int64)
        with np.errstate(invalid="ignore"):
            reach = np.take_along_axis(limits, both, axis=1).sum(axis=1)
            tied = np.isfinite(best) & np.isfinite(taken) & (best - taken <= reach)
        if tied[classes != answered].all():
            note = f"{row.mismatched} ties within the tolerance of {name}"
            return row.model_copy(update={"passed": True, "note": note})
    return row


def _content(fact: TensorFact) -> tuple[object, ...]:
    return fact.dtype, fact.shape, fact.sha256


def _described(fact: TensorFact) -> str:
    return f"{fact.dtype}{list(fact.shape)} sha256 {fact.sha256[:12]}" if fact.sha256 else f"{fact.dtype} value"


def _bytes(item: Any) -> bytes:
    return item.encode() if isinstance(item, str) else bytes(item)


def _shown(item: Any) -> str:
    if isinstance(item, (bytes, str, np.bytes_)):
        return repr(bytes(_bytes(item))[:60])
    if isinstance(item, (np.floating, float)):
        return f"{float(item):.9g}"
    return str(item)
