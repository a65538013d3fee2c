"""A hit is verified, not assumed: what is damaged is made again, alone, and what was there is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.artifacts import hashes
from tasks.artifacts import manifest as manifests
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.errors import DamagedError
from tasks.step import Run, running, step
from tests.artifacts.disk import tree, whole, writable, writing
from tests.makers.special_files import SPECIAL
from tests.silent import Silent

built: Counter[str] = Counter()


@step(version=1)
def first(size: int, out: Path) -> None:
    built["first"] += 1
    (out / "variables").mkdir()
    (out / "graph.pb").write_bytes(bytes(range(256)) * size)
    (out / "variables" / "index").write_bytes(b"index")
    (out / "variables" / "empty").write_bytes(b"")


@step(version=1)
def second(source: Artifact, out: Path) -> None:
    built["second"] += 1
    (out / "copy.pb").write_bytes((source.path / "graph.pb").read_bytes())
    (out / "nested" / "deep").mkdir(parents=True)
    (out / "nested" / "deep" / "file").write_bytes(b"file")


def both() -> list[Artifact]:
    source = first(4)
    return [source, second(source)]


@pytest.fixture
def pair(run: Run) -> list[Artifact]:
    """Two committed artifacts, the second made from the first."""
    built.clear()
    return both()


def edit(path: Path, at: int, xor: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= xor
    with writable(path), path.open("r+b") as stream:  # in place: the same inode
        stream.write(content)


def a_file(place: Path) -> Path:
    return next(path for path in sorted(place.rglob("*.pb")))


def flip_the_first_byte(place: Path) -> None:
    edit(a_file(place), 0)


def flip_a_byte_in_the_middle(place: Path) -> None:
    edit(a_file(place), 512, 0x80)


def flip_the_last_byte(place: Path) -> None:
    edit(a_file(place), -1)


def truncate(place: Path) -> None:
    with writable(a_file(place)) as path:
        os.truncate(path, 1023)


def empty(place: Path) -> None:
    with writable(a_file(place)) as path:
        os.truncate(path, 0)


def lengthen(place: Path) -> None:
    with writable(a_file(place)) as path, path.open("ab") as stream:
        stream.write(b"x")


def delete(place: Path) -> None:
    a_file(place).unlink()


def replace_with_a_link_to_a_copy(place: Path) -> None:
    shutil.copy(a_file(place), place.parent.parent / "elsewhere")
    a_file(place).unlink()
    (place / "graph.pb" if place.parent.name == "first" else place / "copy.pb").symlink_to(
        place.parent.parent / "elsewhere"
    )


def add(place: Path) -> None:
    (place / "added").write_bytes(b"")


def add_in_a_new_folder(place: Path) -> None:
    (place / "new").mkdir()
    (place / "new" / "added").write_bytes(b"x")


def add_a_link_to_a_folder(place: Path) -> None:
    (place / "link").symlink_to("/")


def rename(place: Path) -> None:
    a_file(place).rename(place / "renamed.pb")


def delete_the_manifest(place: Path) -> None:
    (place / manifests.NAME).unlink()


def truncate_the_manifest(place: Path) -> None:
    with writable(place / manifests.NAME) as path:
        os.truncate(path, 100)


def flip_a_byte_of_the_manifest(place: Path) -> None:
    content = (place / manifests.NAME).read_bytes()
    edit(place / manifests.NAME, content.index(b'"key": "') + len(b'"key": "'))


def edit_a_parameter(place: Path) -> None:
    fields = json.loads((place / manifests.NAME).read_bytes())
    with writable(place / manifests.NAME) as path:
        path.write_text(json.dumps(fields | {"params": {"size": 5}}))


def edit_a_file_and_its_manifest(place: Path) -> None:
    flip_the_first_byte(place)
    fields = json.loads((place / manifests.NAME).read_bytes())
    for entry in fields["files"]:
        entry["sha256"] = hashes.hash_file(place / entry["path"])
    with writable(place / manifests.NAME) as path:
        path.write_text(json.dumps(fields))


def empty_the_directory(place: Path) -> None:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def put_a_file_in_its_place(place: Path) -> None:
    shutil.rmtree(place)
    place.write_bytes(b"not a folder")


DAMAGES = [
    flip_the_first_byte,
    flip_a_byte_in_the_middle,
    flip_the_last_byte,
    truncate,
    empty,
    lengthen,
    delete,
    replace_with_a_link_to_a_copy,
    add,
    add_in_a_new_folder,
    add_a_link_to_a_folder,
    rename,
    delete_the_manifest,
    truncate_the_manifest,
    flip_a_byte_of_the_manifest,
    edit_a_parameter,
    edit_a_file_and_its_manifest,
    empty_the_directory,
    put_a_file_in_its_place,
]


def contents(place: Path) -> object:
    return place.read_bytes() if place.is_file() else tree(place)


def with_times_restored(damage: Callable[[Path], None], place: Path) -> None:
    times = {path: path.stat() for path in [place, *place.rglob("*")]}
    damage(place)
    for path, before in times.items():
        if path.exists():
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("hidden", [False, True], ids=["plainly", "times restored"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_and_that_step_alone_is_built_again(
    pair: list[Artifact],
    store: Store,
    warnings: list[str],
    damage: Callable[[Path], None],
    hidden: bool,
    which: int,
) -> None:
    place = pair[which].path
    with_times_restored(damage, place) if hidden else damage(place)
    left = contents(place)
    built.clear()
    assert both() == pair
    assert built == {pair[which].step: 1}
    assert all(whole(artifact.path) for artifact in pair)
    (aside,) = (store.root / ".aside").iterdir()
    assert contents(aside) == left
    (warning,) = warnings
    assert pair[which].step in warning and pair[which].key in warning and str(aside) in warning
    assert both() == pair and sum(built.values()) == 1


def test_twice_is_once(pair: list[Artifact]) -> None:
    assert both() == pair
    assert built == {"first": 1, "second": 1}
    assert [artifact.manifest.inputs for artifact in pair] == [{}, {"source": pair[0].digest}]
    assert all(path.stat().st_mode & 0o222 == 0 for path in pair[0].path.rglob("*") if path.is_file())


def test_a_deleted_artifact_is_built_again_alone(pair: list[Artifact], warnings: list[str]) -> None:
    shutil.rmtree(pair[0].path)
    assert both() == pair
    assert built == {"first": 2, "second": 1} and not warnings


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_moved_store_is_whole_and_nothing_is_built_again(
    pair: list[Artifact], store: Store, tmp_path: Path, hashed: list[str], move: Callable[[Path, Path], object]
) -> None:
    move(store.root, tmp_path / "moved")
    built.clear()
    moved = Store(tmp_path / "moved")
    with running(Run("moved", moved, Silent())):
        found = both()
        assert [artifact.digest for artifact in found] == [artifact.digest for artifact in pair]
        assert all(artifact.path.is_relative_to(moved.root) for artifact in found)
        files = ["copy.pb", "empty", "file", "graph.pb", "index"]
        assert sorted(hashed) == ([] if move is shutil.move else files)  # a rename changes no inode, a copy does
        hashed.clear()
        both()
    assert not hashed and not built


def test_a_touched_file_costs_a_hash_and_not_a_build(pair: list[Artifact], hashed: list[str]) -> None:
    os.utime(pair[0].path / "graph.pb")
    both()
    assert hashed == ["graph.pb"]
    hashed.clear()
    both()
    assert not hashed and built == {"first": 1, "second": 1}


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b"3", b'{"graph.pb": 1}', b'{"graph.pb": [1, 2'])
def test_a_spoilt_side_file_costs_a_hash_and_not_a_build(
    pair: list[Artifact], store: Store, hashed: list[str], content: bytes
) -> None:
    for side_file in (store.root / ".verified").iterdir():
        side_file.write_bytes(content)
    assert both() == pair
    assert len(hashed) == 5 and built == {"first": 1, "second": 1}
    hashed.clear()
    both()
    assert not hashed


def test_a_full_check_trusts_no_side_file(pair: list[Artifact], store: Store, warnings: list[str]) -> None:
    flip_the_first_byte(pair[0].path)
    (entry,) = (entry for entry in pair[0].manifest.files if entry.path == "graph.pb")
    store.hashes.keep(pair[0].path / "graph.pb", entry.sha256)
    assert store.find("first", pair[0].key) == pair[0], "the quick check sees no more than its side file"
    with pytest.raises(DamagedError, match=r"graph\.pb has changed"):
        store.verify(pair[0].path, full=True)
    assert store.find("first", pair[0].key, full=True) is None
    assert "graph.pb has changed" in warnings[0]


def test_a_file_that_changes_while_it_is_hashed_is_noticed(
    store: Store, pair: list[Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_file = hashes.hash_file

    def racing(path: Path) -> str:
        digest = hash_file(path)
        if path.name == "graph.pb":
            edit(path, 0)
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(hashes, "hash_file", racing)
        store.find("first", pair[0].key, full=True)
    assert store.find("first", pair[0].key) is None


def test_every_problem_of_an_artifact_is_named(pair: list[Artifact], store: Store) -> None:
    place = pair[0].path
    delete(place)
    add(place)
    lengthened = place / "variables" / "index"
    with writable(lengthened), lengthened.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(DamagedError) as damage:
        store.verify(place)
    for problem in ("graph.pb is missing", "added was added", "variables/index has 6 bytes instead of 5"):
        assert problem in damage.value.found


def test_an_artifact_in_anothers_place_is_refused(pair: list[Artifact], store: Store) -> None:
    for stranger in ("first/0123", "third/" + pair[0].key):
        shutil.copytree(pair[0].path, store.root / stranger)
        with pytest.raises(DamagedError, match="its manifest belongs to first/"):
            store.verify(store.root / stranger)


def test_artifacts_lists_what_is_committed_oldest_first(run: Run, store: Store) -> None:
    made = [first(size) for size in range(8)]
    for age, artifact in enumerate(made):
        os.utime(artifact.path, (age, age))
    assert store.artifacts("first") == made
    assert not store.artifacts("second")
    edit_a_parameter(made[1].path)
    put_a_file_in_its_place(made[2].path)
    assert store.artifacts("first") == [made[0], *made[3:]]


def recipe(step_name: str = "made") -> Recipe:
    return Recipe(step=step_name, step_version=1, inputs={}, params={}, versions={}, key="0123")


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("resumes", [False, True])
def test_a_link_or_special_file_in_staging_is_refused(
    store: Store, tmp_path: Path, make: Callable[[Path], None], resumes: bool
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "secret").write_bytes(b"mine")
    (mine / "secret").chmod(0o400)
    mine.chmod(0o550)

    def builder(out: Path) -> None:
        (out / "variables").mkdir(exist_ok=True)
        (out / "graph.pb").write_bytes(b"")
        (out / "mine").unlink(missing_ok=True)
        if not os.path.lexists(out / "special"):
            make(out / "special")
        (out / "mine").symlink_to(mine)

    for _ in range(2):
        with pytest.raises(DamagedError):
            store.build(recipe(), builder, resumes=resumes)
    assert not store.place("made", "0123").exists()
    assert store.staging("made", "0123").exists() == resumes
    assert tree(mine) == {"secret": b"mine"}
    assert (mine.stat().st_mode & 0o777, (mine / "secret").stat().st_mode & 0o777) == (0o550, 0o400)


@pytest.mark.parametrize("name", ["manifest.json", "refusal.json"])
def test_a_builder_cannot_take_the_stores_own_names(store: Store, name: str) -> None:
    with pytest.raises(Exception, match=name):
        store.build(recipe(), writing({name: b"{}"}))
    assert not store.place("made", "0123").exists()
    nested = store.build(recipe(), writing({f"in/{name}": b"{}"}))
    assert whole(nested.path)


def test_a_linked_file_keeps_the_mode_that_its_other_artifact_gave_it(store: Store, pair: list[Artifact]) -> None:
    """Staging that holds links into a committed artifact is reopened and removed without touching that artifact."""
    graph = pair[0].path / "graph.pb"

    def linking(out: Path) -> None:
        assert graph.stat().st_mode & 0o222 == 0
        if not (out / "graph.pb").exists():
            os.link(graph, out / "graph.pb")
        raise KeyboardInterrupt

    for resumes in (True, True, False):
        with pytest.raises(KeyboardInterrupt):
            store.build(recipe(), linking, resumes=resumes)
    assert graph.stat().st_mode & 0o777 == 0o444
    assert store.find("first", pair[0].key) == pair[0]
