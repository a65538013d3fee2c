"""Views of what each step committed: the files of its folder by name, and the records in them.

A view is made of a committed folder, or of the folder that a step is filling. A training run has its own view, which
the rooms below use too: `tasks/baseline/training_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.artifacts.manifest import FileEntry
from tasks.artifacts.store import Artifact
from tasks.errors import UsageError
from tasks.records.base import Record
from tasks.records.checkpoint import PinnedCheckpoint, RestoreReport
from tasks.records.forms import FROZEN_GRAPH_FILE, KERAS_ARCHIVE, Target
from tasks.records.parity import Limits, ParityReport, Tolerance
from tasks.records.rehearsal import Rehearsal
from tasks.records.serving import SmokeReport

PARITY = "parity.json"
_SAVED_MODEL = "saved_model"
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class View:
    """The folder of a step."""

    path: Path

    def _read(self, name: str, record: type[R]) -> R | None:
        place = self.path / name
        return record.model_validate_json(place.read_bytes()) if place.exists() else None

    def _write(self, name: str, record: Record) -> None:
        (self.path / name).write_text(record.model_dump_json(indent=1))


class Compared(View):
    """The folder of a step that compares a form with the baseline."""

    def parity(self) -> ParityReport | None:
        """The comparison, None where the step ended before there was one."""
        return self._read(PARITY, ParityReport)

    def write_parity(self, report: ParityReport) -> None:
        """Write the comparison."""
        self._write(PARITY, report)


class Pinned(View):
    """The folder of `checkpoint`."""

    @property
    def file(self) -> Path:
        """The record's file."""
        return self.path / "pinned.json"

    def record(self) -> PinnedCheckpoint:
        """Which checkpoint it is, and its tensors."""
        return PinnedCheckpoint.model_validate_json(self.file.read_bytes())

    def write(self, record: PinnedCheckpoint) -> None:
        """Write the record."""
        self._write(self.file.name, record)


class Restored(Compared):
    """The folder of `restore_verify`."""

    def report(self) -> RestoreReport | None:
        """The report, None where the step was refused before there was one."""
        return self._read("restore.json", RestoreReport)

    def limits(self, declared: Tolerance) -> Limits:
        """The limits of later comparisons: what is declared, else rounding, or the noise that was measured."""
        report = self.report()
        return Limits.measured_of(declared, report.noise if report else ())

    def write(self, report: RestoreReport) -> None:
        """Write the report, and its comparison beside it."""
        self._write("restore.json", report)
        self.write_parity(report.parity)


class Frozen(Compared):
    """The folder of `freeze`."""

    @property
    def graph(self) -> Path:
        """The GraphDef; it is not there where the model has no frozen form."""
        return self.path / FROZEN_GRAPH_FILE


class Exported(Compared):
    """The folder of `export`."""

    @property
    def model(self) -> Path:
        """The SavedModel."""
        return self.path / _SAVED_MODEL


class Converted(Compared):
    """The folder of `convert`."""

    def form(self, target: Target) -> Path:
        """The folder of one of the forms that were written."""
        return self.path / target.value

    @property
    def archive(self) -> Path:
        """The Keras archive."""
        return self.form(Target.KERAS) / KERAS_ARCHIVE


class Smoked(Compared):
    """The folder of `smoke_test`."""

    def report(self) -> SmokeReport | None:
        """The report, None where the model was refused before a server was started."""
        return self._read("smoke.json", SmokeReport)

    def write(self, report: SmokeReport) -> None:
        """Write the report, and its comparison beside it."""
        self._write("smoke.json", report)
        self.write_parity(report.parity)

    def log(self, round_: int) -> Path:
        """The server's log of one round."""
        return self.path / server_log(round_)


class Rehearsed(View):
    """The folder of `rehearse`."""

    def report(self) -> Rehearsal | None:
        """The report, None where the step was refused before there was one."""
        return self._read("rehearsal.json", Rehearsal)

    def write(self, report: Rehearsal) -> None:
        """Write the report."""
        self._write("rehearsal.json", report)

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / server_log(0)


def server_log(number: int) -> str:
    """The file name of the log of one server among several."""
    return f"server-{number}.log" if number else "server.log"


def written_by(target: Target) -> str:
    """Return the step that writes a form."""
    return {Target.SAVED_MODEL: "export", Target.FROZEN: "freeze"}.get(target, "convert")


def form_in(folder: Path, target: Target) -> Path:
    """Return the folder of a form in the artifact of the step that writes it."""
    if target is Target.FROZEN:
        return folder
    return Exported(folder).model if target is Target.SAVED_MODEL else Converted(folder).form(target)


def require_verified(verified: Artifact, checkpoint: Artifact, run: Artifact) -> None:
    """Raise UsageError unless `verified` is the proof of exactly this checkpoint and this run."""
    about = verified.manifest.inputs
    these = {"checkpoint": checkpoint.digest, "run": run.digest}
    if verified.step != "restore_verify" or about != these:
        raise UsageError("verified", f"a restore-verify of {these}", f"{verified.step} of {about}", "verify this one.")


def model_files(exported: Artifact) -> tuple[FileEntry, ...]:
    """The files of the exported SavedModel, by their paths inside it."""
    prefix = f"{_SAVED_MODEL}/"
    return tuple(
        entry.model_copy(update={"path": entry.path.removeprefix(prefix)})
        for entry in exported.manifest.files
        if entry.path.startswith(prefix)
    )


def model_at(exported: Artifact, target: Path) -> list[tuple[Path, Path]]:
    """The exported SavedModel's files, each with its place below `target`: the copy that is served, away from the store."""
    return [(Exported(exported.path).model / entry.path, target / entry.path) for entry in model_files(exported)]
