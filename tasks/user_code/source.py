"""The location of a model's code, and the digests of that code and of its data, computed without importing it.

The digests cover the module and every module of the user that it imports, directly or indirectly, but neither installed
packages nor tfship itself.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.artifacts.hashes import hash_file
from tasks.errors import EnvironmentFailure, UsageError
from tasks.records.base import Record

EXAMPLES = {
    "sundaynet": "tasks.examples.sundaynet:SundayNet",
    "two_variables": "tasks.examples.two_variables:TwoVariables",
    "half_plus_two": "tasks.examples.half_plus_two:HalfPlusTwo",
}
_ROOT = Path(__file__).resolve().parents[2]


class ModelSource(Record):
    """A model class as `module:Class`; `folder` is where its module is found (None: it is an example of tfship).

    The folder is not in the record's JSON, and so in no key: a project that was moved is the same project.
    """

    name: str
    module: str
    attribute: str
    folder: Path | None = Field(None, exclude=True)


def resolve(reference: str, folder: Path) -> ModelSource:
    """Find the model of an example's name or of `module:Class`, with modules in `folder`.

    Raises:
        UsageError: there is no such example, module or class.
    """
    known = f"one of {', '.join(EXAMPLES)}, module:Class, or the path of a model"
    if reference in EXAMPLES:
        module, _, attribute = EXAMPLES[reference].partition(":")
        return ModelSource(name=reference, module=module, attribute=attribute)
    module, colon, attribute = reference.partition(":")
    if not colon or not module or not attribute:
        raise UsageError("SOURCE", known, repr(reference), "try `tfship run sundaynet`.")
    source = ModelSource(name=module.rpartition(".")[2], module=module, attribute=attribute, folder=folder.absolute())
    path = _find(module, folder)
    if path is None:
        raise UsageError("SOURCE", f"a module {module} in {folder}", "none", "run from the folder of the module.")
    classes = [node.name for node in _parse(path).body if isinstance(node, ast.ClassDef)]
    if attribute not in classes:
        found = ", ".join(classes) or "no class"
        raise UsageError(str(path), f"a class {attribute}", found, f"name one of them: {module}:CLASS.")
    return source


def digests(source: ModelSource, extra: Iterable[Path] = ()) -> tuple[dict[str, str], bool]:
    """Return (name -> sha256 of everything that the model is made of, True if that is complete).

    It is incomplete if the module declares no `DATA` and there is no `extra` file, or if a module imports dynamically.
    """
    root = source.folder or _ROOT
    found: dict[str, str] = {}
    complete = True
    waiting = [source.module]
    while waiting:
        module = waiting.pop()
        path = _find(module, root) or _elsewhere(module)
        ours = path is not None and path.is_relative_to(_ROOT / "tasks") and module != source.module
        if path is None or ours or f"module {module}" in found:
            continue
        found[f"module {module}"] = hash_file(path)
        complete = complete and not _imports_dynamically(path)
        waiting.extend(_imports(module, path))
    main = _find(source.module, root)
    assert main is not None
    declared = _declared(main)
    for name in declared or ():
        found[f"data {name}"] = _hash(_data_file(name, main))
    files = list(extra)
    for number, path in enumerate(files):
        found[f"given data {number} {path.name}"] = _hash(path)
    return found, complete and (declared is not None or bool(files))


@contextmanager
def importable(source: ModelSource) -> Iterator[Any]:
    """In a child: import the model's class from its folder, which may have a `tasks` of its own."""
    if source.folder is None:
        yield getattr(importlib.import_module(source.module), source.attribute)
        return
    packages = {name for name in ("tasks", "flows") if (source.folder / name).is_dir()}
    # A user's module takes precedence over ours of the same name, and over one that is imported already, such as the
    # standard library's `code`. Everything else stays importable, such as `tasks.user_code.model`.
    top = source.module.partition(".")[0]
    here, found = getattr(sys.modules.get(top), "__file__", None), _find(top, source.folder)
    taken = top in sys.modules and found is not None and found.resolve() != Path(here or "").resolve()
    winning = packages | ({top} if taken else set())
    shadowed = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] in winning and (name.partition(".")[0] not in packages or _find(name, source.folder))
    }
    path_before = list(sys.path)
    sys.path.insert(0, str(source.folder))
    for name in packages - shadowed.keys():  # without an `__init__.py`, which ours has: one package of both
        importlib.import_module(name).__path__.insert(0, str(source.folder / name))
    try:
        module = importlib.import_module(source.module)
    finally:
        for name in list(sys.modules):
            if name.partition(".")[0] in winning and _find(name, source.folder):
                del sys.modules[name]
        sys.modules.update(shadowed)
        sys.path[:] = [*path_before, str(source.folder)]
    yield getattr(module, source.attribute)


def _find(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):  # as Python prefers them
        if path.is_file() and (path.is_relative_to(_ROOT / "tasks") or not _installed(path)):
            return path
    return None


def _elsewhere(module: str) -> Path | None:
    """Find a user's module on sys.path, in another folder than the model's."""
    folders = [Path(entry) for entry in sys.path if entry]
    theirs = [folder for folder in folders if not _installed(folder / "x") and not folder.is_relative_to(_ROOT)]
    return next((path for folder in theirs if (path := _find(module, folder))), None)


def _imports_dynamically(path: Path) -> bool:
    """Return True if a module imports or runs code that its text does not name: its digest is incomplete."""
    calls = {"__import__", "import_module", "exec", "eval", "run_path", "run_module"}
    return any(
        isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) in calls
        for node in ast.walk(_parse(path))
    )


def _installed(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _installations())


@functools.cache
def _installations() -> frozenset[str]:
    return frozenset(sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib"))


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        found = f"{error.msg} in line {error.lineno}"
        raise UsageError(str(path), "Python that parses", found, "fix the syntax error.") from None


def _imports(module: str, path: Path) -> list[str]:
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names = [".".join(package[:depth]) for depth in range(1, len(package) + 1)]
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _declared(path: Path) -> list[str] | None:
    bindings = [
        node
        for node in ast.walk(_parse(path))
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "DATA"
    ]
    if not bindings:
        return None
    try:
        (only,) = bindings
        if isinstance(only, ast.AugAssign) or only.value is None:
            raise ValueError
        value = ast.literal_eval(only.value)
        if not isinstance(value, (tuple, list)) or not all(isinstance(item, str) for item in value):
            raise ValueError
    except ValueError:
        where = f"{path}, line {bindings[-1].lineno}"
        remedy = "write it as one literal tuple."
        raise UsageError(where, "DATA once, as a tuple of file names", "something else", remedy) from None
    return list(value)


def _data_file(name: str, module: Path) -> Path:
    relative = module.parent / name
    if relative.exists():
        return relative
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / rest).exists():
            return Path(folder) / rest
    return relative


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"data file {path}") from None
