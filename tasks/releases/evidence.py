"""The evidence of a release, beside the version and outside its folder: what was proven, of which files, made from what.

<serving-root>/<name>/.tfship/evidence/<version>/
    statement.json            in-toto Statement v1 with SLSA provenance v1: `tasks/records/statement.py`
    manifests/<step>.json     the manifest of each step; their inputs lead from the source's digests to the served files
    reports/<step>/*.json     what each step wrote beside its model: comparisons, the restore, the smoke test
    mlbom.cdx.json            CycloneDX 1.6
    model.sig, evidence.sig   where a key is configured: of the version's folder, and of all of this folder

No weights are in it. A manifest lists the sha256 of each report, and the statement that of each manifest: what is not
signed is whole in itself, and the journal holds the digest of the whole.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.artifacts import manifest as manifests
from tasks.artifacts.hashes import NONE, READ_ONLY, Hashes, hash_file
from tasks.artifacts.manifest import FileEntry
from tasks.artifacts.store import REFUSAL, Artifact
from tasks.baseline.training_run import TrainingRun
from tasks.records.checkpoint import PinnedCheckpoint
from tasks.records.parity import ParityReport
from tasks.records.statement import (
    ARTIFACT,
    MANIFESTS,
    SHA256,
    SOURCES,
    BuildDefinition,
    Builder,
    ExternalParameters,
    InternalParameters,
    Metadata,
    Provenance,
    ResourceDescriptor,
    RunDetails,
    Statement,
)
from tasks.releases import rules, signing
from tasks.releases.ml_bom import ml_bom

STATEMENT, ML_BOM, REPORTS = "statement.json", "mlbom.cdx.json", "reports/"
BUILD_TYPE, BUILDER = "urn:tfship:promotion:v1", "urn:tfship:promote"
_LARGEST_REPORT = 16 * 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TOOLS = ("tfship", "tensorflow", "numpy", "prefect", "cyclonedx-python-lib")


@dataclass(frozen=True)
class Proven:
    """What a release is published from: its chain of artifacts by step, and how it was blessed.

    `run` is the artifact of `train` or `adopt`; `server` gave the blessing. `key` signs, where there is one.
    """

    name: str
    files: tuple[FileEntry, ...]
    artifacts: Mapping[str, Artifact]
    run: Artifact
    blessing: Artifact
    verdict: str
    server: str
    run_id: str
    key: Path | None = None

    def write(self, version: int, model: Path, out: Path) -> None:
        """Write the evidence of `model`, the folder that becomes this version, into the folder `out`.

        Raises:
            DamagedError: a report is not what the manifest of its step says.
        """
        for step, artifact in self.artifacts.items():
            _copy(artifact.path / manifests.NAME, out / MANIFESTS / f"{step}.json")
            for report in _reports(artifact):
                _copy(artifact.path / report.path, out / REPORTS / step / report.path)
                if hash_file(out / REPORTS / step / report.path) != report.sha256:
                    raise manifests.damaged(artifact.path, [f"{report.path} has changed"])
        statement = self._statement(version, [_file(out, name) for name in manifests.walk(out)])
        bom = ml_bom(statement, self.files, TrainingRun(self.run.path).names(), self._metrics(), self._comparisons())
        (out / ML_BOM).write_text(bom)
        details = statement.predicate.run_details
        details = details.model_copy(update={"byproducts": (*details.byproducts, _file(out, ML_BOM))})
        predicate = statement.predicate.model_copy(update={"run_details": details})
        statement = statement.model_copy(update={"predicate": predicate})
        (out / STATEMENT).write_text(statement.model_dump_json(indent=1, by_alias=True))
        if self.key is not None:
            signing.sign(model, out / signing.MODEL_SIGNATURE, self.key)
            signing.sign(out, out / signing.EVIDENCE_SIGNATURE, self.key)

    def _statement(self, version: int, parts: list[ResourceDescriptor]) -> Statement:
        recipe = self.run.manifest.params
        definition = BuildDefinition(
            build_type=BUILD_TYPE,
            external_parameters=ExternalParameters(
                name=self.name,
                version=version,
                source={name: value for name, value in recipe.items() if name != "facts"},
            ),
            internal_parameters=InternalParameters(
                digest=manifests.digest_of(self.files),
                model=rules.model_digest(self.files),
                blessing=self.blessing.digest,
                verdict=self.verdict,
                server=self.server,
                signed=self.key is not None,
            ),
            resolved_dependencies=(
                *sources(recipe.get("facts", {})),
                *(one for one in parts if one.name.startswith(MANIFESTS)),
                *_elsewhere(self.artifacts),
            ),
        )
        details = RunDetails(
            builder=Builder(id=BUILDER, version=_versions()),
            metadata=Metadata(
                invocation_id=self.run_id, finished_on=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            ),
            byproducts=tuple(one for one in parts if one.name.startswith(REPORTS)),
        )
        subject = tuple(ResourceDescriptor(name=one.path, digest={SHA256: one.sha256}) for one in self.files)
        return Statement(subject=subject, predicate=Provenance(build_definition=definition, run_details=details))

    def _metrics(self) -> Mapping[str, float]:
        pinned = self.artifacts["checkpoint"].path / "pinned.json"
        return PinnedCheckpoint.model_validate_json(pinned.read_bytes()).metrics

    def _comparisons(self) -> dict[str, ParityReport]:
        places = {step: one.path / "parity.json" for step, one in self.artifacts.items()}
        return {
            step: ParityReport.model_validate_json(place.read_bytes())
            for step, place in places.items()
            if place.is_file()
        }


def chain(ends: Iterable[Artifact], others: Iterable[Artifact]) -> dict[str, Artifact]:
    """Return `ends` and all of `others` that they were made from, by step."""
    known, found = {one.digest: one for one in others}, {one.digest: one for one in ends}
    waiting = list(found.values())
    while waiting:
        for digest in waiting.pop().manifest.inputs.values():
            if digest not in found and digest in known:
                found[digest] = known[digest]
                waiting.append(known[digest])
    return {one.step: one for one in found.values()}


def sources(facts: Mapping[str, Any]) -> list[ResourceDescriptor]:
    """Return what the source was: code, data and files of a model, each with the sha256 that is a fact of the step's key."""
    return [ResourceDescriptor(name=f"{SOURCES}{name}", digest={SHA256: value}) for name, value in _digests(facts)]


def _digests(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every digest among nested facts, with its place."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _digests(one, f"{name}/{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _digests(one, f"{name}/{number}")
    elif isinstance(value, str) and _DIGEST.fullmatch(value):
        yield name, value


def _elsewhere(artifacts: Mapping[str, Artifact]) -> list[ResourceDescriptor]:
    """Return what a step was given whose manifest is not at hand: a digest alone, and named as such."""
    known = {one.digest for one in artifacts.values()}
    found = {
        digest: ResourceDescriptor(name=role, digest={ARTIFACT: digest}, annotations={"manifest": "not at hand"})
        for one in artifacts.values()
        for role, digest in one.manifest.inputs.items()
        if digest not in known
    }
    return list(found.values())


def _copy(source: Path, target: Path) -> None:
    """Copy a small file: a link would share the damage of the other."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _reports(artifact: Artifact) -> list[FileEntry]:
    """Return what a step wrote for readers: JSON beside its model, of `_LARGEST_REPORT` bytes at most."""
    return [
        one
        for one in artifact.manifest.files
        if one.path.endswith(".json") and "/" not in one.path and one.path != REFUSAL and one.size <= _LARGEST_REPORT
    ]


def _file(folder: Path, name: str) -> ResourceDescriptor:
    annotations: dict[str, Any] = {}
    if name.startswith(MANIFESTS):
        digest = manifests.read_json(folder / name)["digest"]
        annotations = {"digest": {ARTIFACT: digest}}
    return ResourceDescriptor(name=name, digest={SHA256: hash_file(folder / name)}, annotations=annotations)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def seal(folder: Path) -> None:
    """Make the files of an evidence folder read-only, and sync them and their folders."""
    for name in manifests.walk(folder, without=""):
        (folder / name).chmod(READ_ONLY)
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())
    manifests.sync_tree(folder)


def digest(folder: Path) -> str:
    """Return the digest of an evidence folder, which the journal holds; empty where there is none."""
    return manifests.digest_of(listed(folder)) if folder.is_dir() else ""


def listed(folder: Path, hashes: Hashes = NONE) -> tuple[FileEntry, ...]:
    """List all files below a folder, whatever their names, and read those whose hash is not known.

    Raises:
        DamagedError: something is no regular file.
    """
    return tuple(
        FileEntry(path=name, size=(folder / name).stat().st_size, sha256=hashes.of(folder / name))
        for name in manifests.walk(folder, without="")
    )
