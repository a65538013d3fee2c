"""Ways to tamper with a release after its promotion: each changes a serving root in place, under version 2 of model `m`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.artifacts.store import remove_tree
from tests.makers.mutants_releases import DATA, flip

NAME = "m"


@dataclass(frozen=True)
class Release:
    """A serving root with two versions of `m`, both with their evidence."""

    root: Path

    @property
    def served(self) -> Path:
        """The folder of version 2."""
        return self.root / NAME / "2"

    def evidence(self, version: int = 2) -> Path:
        """The folder of a version's evidence."""
        return self.root / NAME / ".tfship" / "evidence" / str(version)


@dataclass(frozen=True)
class Fault:
    """`said` is in the message without a key, `signed` with the public key, where that says more; "" for the same."""

    name: str
    tamper: Callable[[Release], None]
    said: str
    signed: str = ""


def write(path: Path, content: bytes) -> None:
    """New contents of a file that may be read-only, or a link of the store's."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Release], None]:
    """A text in a file of the evidence replaced by another."""

    def tamper(release: Release) -> None:
        path = release.evidence() / name
        content = path.read_bytes()
        assert old in content, "there is nothing to replace"
        write(path, content.replace(old, new, 1))

    return tamper


def covered_up(name: str, old: bytes, new: bytes) -> Callable[[Release], None]:
    """The same, with the statement corrected to it: what somebody does who knows how it is made."""

    def tamper(release: Release) -> None:
        path, statement = release.evidence() / name, release.evidence() / "statement.json"
        before = hashlib.sha256(path.read_bytes()).hexdigest()
        replaced(name, old, new)(release)
        after = hashlib.sha256(path.read_bytes()).hexdigest()
        write(statement, statement.read_bytes().replace(before.encode(), after.encode()))

    return tamper


def weights_of_another(release: Release) -> None:
    """The weights of version 1, and the statement corrected to them."""
    old, new = release.served / DATA, release.served.with_name("1") / DATA
    content, digests = new.read_bytes(), [hashlib.sha256(one.read_bytes()).hexdigest() for one in (old, new)]
    assert digests[0] != digests[1], "these are the same weights"
    write(old, content)
    statement = release.evidence() / "statement.json"
    write(statement, statement.read_bytes().replace(digests[0].encode(), digests[1].encode()))


def swapped(name: str) -> Callable[[Release], None]:
    """A file of the evidence of version 1 in the place of that of version 2."""
    return lambda release: write(release.evidence() / name, (release.evidence(1) / name).read_bytes())


def removed(name: str) -> Callable[[Release], None]:
    """A file of the evidence taken away."""
    return lambda release: (release.evidence() / name).unlink()


def added(name: str) -> Callable[[Release], None]:
    """A file beside the served ones."""
    return lambda release: (release.served / name).write_bytes(b"{}")


def linked(release: Release) -> None:
    """A served file that is a symbolic link to itself elsewhere: what it leads to can change at any time."""
    elsewhere = shutil.copy(release.served / DATA, release.root / "elsewhere")
    (release.served / DATA).unlink()
    (release.served / DATA).symlink_to(elsewhere)


def evidence_of_another(release: Release) -> None:
    """The whole evidence of version 1."""
    remove_tree(release.evidence())
    shutil.copytree(release.evidence(1), release.evidence())


def another_release(release: Release) -> None:
    """Version 1, its evidence too, in the place of version 2: everything that is signed is genuine."""
    evidence_of_another(release)
    remove_tree(release.served)
    shutil.copytree(release.served.with_name("1"), release.served)


def unsigned(release: Release) -> None:
    """Made to look as if it had never been signed."""
    replaced("statement.json", b'"signed": true', b'"signed": false')(release)
    for name in ("model.sig", "evidence.sig"):
        removed(name)(release)


def without_restore(release: Release) -> None:
    """A link of the chain taken away, in the statement too."""
    path = release.evidence() / "statement.json"
    document = json.loads(path.read_bytes())
    definition, details = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    for holder, key in ((definition, "resolvedDependencies"), (details, "byproducts")):
        holder[key] = [one for one in holder[key] if "restore_verify" not in one["name"]]
    write(path, json.dumps(document).encode())
    (release.evidence() / "manifests" / "restore_verify.json").unlink()
    remove_tree(release.evidence() / "reports" / "restore_verify")


def folder_for_statement(release: Release) -> None:
    """An empty folder where the statement was."""
    removed("statement.json")(release)
    (release.evidence() / "statement.json").mkdir()


def listed(name: str) -> Callable[[Release], None]:
    """A file that no step wrote, in the evidence and in the statement."""

    def tamper(release: Release) -> None:
        path, statement = release.evidence() / name, release.evidence() / "statement.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{}")
        document = json.loads(statement.read_bytes())
        entry = {"name": name, "digest": {"sha256": hashlib.sha256(b"{}").hexdigest()}}
        document["predicate"]["runDetails"]["byproducts"].append(entry)
        write(statement, json.dumps(document).encode())

    return tamper


JOURNAL = "the evidence that the journal has"
FAULTS = (
    Fault("one bit of a served file", lambda one: flip(one.served / DATA), f"{DATA} has changed"),
    Fault("a served file gone", lambda one: (one.served / "saved_model.pb").unlink(), "saved_model.pb is missing"),
    Fault("a file added", added("variables/more"), "variables/more was added"),
    Fault("a file added that manifests leave out", added("manifest.json"), "manifest.json was added"),
    Fault("a file added that git knows", added(".gitignore"), ".gitignore was added"),
    Fault("a served file is a link", linked, f"{DATA} is not a regular file"),
    Fault("other weights, covered up", weights_of_another, "the served files in the manifest of export"),
    Fault("no evidence", lambda one: remove_tree(one.evidence()), "its evidence in"),
    Fault("no statement", removed("statement.json"), "statement.json is missing"),
    Fault("a statement that is none", lambda one: write(one.evidence() / "statement.json", b"{"), "an in-toto statement"),
    Fault("the verdict edited", replaced("statement.json", b"(stand-in)", b"(stand up)"), JOURNAL, "Hash mismatch for 'statement.json'"),
    Fault("a report edited", replaced("reports/smoke_test/smoke.json", b"true", b"trUe"), "smoke.json has changed"),
    Fault("a report edited, covered up", covered_up("reports/smoke_test/smoke.json", b"true", b"True"), "reports/smoke_test/smoke.json in the manifest of its step"),
    Fault("a report gone", removed("reports/export/parity.json"), "reports/export/parity.json is missing"),
    Fault("a report added", lambda one: (one.evidence() / "reports" / "more.json").write_bytes(b"{}"), "reports/more.json was added"),
    Fault("a report added, covered up", listed("reports/more.json"), "reports/more.json in the manifest of its step"),
    Fault("a manifest added, covered up", listed("manifests/of/export.json"), "something else in manifests/of/export.json"),
    Fault("a folder for a statement", folder_for_statement, "statement.json is missing"),
    Fault("a manifest edited, covered up", covered_up("manifests/train.json", b'"seed": 0', b'"seed": 1'), "edited, in manifests/train.json"),
    Fault("a digest of the sources edited", replaced("statement.json", b'facts/source/module', b'facts/source/modules'), "the sources that the statement names"),
    Fault("a link of the chain gone, covered up", without_restore, "no manifest of it"),
    Fault("the bill of materials edited", replaced("mlbom.cdx.json", b'"1.6"', b'"1.7"'), "mlbom.cdx.json has changed"),
    Fault("the signature of the model swapped", swapped("model.sig"), JOURNAL, "Hash mismatch for 'model.sig'"),
    Fault("the signature of the evidence swapped", swapped("evidence.sig"), JOURNAL, "one of other files"),
    Fault("a signature gone", removed("evidence.sig"), "evidence.sig is missing"),
    Fault("a signature that is none", lambda one: write(one.evidence() / "evidence.sig", b"[]"), JOURNAL, "what is no signature"),
    Fault("one bit of a signature", lambda one: flip(one.evidence() / "evidence.sig"), JOURNAL, "evidence.sig"),
    Fault("the signatures taken away", unsigned, JOURNAL, "it was not signed"),
    Fault("the evidence of another version", evidence_of_another, "found that of m 1"),
    Fault("another version under this number", another_release, "found that of m 1"),
)  # fmt: skip
