"""TF2's object-based checkpoints: tensors keyed by the attributes that lead to them, and a graph of the objects.

The tensor `_CHECKPOINTABLE_OBJECT_GRAPH` holds a TrackableObjectGraph (tensorflow/core/protobuf/
trackable_object_graph.proto). There is no computation in one: it is restored into an object that Python code makes.
Functions run in a child.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.errors import CoverageError, DamagedError, UsageError
from tasks.forms import checkpoint_files, live_object, saver
from tasks.records.base import Record
from tasks.records.baseline import TensorFact
from tasks.records.coverage import Coverage, Status, VariableStatus
from tasks.tensors import tensor_file

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
_SUFFIX = f"/.ATTRIBUTES/{_VALUE}"
_COUNTER = "save_counter"


class ObjectTensor(Record):
    """A tensor of an object-based checkpoint: `path` are the attributes that lead to it, `key` its name in the bundle.

    `full_name` is the name of the variable in its program; slots belong to an optimiser.
    """

    path: str
    key: str
    full_name: str
    kind: Literal["variable", "slot", "counter", "other"]
    value: TensorFact


def table(prefix: Path) -> list[ObjectTensor]:
    """Return every tensor of the checkpoint, read from whichever shard holds it.

    Raises:
        DamagedError: a tensor cannot be read, or the object graph names one that does not exist.
    """
    graph = _object_graph(prefix)
    facts = {fact.name: fact for fact in saver.tensor_table(prefix) if fact.name != OBJECT_GRAPH}
    slots = {slot.slot_variable_node_id for node in graph.nodes for slot in node.slot_variables}
    found = []
    for number, node in enumerate(graph.nodes):
        for attribute in node.attributes:
            key = attribute.checkpoint_key
            if key not in facts:
                remedy = "restore the files from a backup."
                raise DamagedError(str(prefix), f"the tensor {key!r} that its object graph names", "none", remedy)
            path = key.removesuffix(_SUFFIX)
            kind: Literal["variable", "slot", "counter", "other"] = (
                "slot" if number in slots else "counter" if path == _COUNTER else "variable"
            )
            kind = kind if attribute.name == _VALUE else "other"
            found.append(ObjectTensor(path=path, key=key, full_name=attribute.full_name, kind=kind, value=facts[key]))
    return sorted(found, key=lambda entry: entry.key)


def restore(prefix: Path, root: Any, at: str | None = None) -> Coverage:
    """Give every variable of a live object its value, from the part of the checkpoint that has the object's structure.

    That part may be the checkpoint itself or a child of it: `Checkpoint(model=…)`, `Checkpoint(optimizer=…, net=…)`;
    `at` names it where several would do. Nothing is assigned unless every variable has its tensor. What the object has
    no variable for is listed as extra: an optimiser's slots, counters.

    Raises:
        CoverageError: a variable is missing, or has another dtype or shape.
        UsageError: several parts fit, or the object has no variables.
        DamagedError: a tensor cannot be read.
    """
    graph = _object_graph(prefix)
    checkpoint = saver.reader(prefix)
    variables = live_object.variables(root)
    if not variables:
        remedy = "build it: a Keras model needs its input's shape, a module its variables, before anything is restored."
        raise UsageError(type(root).__name__, "an object with variables to restore", "none", remedy)
    part = _choose(prefix, graph, root, variables, at)
    shapes, dtypes = checkpoint.get_variable_to_shape_map(), checkpoint.get_variable_to_dtype_map()
    statuses = []
    for path, variable in variables.items():
        key = part.keys.get(path)
        expected = (variable.dtype.base_dtype.name, tuple(variable.shape.as_list()))
        found = (dtypes[key].base_dtype.name, tuple(shapes[key])) if key in shapes else None
        status: Status = "missing" if found is None else "matched" if found == expected else "changed"
        statuses.append(
            VariableStatus(
                name=path,
                key=key,
                status=status,
                needed=True,
                expected=f"{expected[0]}{list(expected[1])}",
                found=f"{found[0]}{list(found[1])}" if found else None,
            )
        )
    used = {*part.keys.values(), OBJECT_GRAPH}
    coverage = Coverage(variables=tuple(statuses), extra=tuple(sorted(set(shapes) - used)))
    _require(coverage, prefix, part.path)
    values = {path: saver.read(checkpoint, part.keys[path], prefix) for path in variables}
    for path, variable in variables.items():
        variable.assign(values[path])
    return coverage


def write(root: Any, folder: Path, step: int) -> None:
    """Write `tf.train.Checkpoint(model=root)` into `folder`, with a `checkpoint` file that lets the folder be moved."""
    import tensorflow as tf

    prefix = prefix_of(folder, step)
    name = prefix.name.rpartition("-")[0]
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(model=root), str(folder), max_to_keep=1, checkpoint_name=name
    )
    manager.save(checkpoint_number=step)
    (folder / "checkpoint").write_text(checkpoint_files.state_file(prefix.name))  # without the time of day


def prefix_of(folder: Path, step: int) -> Path:
    """Return the prefix under which `write` leaves the checkpoint of a global step."""
    return folder / f"model.ckpt-{step}"


def restore_by_tensorflow(prefix: Path, root: Any) -> None:
    """Restore what `write` left as TensorFlow's users do. Raises CoverageError where an object finds no value."""
    import tensorflow as tf

    try:
        tf.train.Checkpoint(model=root).restore(saver.readable(prefix)).assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        found = str(error).strip().splitlines()[0][:300] if str(error) else type(error).__name__
        expected, remedy = "a value for every variable of the object", "make the same variables in every build()."
        raise CoverageError(str(prefix), expected, found, remedy) from None


@dataclass(frozen=True)
class _Part:
    """A node of the checkpoint's object graph taken as the live object: its path, and live variable's path -> key."""

    path: str
    keys: Mapping[str, str]


def _choose(prefix: Path, graph: Any, root: Any, variables: Mapping[str, Any], at: str | None) -> _Part:
    """Return the part that matches most variables."""
    parts: dict[frozenset[tuple[str, str]], _Part] = {}
    for path, node in _nodes(graph):
        if at is None or path == at:
            keys = _matched(graph, node, root, variables)
            parts.setdefault(frozenset(keys.items()), _Part(path, keys))
    most = max((len(part.keys) for part in parts.values()), default=0)
    best = [part for part in parts.values() if len(part.keys) == most]
    if most == 0:
        # Another version of Keras, or a module that was rearranged: then only the variables' names can tell.
        named = _by_name(graph, variables)
        best = [_Part("", named)]
    if len(best) > 1:
        found = ", ".join(repr(part.path) for part in best)
        remedy = "say which, by the attribute of the checkpoint that holds it."
        raise UsageError(str(prefix), f"one part with the structure of {type(root).__name__}", found, remedy)
    return best[0]


def _nodes(graph: Any) -> Iterator[tuple[str, int]]:
    """(path, node) of every object in the checkpoint, the shallowest path to each."""
    waiting, seen = deque([("", 0)]), {0}
    while waiting:
        path, number = waiting.popleft()
        yield path, number
        for child in graph.nodes[number].children:
            if child.node_id not in seen and child.node_id < len(graph.nodes):
                seen.add(child.node_id)
                waiting.append((f"{path}/{child.local_name}".lstrip("/"), child.node_id))


def _matched(graph: Any, number: int, root: Any, variables: Mapping[str, Any]) -> dict[str, str]:
    """Live variable's path -> key, as far as attributes of the same names lead to both."""
    import keras
    import tensorflow as tf

    paths = {id(variable): path for path, variable in variables.items()}
    found: dict[str, str] = {}
    waiting, seen = deque([(root, number)]), set()
    while waiting:
        live, here = waiting.popleft()
        if (id(live), here) in seen:
            continue
        seen.add((id(live), here))
        saved = graph.nodes[here]
        if isinstance(live, (tf.Variable, keras.Variable)):
            variable = live.value if isinstance(live, keras.Variable) else live
            key = next((attribute.checkpoint_key for attribute in saved.attributes if attribute.name == _VALUE), None)
            if key is not None and id(variable) in paths:
                found.setdefault(paths[id(variable)], key)
            continue
        children = {child.local_name: child.node_id for child in saved.children if child.node_id < len(graph.nodes)}
        ours = tf.train.TrackableView.children(live)
        for name, child in ours.items():
            # Keras 3 keeps under `_kernel` what Keras 2 kept under `kernel`.
            there = children.get(name, children.get(name.lstrip("_")))
            if there is not None:
                waiting.append((child, there))
        if isinstance(live, keras.Model) and "_operations" not in children:
            layers, held = _weighted(live), _weighted_saved(graph, children)
            if len(held) <= len(layers):  # else it is another model, of which this one would be a part
                waiting.extend(zip(layers, held, strict=False))
    return found


def _weighted(model: Any) -> list[Any]:
    return [layer for layer in model.layers if layer.weights]


def _weighted_saved(graph: Any, children: Mapping[str, int]) -> list[int]:
    """Return the layers with weights as Keras 2 numbered them: `layer_with_weights-N`, or those of `layer-N` that have any."""
    for kind in ("layer_with_weights-", "layer-"):
        numbered = {
            int(name[len(kind) :]): node for name, node in children.items() if re.fullmatch(kind + r"\d+", name)
        }
        held = [node for _, node in sorted(numbered.items()) if _has_variables(graph, node)]
        if held:
            return held
    return []


def _has_variables(graph: Any, number: int) -> bool:
    waiting, seen = [number], {number}
    while waiting:
        node = graph.nodes[waiting.pop()]
        if any(attribute.name == _VALUE for attribute in node.attributes):
            return True
        more = {child.node_id for child in node.children if child.node_id < len(graph.nodes)} - seen
        seen |= more
        waiting.extend(more)
    return False


def _by_name(graph: Any, variables: Mapping[str, Any]) -> dict[str, str]:
    """Live variable's path -> key, by the names that variables had in their program, where a name is one's alone."""
    slots = {slot.slot_variable_node_id for node in graph.nodes for slot in node.slot_variables}
    named: dict[str, list[str]] = {}
    for number, node in enumerate(graph.nodes):
        for attribute in node.attributes:
            if attribute.name == _VALUE and number not in slots:
                named.setdefault(attribute.full_name, []).append(attribute.checkpoint_key)
    asked = {path: variable.name.removesuffix(":0") for path, variable in variables.items()}
    alone = {name for name in asked.values() if list(asked.values()).count(name) == 1}
    return {path: named[name][0] for path, name in asked.items() if name in alone and len(named.get(name, ())) == 1}


def _require(coverage: Coverage, prefix: Path, part: str) -> None:
    if not coverage.refused:
        return
    where = f"{prefix.name}{f', {part}' if part else ''}"
    wrong = [f"{status.name} {status.expected} ({status.found or 'missing'})" for status in coverage.refused]
    held = ", ".join(coverage.extra[:8]) or "nothing else"
    raise CoverageError(
        f"{where}: {len(wrong)} of {len(coverage.variables)} variables",
        "a tensor of the same dtype and shape for every variable of the object",
        f"{', '.join(wrong[:20])}; the checkpoint holds besides: {held}",
        "give the code that wrote this checkpoint, with the same layers under the same attributes; "
        "initial values are never put in a tensor's place.",
        coverage=coverage,
    )


def _object_graph(prefix: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    checkpoint = saver.reader(prefix)
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    if not checkpoint.has_tensor(OBJECT_GRAPH):
        remedy = "give a checkpoint of tf.train.Checkpoint; one of Saver needs its `.meta`."
        raise DamagedError(str(prefix), "an object-based checkpoint", f"no {OBJECT_GRAPH}", remedy)
    try:
        graph.ParseFromString(tensor_file.as_array(saver.read(checkpoint, OBJECT_GRAPH, prefix)).item())
    except (DecodeError, TypeError):
        graph.Clear()
    if not graph.nodes:
        remedy = "restore the files from a backup."
        raise DamagedError(str(prefix), "a TrackableObjectGraph", "bytes that do not parse", remedy)
    return graph
