"""A release is what its evidence says: whole where nothing was touched, refused by name where anything was."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement as InTotoStatement
from model_signing import verifying

from tasks.artifact_views import Exported, model_files
from tasks.artifacts.store import Artifact, remove_tree
from tasks.baseline.training_run import TrainingRun
from tasks.errors import EvidenceError, ExitCode, UsageError
from tasks.label import label
from tasks.promote import promote
from tasks.records.release import Event
from tasks.records.run import Promotion
from tasks.records.settings import Release as Settings
from tasks.records.statement import ResourceDescriptor, Statement
from tasks.releases import evidence, rules, signing
from tasks.releases.evidence_check import ReleaseProof, check
from tasks.releases.ml_bom import ml_bom
from tasks.releases.publish import Releases
from tasks.releases.status import status
from tasks.rollback import rollback
from tasks.smoke_test import smoke_test
from tasks.step import Run
from tests.artifacts.disk import killed_at
from tests.makers.exported import TOLERANCE, Made, a_run, exported, serving
from tests.makers.release_faults import FAULTS, NAME, Fault, Release

FACTORS = (2.0, 3.0)
FEWEST_MOMENTS = 100
Model = tuple[Made, Artifact]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with a_run(tmp_path_factory.mktemp("store")) as entered:
        yield entered


@pytest.fixture(scope="module")
def models(run: Run) -> list[Model]:
    """Models that differ by one number, each with its blessing."""
    made = [exported("Scaled", factor=factor) for factor in FACTORS]
    return [(one, smoke_test(*one, serving(), TOLERANCE)) for one in made]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return signing.make_key_pair(tmp_path_factory.mktemp("keys"))


def promoted(model: Model, root: Path, **options: Any) -> Promotion:
    (out, checkpoint, made, _), blessed = model
    settings = Settings(serving_root=root, name=NAME, **options)
    return promote(out, blessed, checkpoint, made, settings, serving(), TOLERANCE)


def released(models: list[Model], root: Path, **options: Any) -> Release:
    """Both models, promoted under an umask that hides everything."""
    before = os.umask(0o077)
    try:
        assert [promoted(model, root, **options).version for model in models] == [1, 2]
    finally:
        os.umask(before)
    return Release(root)


@pytest.fixture(scope="module")
def signed(models: list[Model], keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Release:
    key, public = keys
    return released(models, tmp_path_factory.mktemp("signed"), signing_key=key, public_key=public)


@pytest.fixture(scope="module")
def unsigned(models: list[Model], tmp_path_factory: pytest.TempPathFactory) -> Release:
    return released(models, tmp_path_factory.mktemp("unsigned"))


def checked(release: Release, version: int = 2, key: Path | None = None) -> ReleaseProof:
    return check(Releases(release.root, NAME), version, key)


def copied(release: Release, folder: Path) -> Release:
    shutil.copytree(release.root, folder / "serving")
    return Release(folder / "serving")


def document(release: Release, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((release.evidence() / name).read_bytes())
    return found


def test_what_was_not_touched_is_whole_and_leads_back_to_its_sources(
    models: list[Model], signed: Release, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("something wants a network"))
    found = checked(signed, key=keys[1])
    (out, _, made, _), blessed = models[1]
    assert found.signature == "verified" and found.journalled
    assert found.chain == ("train", "checkpoint", "restore_verify", "freeze", "export", "smoke_test")
    assert found.files == tuple(sorted(one.path for one in model_files(out)))
    facts = made.manifest.params["facts"]["source"]
    assert found.sources == tuple(f"source/{name}" for name in facts)
    statement = document(signed, "statement.json")
    internal = statement["predicate"]["buildDefinition"]["internalParameters"]
    assert (internal["digest"], internal["blessing"]) == (found.digest, blessed.digest)
    assert set(statement["predicate"]["runDetails"]["builder"]["version"]) >= {"tensorflow", "python", "prefect"}
    (last,) = [line for line in Releases(signed.root, NAME).journal() if line.version == 2 and line.evidence]
    assert last.event is Event.PROMOTED and last.evidence == found.evidence
    assert checked(signed, key=None).signature == "not checked"


def test_a_moved_serving_root_is_whole_too(signed: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert checked(copied(signed, tmp_path), key=keys[1]) == checked(signed, key=keys[1])


def test_what_was_never_signed_passes_as_unsigned_and_not_as_signed(unsigned: Release, keys: tuple[Path, Path]) -> None:
    assert checked(unsigned).signature == "none"
    with pytest.raises(EvidenceError, match="found none: it was not signed"):
        checked(unsigned, key=keys[1])


def test_another_key_is_refused_by_its_name(signed: Release, tmp_path: Path) -> None:
    _, other = signing.make_key_pair(tmp_path)
    with pytest.raises(EvidenceError, match="found one by another key") as refused:
        checked(signed, key=other)
    assert str(other) in refused.value.expected


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_what_was_tampered_with_is_refused_by_name(
    signed: Release, keys: tuple[Path, Path], tmp_path: Path, fault: Fault
) -> None:
    release = copied(signed, tmp_path)
    fault.tamper(release)
    for key, said in ((None, fault.said), (keys[1], fault.signed or fault.said)):
        with pytest.raises(EvidenceError) as refused:
            checked(release, key=key)
        assert said in str(refused.value) and "Remedy: " in str(refused.value), key
        assert refused.value.exit_code is ExitCode.GATE_REFUSED
    assert checked(release, 1, keys[1]).signature == "verified", "the other version is not concerned"


def test_what_was_made_anew_by_another_key_is_refused(signed: Release, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Whoever can write here can make everything but the signature, and the journal too."""
    release = copied(signed, tmp_path)
    theirs, _ = signing.make_key_pair(tmp_path / "theirs")
    folder = release.evidence()
    for name, what in (("model.sig", release.served), ("evidence.sig", folder)):
        (folder / name).unlink()
        signing.sign(what, folder / name, theirs)
    journal = release.root / NAME / ".tfship" / "journal.jsonl"
    text = journal.read_text().replace(evidence.digest(signed.evidence()), evidence.digest(folder))
    journal.write_text(text)
    assert checked(release).signature == "not checked"
    with pytest.raises(EvidenceError, match=r"evidence\.sig: .* found one by another key"):
        checked(release, key=keys[1])


def test_the_statement_is_in_totos_and_the_signature_the_librarys(signed: Release, keys: tuple[Path, Path]) -> None:
    text = (signed.evidence() / "statement.json").read_text()
    message = json_format.Parse(text, InTotoStatement([], "", {}).pb)
    InTotoStatement.copy_from_pb(message).validate()
    assert message.predicate_type == "https://slsa.dev/provenance/v1"
    anybody = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    anybody.verify(signed.served, signed.evidence() / "model.sig")


def test_the_bill_of_materials_is_valid_and_says_what_was_served(models: list[Model], signed: Release) -> None:
    text = (signed.evidence() / "mlbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", NAME, "2")
    hashes = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    assert hashes == {one.path: one.sha256 for one in model_files(models[1][0][0])}
    parameters = model["modelCard"]["modelParameters"]
    assert [one["format"] for one in parameters["inputs"]] == ["serving_default/x: float32 [?]"]
    parts = {one["name"]: one for one in bom["components"]}
    assert parts["tensorflow"]["purl"] == f"pkg:pypi/tensorflow@{parts['tensorflow']['version']}"
    assert {ref["ref"] for ref in parameters["datasets"]} <= {one["bom-ref"] for one in bom["components"]}


def test_training_data_is_a_data_set_and_code_is_none(models: list[Model], signed: Release) -> None:
    names = ("facts/source/data rows.npz", "facts/source/module mine", "facts/files/saved_model.pb")
    given = tuple(ResourceDescriptor(name=name, digest={"sha256": "0" * 64}) for name in names)
    statement = Statement.model_validate(document(signed, "statement.json"))
    definition = statement.predicate.build_definition.model_copy(update={"resolved_dependencies": given})
    predicate = statement.predicate.model_copy(update={"build_definition": definition})
    run = TrainingRun(models[1][0][2].path)
    text = ml_bom(statement.model_copy(update={"predicate": predicate}), (), run.names(), {"accuracy": 0.5}, {})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    card = json.loads(text)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": names[0]}]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "accuracy", "value": "0.5"}]


def test_a_version_without_evidence_is_told_apart(
    models: list[Model], signed: Release, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    release = copied(signed, tmp_path)
    shutil.copytree(release.served, release.root / NAME / "7")
    with pytest.raises(EvidenceError, match=r"m 7: expected its evidence .* found none"):
        checked(release, 7)
    with pytest.raises(UsageError, match="version 9"):
        checked(release, 9)


def test_a_rollback_verifies_its_target_before_anything_changes(
    signed: Release, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    release = copied(signed, tmp_path)
    options = Settings(serving_root=release.root, name=NAME, reason="worse", public_key=keys[1])
    victim = release.evidence(1) / "reports" / "smoke_test" / "smoke.json"
    content = victim.read_bytes()
    remove_tree(victim.parent)
    before = Releases(release.root, NAME).journal()
    with pytest.raises(EvidenceError, match=r"smoke\.json is missing"):
        rollback(options, None, serving(), "test")
    assert Releases(release.root, NAME).journal() == before and (release.root / NAME / "2").is_dir()
    release = copied(signed, tmp_path / "again")
    assert content == (release.evidence(1) / "reports" / "smoke_test" / "smoke.json").read_bytes()
    line = rollback(options.model_copy(update={"serving_root": release.root}), None, serving(), "test")
    assert line.version == 1 and release.evidence(2).is_dir(), "the evidence of what was rolled back stays"


def test_a_label_is_not_led_to_what_was_tampered_with_and_status_names_it(
    signed: Release, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    release = copied(signed, tmp_path)
    plain = Settings(serving_root=release.root, name=NAME, label="canary")
    options = plain.model_copy(update={"public_key": keys[1]})
    assert status(options, full=True).disagreements == ()
    assert label(options, 2, 1.0) is not None
    victim = release.evidence(1) / "mlbom.cdx.json"
    victim.chmod(0o644)
    victim.write_text(victim.read_text() + " ")
    before = (release.root / "models.config").read_bytes()
    with pytest.raises(EvidenceError, match=r"mlbom\.cdx\.json has changed"):
        label(options, 1, 1.0)
    assert (release.root / "models.config").read_bytes() == before
    for settings in (options, plain):
        (found,) = status(settings, full=True).disagreements
        assert found.startswith("version 1 is not what its evidence says: mlbom.cdx.json has changed")
    assert status(options, full=False).disagreements == ()
    another = options.model_copy(update={"public_key": signing.make_key_pair(tmp_path / "others")[1]})
    assert len(status(another, full=True).disagreements) == 2, "neither is signed by that key"


def test_a_promotion_takes_back_what_is_not_what_it_signed(
    models: list[Model], keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = evidence.Proven.write

    def spoilt(self: evidence.Proven, version: int, model: Path, out: Path) -> None:
        write(self, version, model, out)
        (out / "mlbom.cdx.json").write_text("{}")

    with monkeypatch.context() as patch:
        patch.setattr(evidence.Proven, "write", spoilt)
        with pytest.raises(EvidenceError, match=r"mlbom\.cdx\.json has changed"):
            promoted(models[0], tmp_path, signing_key=keys[0], public_key=keys[1])
    found = Releases(tmp_path, NAME)
    assert found.served() is None and found.journal()[-1].event is Event.WITHDRAWN
    assert promoted(models[0], tmp_path, signing_key=keys[0], public_key=keys[1]).version == 2
    assert checked(Release(tmp_path), key=keys[1]).signature == "verified"


@pytest.mark.parametrize("given", ["no pair", "public alone"])
def test_keys_that_cannot_work_are_refused_before_anything_is_published(
    models: list[Model], keys: tuple[Path, Path], tmp_path: Path, given: str
) -> None:
    other, _ = signing.make_key_pair(tmp_path / "other")
    options = {"signing_key": other} if given == "no pair" else {}
    with pytest.raises(UsageError, match="public key"):
        promoted(models[0], tmp_path / "serving", public_key=keys[1], **options)
    assert not (tmp_path / "serving").exists()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on a disk without latency, where there is one: there are hundreds of kills to come."""
    place = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tfship-test-", dir=place if place.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def test_a_killed_promotion_leaves_no_version_or_one_with_whole_evidence(
    models: list[Model], keys: tuple[Path, Path], memory: Path
) -> None:
    (out, checkpoint, made, frozen), blessed = models[0]
    source = shutil.copytree(Exported(out.path).model, memory / "model")
    proven = evidence.Proven(
        name=NAME,
        files=model_files(out),
        artifacts=evidence.chain((made, checkpoint, out, blessed), (frozen,)),
        run=made,
        blessing=blessed,
        verdict="passed",
        server="none",
        run_id="test",
        key=keys[0],
    )
    release = Release(memory / "serving")

    def publish() -> int:
        with Releases(release.root, NAME).open() as releases:
            return releases.publish(source, model_files(out), evidence=proven.write)

    ends = set()
    for moment in range(10_000):
        remove_tree(release.root)
        killed = killed_at(moment, publish)
        found = Releases(release.root, NAME)
        there = found.served() is not None
        assert not there or checked(release, 1, keys[1]).signature == "verified", moment
        with found.open():
            pass
        assert there == (found.served() is not None) == found.evidence(1).is_dir(), moment
        assert not list((found.own / "staging").iterdir()), moment
        ends.add((killed, there))
        if not killed:
            break
        if moment % 20 == 0:
            intended = any(line.version == 1 for line in found.journal())
            assert publish() == (2 if intended else 1), moment
            assert checked(release, found.served() or 0, keys[1]).signature == "verified"
    assert ends == {(True, False), (True, True), (False, True)} and moment >= FEWEST_MOMENTS


def test_the_number_of_lost_evidence_is_not_given_again(models: list[Model], unsigned: Release, tmp_path: Path) -> None:
    release = copied(unsigned, tmp_path)
    remove_tree(release.served)
    (release.root / NAME / ".tfship" / "journal.jsonl").unlink()
    assert promoted(models[1], release.root).version == 3


def test_a_chain_holds_what_its_ends_were_made_from_and_nothing_else(models: list[Model]) -> None:
    ours, theirs = models[0][0], models[1][0]
    found: Mapping[str, Artifact] = evidence.chain(ours[:3], (*ours, *theirs, models[0][1], models[1][1]))
    assert {step: one.digest for step, one in found.items()} == {one.step: one.digest for one in ours[:3]}
    assert rules.model_digest(model_files(ours[0])) != rules.model_digest(model_files(theirs[0]))
