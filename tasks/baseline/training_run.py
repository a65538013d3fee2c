"""The folder of a training run, which `train` and `adopt` leave and every later step reads.

graph.meta                    the MetaGraphDef, written once, under a name that no rotation deletes
graph.json                    GraphNames
checkpoints/                  what Saver keeps
baselines/<step>.json         Baseline
baselines/<step>.tensors      `signature/output` -> array; with `/1/` or `/7/` before it, for the first rows alone
probe.tensors                 `signature/input` -> array
batch.tensors                 in graph mode, one training batch for restore-verify
metrics.jsonl                 one line a logged step
started_from.json             StartedFrom, where training began from a checkpoint
adopted.json                  Adopted, where the source model was adopted
assets/                       files that fill lookup tables
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts.hashes import NONE, Hashes
from tasks.records.adoption import Adopted
from tasks.records.baseline import Baseline
from tasks.records.signature import GraphNames
from tasks.records.start import StartedFrom

PREFIX = "model.ckpt"


@dataclass(frozen=True)
class TrainingRun:
    """A training run by its folder, while it is written and afterwards."""

    path: Path

    @property
    def graph_file(self) -> Path:
        """The MetaGraphDef's file."""
        return self.path / "graph.meta"

    @property
    def names_file(self) -> Path:
        """The file of GraphNames."""
        return self.path / "graph.json"

    @property
    def probe_file(self) -> Path:
        """The probe's file."""
        return self.path / "probe.tensors"

    @property
    def batch_file(self) -> Path:
        """The file of one training batch."""
        return self.path / "batch.tensors"

    @property
    def metrics_file(self) -> Path:
        """The file of logged steps."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The Saver's folder."""
        return self.path / "checkpoints"

    @property
    def baselines(self) -> Path:
        """The baselines' folder."""
        return self.path / "baselines"

    @property
    def assets(self) -> Path:
        """The assets' folder."""
        return self.path / "assets"

    def prefix(self, step: int) -> Path:
        """The prefix of the checkpoint of a global step."""
        return self.checkpoints / f"{PREFIX}-{step}"

    def outputs_file(self, step: int) -> Path:
        """The file of the baseline's outputs at a global step."""
        return self.baselines / f"{step}.tensors"

    def steps(self) -> list[int]:
        """The global steps that have a baseline, in order."""
        return sorted(int(path.stem) for path in self.baselines.glob("*.json"))

    def names(self) -> GraphNames:
        """The tensors and operations that later steps look for."""
        return GraphNames.model_validate_json(self.names_file.read_bytes())

    def write_names(self, names: GraphNames) -> None:
        """Write `names`."""
        self.names_file.write_text(names.model_dump_json(indent=1))

    def baseline(self, step: int) -> Baseline:
        """The baseline's facts at a global step."""
        return Baseline.model_validate_json((self.baselines / f"{step}.json").read_bytes())

    def write_baseline(self, baseline: Baseline) -> None:
        """Write `baseline` under its step; its outputs' file must be there."""
        (self.baselines / f"{baseline.step}.json").write_text(baseline.model_dump_json(indent=1))

    def adopted(self) -> Adopted | None:
        """How the source model was read, None where it was trained here."""
        place = self.path / "adopted.json"
        return Adopted.model_validate_json(place.read_bytes()) if place.exists() else None

    def write_adopted(self, adopted: Adopted) -> None:
        """Write `adopted`."""
        (self.path / "adopted.json").write_text(adopted.model_dump_json(indent=1))

    def write_started(self, started: StartedFrom) -> None:
        """Write where training began."""
        (self.path / "started_from.json").write_text(started.model_dump_json(indent=1))

    def bring_assets(self, sources: Mapping[str, Path], hashes: Hashes = NONE) -> None:
        """Bring asset files, by the names that they get here."""
        for name, source in sources.items():
            hashes.bring(source, self.assets / name)
