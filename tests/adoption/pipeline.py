"""The flow over a brought model in one store, and what is asked of its results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import telemetry
from flows.config import PipelineConfig
from flows.train_to_serve import run_pipeline, summaries
from tasks import isolate
from tasks.errors import PipelineError
from tasks.records.adoption import Adopted
from tasks.records.forms import Form
from tasks.records.parity import form_of
from tasks.records.run import RunSummary, StepSummary
from tasks.records.signature import GraphNames
from tasks.tensors import tensor_file
from tests.makers.tolerance import DECLARED

LIMITS = {"seconds": 120.0, "memory": 3 * 2**30}
STEPS = ("adopt", "checkpoint", "restore_verify", "freeze", "export", "smoke_test", "promote", "report")
# What a run says where a step had nothing to do: no silent skip.
ROWS = "served (REST, rows)"  # not every model has rows
SAID = {Form.GRAPH_DEF: "frozen_graph: already frozen", Form.SAVED_MODEL: "saved_model: already a SavedModel"}


@dataclass(frozen=True)
class Shipped:
    """A finished run of the flow."""

    summary: RunSummary
    steps: Mapping[str, StepSummary]

    def artifact(self, step: str) -> Path:
        return Path(self.steps[step].artifact or "")

    @property
    def adopted(self) -> Adopted:
        return Adopted.model_validate_json((self.artifact("adopt") / "adopted.json").read_bytes())

    @property
    def names(self) -> GraphNames:
        return GraphNames.model_validate_json((self.artifact("adopt") / "graph.json").read_bytes())

    @property
    def baseline(self) -> dict[str, Any]:
        """The original's outputs on the whole probe, by `signature/output`."""
        (path,) = (self.artifact("adopt") / "baselines").glob("*.tensors")
        found = tensor_file.read_tensors(path)
        return {name: array for name, array in found.items() if not name.startswith("/")}

    @property
    def promoted(self) -> Path:
        assert self.summary.promotion is not None
        assert self.summary.promotion.outcome == "promoted"
        return Path(self.summary.promotion.path or "")


@dataclass
class Shipyard:
    """One store, one serving root, and each written model once."""

    folder: Path
    _written: dict[str, Path] = field(default_factory=dict)
    _shipped: dict[str, Shipped] = field(default_factory=dict)

    def written(self, way: Callable[[Path], None]) -> Path:
        """The folder in which a way left its model."""
        if way.__name__ not in self._written:
            out = self.folder / "written" / way.__name__
            out.mkdir(parents=True)
            isolate.call(way, out)
            self._written[way.__name__] = out
        return self._written[way.__name__]

    def ship(self, source: Path, name: str, **settings: Any) -> Shipped:
        """Run the flow on `source`, without a Prefect server, over the embedded runtime."""
        config = PipelineConfig.model_validate(
            {
                "source": str(source),
                "name": name,
                "store": self.folder / "store",
                "serving_root": self.folder / "serving",
                "reports": self.folder / "reports",
                "serving": {"runtime": "embedded", "latency_requests": 2},
                "limits": LIMITS,
                "tolerance": DECLARED.model_dump(),
                **settings,
            }
        )
        with telemetry.shown(quiet=True):
            run_pipeline.fn(config)
        summary = summaries[-1]
        return Shipped(summary, {step.name: step for step in summary.steps})

    def shipped(self, name: str, source: Path, **settings: Any) -> Shipped:
        """`ship`, once a session."""
        if name not in self._shipped:
            self._shipped[name] = self.ship(source, name, **settings)
        return self._shipped[name]

    def refused(self, source: Path, **settings: Any) -> PipelineError:
        """The error that a run on `source` ends in, which no step after adopt has seen."""
        before = len(summaries)
        try:
            self.ship(source, "refused", **settings)
        except PipelineError as error:
            with contextlib.suppress(IndexError):
                assert {step.name for step in summaries[before].steps} <= {"adopt", "report"}
            return error
        raise AssertionError(f"{source} was shipped")


def require_shipped(shipped: Shipped, **said: str) -> None:
    """Every step was done, every comparison made and passed; nothing was skipped in silence.

    `said` gives for a candidate why it was not made, beyond what is said of every model of its form.
    """
    assert set(shipped.steps) == set(STEPS)
    assert {step.state.value for step in shipped.steps.values()} <= {"built", "cached"}  # two forms, one model
    rows = shipped.summary.parity
    assert [row for row in rows if row.passed is False] == []
    not_made = {row.candidate for row in rows if row.passed is None and form_of(row.candidate) != ROWS}
    assert not_made == set(said)
    assert {f"{candidate}: {note}" for candidate, note in said.items()} <= set(shipped.summary.notes)
    expected = SAID.get(shipped.adopted.form)
    assert expected is None or any(note.startswith(expected) for note in shipped.summary.notes)
    candidates = {form_of(row.candidate) for row in rows}
    assert {
        "checkpoint",
        "frozen_graph",
        "saved_model (v1 loader)",
        "saved_model (v2 loader)",
        "served (gRPC)",
        "served (REST)",
    } <= candidates
    outputs = {(one.key, output) for one in shipped.names.signatures for output in one.outputs}
    for candidate in candidates - {"saved_model (files)", ROWS} - set(said):
        looked_at = {(row.signature, row.output) for row in rows if form_of(row.candidate) == candidate}
        assert outputs <= looked_at, candidate
    assert shipped.summary.smoke is not None
    assert shipped.summary.smoke.passed
