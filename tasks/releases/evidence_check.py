"""The check of a release against its evidence: file by file, without a network, a store or TensorFlow.

What is wrong is named: a served file, a file of the evidence, a link of the chain of manifests, the journal, a signature.
Where a public key is given, it decides in the end: everything else could have been made anew by whoever changed the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tasks.artifacts import manifest as manifests
from tasks.artifacts.hashes import NONE, Hashes
from tasks.artifacts.manifest import FileEntry, Manifest
from tasks.errors import DamagedError, EnvironmentFailure, EvidenceError
from tasks.records.base import Record
from tasks.records.statement import ARTIFACT, MANIFESTS, SOURCES, ResourceDescriptor, Statement
from tasks.releases import evidence as evidences
from tasks.releases import rules, signing
from tasks.releases.publish import Releases

_SIGNATURES = {signing.MODEL_SIGNATURE, signing.EVIDENCE_SIGNATURE}
_BACK = (
    "do not serve it: restore the version and its evidence from where they were promoted, or choose another version."
)
_FIRST, _PROVEN = {"train", "adopt"}, {"checkpoint", "export", "smoke_test"}
_ORDER = ("train", "adopt", "checkpoint", "restore_verify", "freeze", "export", "smoke_test", "rehearse")


class ReleaseProof(Record):
    """What the evidence of a release came to, all of which held.

    `chain` are the steps that lead to the served files, `sources` what the first of them was given. `signature` is
    `verified` with a public key, `not checked` where none was given, `none` where the release is not signed. `journalled`
    is True if the journal has the digest of the evidence.
    """

    name: str
    version: int
    digest: str
    evidence: str
    files: tuple[str, ...]
    chain: tuple[str, ...]
    sources: tuple[str, ...]
    signature: Literal["verified", "not checked", "none"]
    journalled: bool


def check(releases: Releases, version: int, public_key: Path | None = None, hashes: Hashes = NONE) -> ReleaseProof:
    """Check a version against its evidence, and return what that came to. `hashes` are those already known of its files.

    Raises:
        EvidenceError: something is not as it was when the version was promoted, or there is no evidence.
        DamagedError: the journal cannot be read.
        UsageError: there is no such version, or the key is none.
        EnvironmentFailure: a file cannot be read.
    """
    try:
        return _checked(releases, version, public_key, hashes)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"release {releases.name} {version}") from None


def _checked(releases: Releases, version: int, public_key: Path | None, hashes: Hashes) -> ReleaseProof:
    served, folder = releases.folder(version), releases.evidence(version)
    if not folder.is_dir():
        remedy = "promote the model again to have it: versions that came by hand, or from an older tfship, have none."
        raise EvidenceError(f"release {releases.name} {version}", f"its evidence in {folder}", "none", remedy)
    statement = _statement(folder)
    named = statement.parameters
    if (named.name, named.version) != (releases.name, version):
        expected, found = f"evidence of {releases.name} {version}", f"that of {named.name} {named.version}"
        raise EvidenceError(str(folder / evidences.STATEMENT), expected, found, _BACK)
    listed = _listed(folder)
    present = {one.path: one.sha256 for one in listed}
    promised = _SIGNATURES if statement.signed else set()
    own = {name: sha256 for name, sha256 in present.items() if name not in {evidences.STATEMENT, *promised}}
    _require_same(folder, statement.files(), own, missing=promised - present.keys())
    subject = {one.name: one.sha256 for one in statement.subject}
    _require_same(served, subject, {one.path: one.sha256 for one in _listed(served, hashes)})
    chain = _manifests(folder, statement)
    _require_linked(folder, chain, statement, subject)
    if public_key is not None:
        _require_signed(folder, statement, public_key)
        signing.verify(folder, folder / signing.EVIDENCE_SIGNATURE, public_key)
        signing.verify(served, folder / signing.MODEL_SIGNATURE, public_key)
    digest = manifests.digest_of(listed)
    line = rules.published(releases.journal()).get(version)
    if line is not None and line.evidence != digest:
        found = f"another, {digest[:12]}" if line.evidence else f"one that it does not know, {digest[:12]}"
        expected = f"the evidence that the journal has of {line.time}, {line.evidence[:12] or 'none'}"
        raise EvidenceError(str(folder), expected, found, _BACK)
    signature: Literal["verified", "not checked", "none"] = "not checked" if statement.signed else "none"
    return ReleaseProof(
        name=releases.name,
        version=version,
        digest=statement.predicate.build_definition.internal_parameters.digest,
        evidence=digest,
        files=tuple(sorted(subject)),
        chain=tuple(sorted(chain, key=lambda step: _ORDER.index(step) if step in _ORDER else len(_ORDER))),
        sources=tuple(one.name.removeprefix(SOURCES) for one in _sources(statement)),
        signature="verified" if public_key is not None else signature,
        journalled=line is not None,
    )


def _statement(folder: Path) -> Statement:
    place = folder / evidences.STATEMENT
    try:
        return Statement.model_validate_json(place.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise EvidenceError(
            str(folder), "a statement of what was promoted", f"{place.name} is missing", _BACK
        ) from None
    except ValueError as error:
        raise EvidenceError(
            str(place), "an in-toto statement of tfship", f"something else ({type(error).__name__})", _BACK
        ) from None


def _listed(folder: Path, hashes: Hashes = NONE) -> tuple[FileEntry, ...]:
    try:
        return evidences.listed(folder, hashes)
    except DamagedError as damage:  # a link, a device or a name that is no text
        raise EvidenceError(damage.where, "regular files alone", damage.found, _BACK) from None


def _require_same(
    place: Path, expected: Mapping[str, str], present: Mapping[str, str], missing: Iterable[str] = ()
) -> None:
    """Raise EvidenceError for every file that is missing, was added or has changed, by name."""
    problems = [f"{name} is missing" for name in sorted({*missing, *(expected.keys() - present.keys())})]
    problems += [f"{name} was added" for name in sorted(present.keys() - expected.keys())]
    problems += [f"{name} has changed" for name, sha256 in expected.items() if present.get(name, sha256) != sha256]
    if problems:
        raise EvidenceError(str(place), "the files of its statement", "; ".join(problems), _BACK)


def _broken(folder: Path, expected: str, found: str) -> EvidenceError:
    return EvidenceError(f"{folder}, its chain of manifests", expected, found, _BACK)


def _manifests(folder: Path, statement: Statement) -> dict[str, Manifest]:
    """Read the manifests that the statement lists, by step. Raises EvidenceError: one is none, was edited, or is lacking."""
    chain = {}
    for name in (one for one in statement.files() if one.startswith(MANIFESTS)):
        step = name.removeprefix(MANIFESTS).removesuffix(".json")
        try:
            chain[step] = manifest = Manifest.model_validate_json((folder / name).read_bytes())
        except ValidationError:
            raise _broken(folder, "manifests", f"something else in {name}") from None
        if not manifest.intact or manifest.step != step:
            raise _broken(folder, f"the manifest of {step}", f"one that was edited, in {name}")
    if len(_FIRST & chain.keys()) != 1 or not chain.keys() >= _PROVEN:
        expected = "train or adopt, checkpoint, export and smoke_test"
        raise _broken(folder, expected, ", ".join(sorted(chain)) or "none")
    return chain


def _require_linked(
    folder: Path, chain: Mapping[str, Manifest], statement: Statement, subject: Mapping[str, str]
) -> None:
    """Raise EvidenceError unless each manifest follows from the others, from the sources up to the served files."""
    root, exported = chain[next(iter(_FIRST & chain.keys()))], chain["export"]
    if evidences.sources(root.params.get("facts", {})) != _sources(statement):
        raise _broken(folder, "the sources that the statement names", f"others, in the manifest of {root.step}")
    known = {manifest.digest for manifest in chain.values()}
    known |= {one.digest.get(ARTIFACT, "") for one in statement.predicate.build_definition.resolved_dependencies}
    for step, manifest in chain.items():
        for role, digest in manifest.inputs.items():
            if digest not in known:
                raise _broken(folder, f"the {role} of {step}, {digest[:12]}", "no manifest of it")
    for step, role, made_from in (
        ("checkpoint", "run", root),
        ("export", "run", root),
        ("export", "checkpoint", chain["checkpoint"]),
        ("smoke_test", "exported", exported),
    ):
        if chain[step].inputs.get(role) != made_from.digest:
            raise _broken(folder, f"{step} of this {made_from.step}, {made_from.digest[:12]}", "one of another")
    internal = statement.predicate.build_definition.internal_parameters
    if chain["smoke_test"].digest != internal.blessing:
        raise _broken(folder, "the smoke test that the statement names", "another")
    prefix = "saved_model/"
    written = [one for one in exported.files if one.path.startswith(prefix)]
    written = [one.model_copy(update={"path": one.path.removeprefix(prefix)}) for one in written]
    if {one.path: one.sha256 for one in written} != subject or manifests.digest_of(written) != internal.digest:
        raise _broken(folder, "the served files in the manifest of export", "others")
    reports = {
        f"{evidences.REPORTS}{step}/{one.path}": one.sha256
        for step, manifest in chain.items()
        for one in manifest.files
    }
    for name, sha256 in statement.files().items():
        if name.startswith(evidences.REPORTS) and reports.get(name) != sha256:
            raise _broken(folder, f"{name} in the manifest of its step", "another, or none")


def _sources(statement: Statement) -> list[ResourceDescriptor]:
    found = statement.predicate.build_definition.resolved_dependencies
    return [one for one in found if one.name.startswith(SOURCES)]


def _require_signed(folder: Path, statement: Statement, public_key: Path) -> None:
    if not statement.signed:
        remedy = "promote it again with `--signing-key`, or verify it without a public key if that is enough for you."
        raise EvidenceError(str(folder), f"a signature by {public_key}", "none: it was not signed", remedy)
