"""The tests' own house: tests share makers and not each other, makers judge nothing, and nobody reaches for private names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.rglob("*.py"))
MAKERS = [path for path in FILES if path.parent == HERE / "makers"]
# Private by their spelling, and public by their documentation.
DOCUMENTED = {"os._exit", "usage._replace", "sys._getframe"}
PREFECT = "prefect."  # it has no public model of a prefect.yaml


def named(path: Path) -> str:
    return path.relative_to(HERE).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted name of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reached_into(tree: ast.AST) -> Iterator[str]:
    """Private names of others: imported, read from an object that is not one's own, or patched."""
    yield from (
        name for name in imported(tree) if not name.startswith(PREFECT) and any(map(is_private, name.split(".")))
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in ("self", "cls"):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from (text for text in texts if any(map(is_private, text.split("."))))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_file_says_what_it_holds_and_uses_public_names_and_makers(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a docstring says which law is held"
    assert [name for name in imported(tree) if name.startswith("tests") and ".test_" in name] == []
    assert sorted(set(reached_into(tree)) - DOCUMENTED) == []


@pytest.mark.parametrize("path", MAKERS, ids=named)
def test_a_maker_judges_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert [name for name in imported(tree) if name.partition(".")[0] in ("pytest", "hypothesis")] == []
