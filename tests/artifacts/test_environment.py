"""A refusal by the operating system is an environment failure: it is named, nothing is lost, the next run continues."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.errors import CoverageError, EnvironmentFailure, ExitCode
from tasks.step import Run, running, step
from tests.artifacts.disk import exit_of, fork, tree, whole, writing
from tests.silent import Silent

built: Counter[str] = Counter()


@step(version=1)
def small(out: Path) -> None:
    built["small"] += 1
    (out / "file").write_bytes(b"file")


@step(version=1)
def large(source: Artifact, out: Path) -> None:
    built["large"] += 1
    (out / "part-1").write_bytes(bytes(200 * 1024))
    (out / "part-2").write_bytes(bytes(200 * 1024))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(folder: Path, *arguments: str) -> None:
    if subprocess.run(["mount", *arguments, folder], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let us mount")


def fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@pytest.mark.root
def test_a_full_disk_is_named_and_the_next_run_goes_on(disk: Path, warnings: list[str]) -> None:
    built.clear()
    store = Store(disk / "store", warn=warnings.append)
    with running(Run("test", store, Silent())) as run:
        source = small()
        fill(disk / "ballast")
        with pytest.raises(EnvironmentFailure, match="No space left on device") as failure:
            large(source)
        assert failure.value.exit_code == ExitCode.ENVIRONMENT and "free some space" in failure.value.remedy
        assert run.outcomes[-1].state == "failed" and not store.artifacts("large")
        assert not list((disk / "store" / ".staging" / "large").iterdir())
        shutil.rmtree(disk / "store" / ".verified")
        (disk / "store" / ".verified").mkdir()
        fill(disk / "more")
        assert small() == source, "a hit needs no space"
        (disk / "ballast").unlink()
        assert whole(large(source).path)
    assert built == {"small": 1, "large": 2} and not warnings


@pytest.mark.parametrize("where", ["store", "store/.staging", "store/.locks", "store/.verified", "store/.aside"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_bytes(b"")
    with pytest.raises(EnvironmentFailure) as failure:
        Store(tmp_path / "store")
    assert str(tmp_path / "store") in str(failure.value) and failure.value.exit_code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize("where", ["small", ".staging/small"])
def test_a_file_in_the_place_of_a_steps_folder_is_named(run: Run, where: str) -> None:
    (run.store.root / where).write_bytes(b"")
    with pytest.raises(EnvironmentFailure, match="small in"):
        small()
    (run.store.root / where).unlink()
    assert whole(small().path)


def test_a_folder_in_the_place_of_a_lock_is_named(run: Run) -> None:
    key = small.recipe()[0].key
    (run.store.root / ".locks" / f"small-{key}").mkdir()
    with pytest.raises(EnvironmentFailure, match="Is a directory"):
        small()


@pytest.mark.root
def test_a_read_only_store_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs")
    try:
        with pytest.raises(EnvironmentFailure, match="Read-only file system"):
            Store(folder / "store")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def become_ordinary() -> None:
    """Give up every capability: for the rest of its life this process is bound by modes, as every user is."""
    version_3, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # linux/capability.h
    assert ctypes.CDLL(None).capset(version_3, nothing) == 0
    probe = Path("probe-" + str(os.getpid())).absolute()
    probe.touch(mode=0o400)
    try:
        with pytest.raises(PermissionError):
            probe.open("w")
    finally:
        probe.unlink()


def as_an_ordinary_user(folder: Path, *works: object) -> list[int]:
    """Do each work in a process without privilege; their exit codes."""

    def ordinary(work: object) -> None:
        os.chdir(folder)
        become_ordinary()
        assert callable(work)
        work()

    return [exit_of(fork(lambda work=work: ordinary(work))) for work in works]  # type: ignore[misc]  # bound now


RECIPE = Recipe(step="made", step_version=1, inputs={}, params={}, versions={}, key="0123")


def test_an_unwritable_store_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    codes = as_an_ordinary_user(Path("/dev/shm"), lambda: Store(tmp_path / "store"))
    tmp_path.chmod(0o755)
    assert codes == [ExitCode.ENVIRONMENT]


def test_an_unreadable_artifact_is_named_and_not_called_damaged(store: Store) -> None:
    artifact = store.build(RECIPE, writing({"in/f": b""}))
    for path, mode in [(artifact.path / "in", 0o755), (artifact.path / "in" / "f", 0o444)]:
        path.chmod(0)
        codes = as_an_ordinary_user(store.root, lambda: store.find("made", "0123", full=True))
        path.chmod(mode)
        assert codes == [ExitCode.ENVIRONMENT]
    assert store.find("made", "0123") and not list((store.root / ".aside").iterdir())


@pytest.mark.parametrize("moment", ["building", "committing"])
def test_a_training_interrupted_in_its_commit_can_be_resumed_by_its_user(store: Store, moment: str) -> None:
    """Files that a commit made read-only are writable again for the builder that resumes."""

    def training(out: Path) -> None:
        with (out / "model.ckpt").open("ab") as stream:
            stream.write(b"step\n")

    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        def builder(out: Path) -> None:
            training(out)
            if moment == "building":
                stop(out)

        with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(manifests, "sync_tree", stop)
            store.build(RECIPE, builder, resumes=True)

    def resumed() -> None:
        store.build(RECIPE, training, resumes=True)

    assert as_an_ordinary_user(store.root, interrupted, resumed) == [0, 0]
    assert tree(store.place("made", "0123"))["model.ckpt"] == b"step\nstep\n"


@pytest.mark.parametrize("ending", ["committed", "refused", "interrupted"])
def test_a_builder_may_copy_read_only_folders(store: Store, tmp_path: Path, ending: str) -> None:
    original = tmp_path / "original"
    (original / "variables" / "deep").mkdir(parents=True)
    (original / "variables" / "deep" / "index").touch(mode=0o400)
    for folder in (original / "variables" / "deep", original / "variables", original):
        folder.chmod(0o555)

    def builder(out: Path) -> None:
        shutil.copytree(original, out, dirs_exist_ok=True)
        if ending == "refused":
            raise CoverageError("here", "this", "that", "look")
        if ending == "interrupted":
            raise KeyboardInterrupt

    def work() -> None:
        try:
            assert whole(store.build(RECIPE, builder).path)
        except KeyboardInterrupt:
            assert not store.staging("made", "0123").exists()

    assert as_an_ordinary_user(store.root, work) == [0]
    assert store.place("made", "0123").exists() == (ending != "interrupted")
    assert not store.staging("made", "0123").exists()
