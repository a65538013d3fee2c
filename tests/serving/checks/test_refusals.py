"""Messages of a server about the model are told from messages about its host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts.store import Builder, Recipe, Store
from tasks.errors import DamagedError
from tasks.serving.checks.lifecycle import load_error

FAILED = "Loading servable: {name: model version: 1} failed: "


@pytest.mark.parametrize(
    ("line", "blamed"),
    [
        (FAILED + "OUT_OF_RANGE: Read less bytes than requested", True),
        (FAILED + "NOT_FOUND: Could not find SavedModel .pb", True),
        (FAILED + "RESOURCE_EXHAUSTED: OOM when allocating", False),
        (FAILED + "UNKNOWN: No space left on device", False),
        ("error while loading shared libraries: libx.so: Too many open files", False),
        ("Successfully loaded servable version {name: model version: 1}", False),
    ],
)
def test_only_a_load_that_failed_for_the_models_sake_is_held_against_it(line: str, blamed: bool) -> None:
    assert (load_error(f"starting\n{line}\n") is not None) is blamed


def test_an_artifact_that_was_replaced_meanwhile_is_not_the_one_that_was_blessed(store: Store) -> None:
    recipe = Recipe(step="export", step_version=1, inputs={}, params={}, versions={}, key="k")

    def holding(text: str) -> Builder:
        def build(out: Path) -> None:
            (out / "model").write_text(text)

        return build

    before = store.build(recipe, holding("blessed"))
    after = store.build(recipe, holding("another"), refresh=True)
    assert after.path == before.path
    assert after.manifest.digest == after.digest
    with pytest.raises(DamagedError, match="another process"):
        _ = before.manifest
