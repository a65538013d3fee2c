"""Facts of runs, built by hand: complete, refused early, refused for an output, never trained."""

from __future__ import annotations

import math
from typing import Any

from tasks.presentation.facts import FileFact, ReportFacts
from tasks.records.baseline import TensorFact
from tasks.records.checkpoint import PinnedCheckpoint, RestoreReport
from tasks.records.coverage import Coverage, VariableStatus
from tasks.records.parity import Difference, ParityReport, ParityRow, ParityTest
from tasks.records.run import Promotion, StepOutcome, StepState
from tasks.records.serving import Cause, Check, Latency, Round, RuntimeIdentity, SmokeReport
from tasks.records.signature import Asset, Method, Signature, TensorSpec

SAVED = ("checkpoint", "frozen_graph", "saved_model (v1 loader)", "saved_model (v2 loader)")
SERVED = ("served (gRPC)", "served (REST)")
DIGEST = "9f2c4e" + "0" * 58
HOSTILE = "<script>alert('x')</script>"

DEFAULT = Signature(
    key="serving_default",
    method=Method.PREDICT,
    inputs={"images": TensorSpec(tensor="images:0", dtype="float32", shape=(None, 2, 2))},
    outputs={
        "class": TensorSpec(tensor="class:0", dtype="int64", shape=(None,)),
        "logits": TensorSpec(tensor="dense/logits:0", dtype="float32", shape=(None, 10)),
    },
)


def row(candidate: str, output: str, signature: str = "serving_default", **changes: Any) -> ParityRow:
    """Return a comparison that passed, with `changes`."""
    test = ParityTest.SERVED if candidate in SERVED else ParityTest.EXACT if signature else ParityTest.VALUES
    fields: dict[str, Any] = {"test": test, "compared": 500, "passed": True} | changes
    return ParityRow(candidate=candidate, signature=signature, output=output, **fields)


def complete_chain() -> tuple[ParityRow, ...]:
    """Return comparisons of every form without a difference; served logits are within the tolerance."""
    saved = [
        one
        for form in SAVED
        for one in (
            row(form, "variables", "", compared=12, note="12 of 12 equal byte for byte"),
            row(form, "asset labels.txt", "", compared=1),
            row(form, "class"),
            row(form, "logits"),
        )
    ]
    served = [one for form in SERVED for one in (row(form, "class"), row(form, "logits", max_abs=3.8e-6, max_rel=2e-6))]
    return (*saved, *served)


def outcome(name: str, state: StepState = StepState.BUILT, seconds: float = 1.0, **changes: Any) -> StepOutcome:
    """Return the outcome of a step with an artifact."""
    fields = {"artifact": f"/store/{name}/0123456789", "digest": DIGEST} | changes
    return StepOutcome(name=name, state=state, seconds=seconds, **fields)


def smoke(*, stand_in: bool = False, passed: bool = True, **changes: Any) -> SmokeReport:
    """Return the report of a server's smoke test."""
    identity = (
        RuntimeIdentity(runtime="embedded", version="0.1.0", stand_in=True)
        if stand_in
        else RuntimeIdentity(
            runtime="docker",
            version="2.20.0",
            stand_in=False,
            image="tensorflow/serving:2.20.0",
            image_digest=f"sha256:{DIGEST}",
        )
    )
    checks = (
        check("gRPC", "missing input", "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        check("REST", "broken JSON", "4xx", "400"),
    )
    fields: dict[str, Any] = {
        "setup": "as configured",
        "load_seconds": 1.734,
        "peak_memory": 412_000_000,
        "checks": checks,
        "latency": (
            Latency(protocol="served (gRPC)", batch=1, requests=50, p50=1.21, p90=1.62, p99=3.4, throughput=780.1),
            Latency(protocol="served (REST)", batch=32, requests=50, p50=6.05, p90=7.7, p99=11.9, throughput=5200.0),
        ),
        "warmup": "3 requests run",
    } | changes
    parity = ParityReport(rows=tuple(one for one in complete_chain() if one.candidate in SERVED))
    return SmokeReport(identity=identity, version=1, rounds=(Round(**fields),), parity=parity, passed=passed)


def check(protocol: str, case: str, expected: str, answered: str, *, passed: bool = True, **changes: Any) -> Check:
    """Return a check of one request."""
    fields: dict[str, Any] = {"cause": Cause.NOT_REFUSED} | changes
    return Check(protocol=protocol, case=case, expected=expected, answered=answered, passed=passed, **fields)


def pinned(tensors: int = 31) -> PinnedCheckpoint:
    """Return a pinned checkpoint of so many tensors."""
    return PinnedCheckpoint(
        step=400,
        prefix="model.ckpt-400",
        chosen="the latest",
        available=(200, 300, 400),
        metrics={"accuracy": 0.99},
        tensors=tuple(
            TensorFact(name=f"layer{i}/kernel", dtype="float32", shape=(3, 16), sha256=DIGEST) for i in range(tensors)
        ),
    )


def restored(*odd: VariableStatus) -> RestoreReport:
    """Return a restore of two variables and `odd` ones."""
    good = [
        VariableStatus(
            name=name, key=name, status="matched", needed=needed, expected="float32[16]", found="float32[16]"
        )
        for name, needed in (("conv1/kernel", True), ("conv1/kernel/Adam", False))
    ]
    return RestoreReport(
        step=400,
        coverage=Coverage(variables=(*good, *odd), extra=("old/bias",)),
        parity=ParityReport(rows=tuple(one for one in complete_chain() if one.candidate == "checkpoint")),
        hidden=True,
        hyperparameters={"learning_rate": 0.01, "steps": 400},
        global_step=400,
        train_op="train_op",
        one_more_step="passed",
    )


def complete(**changes: Any) -> ReportFacts:
    """Return the facts of a run from training to a published version."""
    fields: dict[str, Any] = {
        "run_id": "20250119-031500-7c1e",
        "name": "sundaynet",
        "created_at": "2025-01-19 03:15:42 UTC",
        "tensorflow": "2.21.0",
        "steps": (
            outcome("train", seconds=21.4),
            outcome("checkpoint", seconds=0.31),
            outcome("restore_verify", seconds=2.2),
            outcome("freeze", StepState.CACHED, 0.01),
            outcome("export", seconds=1.9),
            outcome("smoke_test", seconds=4.8),
            outcome("promote", seconds=0.6, artifact=None),
        ),
        "parity": complete_chain(),
        "smokes": (smoke(),),
        "promotion": Promotion(
            name="sundaynet", version=3, path="/srv/models/sundaynet/3", previous=2, outcome="promoted", digest=DIGEST
        ),
        "pinned": pinned(),
        "restore": restored(),
        "training": tuple(
            {"step": step, "of": 400, "loss": math.exp(-step / 90)}
            | ({"accuracy": 1 - 1 / step} if step % 100 == 0 else {})
            for step in range(10, 401, 10)
        ),
        "files": tuple(
            FileFact(step="freeze", path=path, size=42935, sha256=DIGEST)
            for path in ("frozen_graph.pb", "signature.json")
        ),
        "signatures": (DEFAULT,),
        "assets": (Asset(filename="labels.txt", tensor="labels_file:0", sha256=DIGEST),),
        "table_init": "init_all_tables",
        "hyperparameters": {"learning_rate": 0.01, "steps": 400},
        "sample_inputs": {"serving_default": {"images": [[0.0, 0.5], [1.0, 0.25]]}},
    } | changes
    return ReportFacts(**fields)


def refused_early() -> ReportFacts:
    """Return facts where the checkpoint misses a needed variable: no form was compared, no server started."""
    return ReportFacts(
        run_id="20250119-031500-7c1e",
        name="sundaynet",
        created_at="2025-01-19 03:15:42 UTC",
        tensorflow="2.21.0",
        steps=(
            outcome("train", seconds=21.4),
            outcome("checkpoint"),
            outcome(
                "restore_verify",
                StepState.FAILED,
                artifact=None,
                digest=None,
                message="dense/bias is not in the checkpoint",
            ),
            outcome("freeze", StepState.SKIPPED, 0.0, artifact=None, digest=None, message="restore_verify failed"),
        ),
        signatures=(DEFAULT,),
        refusal="model.ckpt-400: expected dense/bias float32[10], found nothing.\nRemedy: adopt another checkpoint.",
    )


def refused_output() -> ReportFacts:
    """Return facts where the frozen graph differs, and the SavedModel, further down the chain, too."""
    wrong = {
        "passed": False,
        "mismatched": 3,
        "max_abs": 0.0421,
        "max_rel": 0.011,
        "worst": Difference(index=(4, 7), expected="1.25", got="1.2921"),
    }
    chain = tuple(
        one.model_copy(update=wrong) if one.candidate in SAVED[1:3] and one.output == "logits" else one
        for one in complete_chain()
        if one.candidate in SAVED
    )
    steps = tuple(
        outcome(one.name, StepState.FAILED, one.seconds, artifact=None, digest=None, message="frozen_graph differs")
        if one.name == "freeze"
        else one
        for one in complete().steps[:5]
    )
    refusal = (
        "frozen_graph differs from the live session at serving_default/logits[4, 7], test exact: expected 1.25, found "
        "1.2921 (3 of 500 differ).\nRemedy: look for dropout or batch normalisation still in training mode."
    )
    return complete(parity=chain, steps=steps, smokes=(), promotion=None, refusal=refusal)


def untrained() -> ReportFacts:
    """Return facts of an adopted frozen graph: no training, no checkpoint, promoted after a stand-in's pass."""
    parity = tuple(one for one in complete_chain() if one.candidate != "checkpoint")
    steps = (outcome("adopt"), *complete().steps[3:])
    return complete(
        training=(),
        pinned=None,
        restore=None,
        parity=parity,
        steps=steps,
        smokes=(smoke(stand_in=True),),
        hyperparameters={},
    )
