"""The one place that says what a graph may run: every op that outputs reach, function bodies included, judged before
anything is loaded. Works on GraphDef protos; nothing is executed and nothing imported into a tf.Graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tasks.errors import UnsafeGraph, UnsupportedGraph
from tasks.forms import graph as graphs
from tasks.forms import kernels, op_lists, train_mode
from tasks.forms.well_formed import and_more, require_well_formed
from tasks.records.adoption import OpsFound

__all__ = ["Placed", "does", "require_loadable", "require_runnable", "require_well_formed", "scan"]

_RESTORES = frozenset({"Restore", "RestoreV2", "RestoreSlice"})


class Placed(NamedTuple):
    """A node with where it stands: `within` are its neighbours by name, in the graph or in one function's body."""

    name: str
    node: Any
    within: dict[str, Any]
    gpu_only: bool = False


def scan(graph_def: Any, targets: Iterable[str] | None) -> OpsFound:
    """What a graph is made of, and what of it must not or cannot run.

    Counts and devices are of the whole graph and its function library. `unsafe`, `unknown`, `no_kernel` and
    `train_mode` are of what `targets` (tensors or operations) reach, or of everything where there are none.

    Raises:
        PipelineError: a target is not in the graph.
    """
    targets = None if targets is None else list(targets)
    every = list(graphs.all_nodes(graph_def))
    placed = list(_placed(graph_def, targets))
    functions = {function.signature.name for function in graph_def.library.function}
    unknown = {
        at.node.op: op_lists.library_of(at.node.op)
        for at in placed
        if at.node.op not in functions and kernels.definition(at.node.op) is None
    }
    no_kernel = {
        at.node.op
        for at in placed
        if not at.gpu_only and at.node.op not in functions and not kernels.has_kernel(at.node)
    }
    hostile = placed if targets is None else list(_placed(graph_def, targets, swapped_in=True))
    return OpsFound(
        counts=dict(sorted(Counter(node.op for node in every).items(), key=lambda item: (-item[1], item[0]))),
        unknown=dict(sorted(unknown.items())),
        no_kernel=tuple(sorted(no_kernel - set(unknown))),
        unsafe=tuple(sorted({f"{at.name} ({at.node.op})" for at in hostile if does(at)})),
        train_mode=train_mode.found(((at.name, at.node, at.within) for at in placed), reached=targets is not None),
        devices=tuple(sorted({node.device for node in every if node.device})),
    )


def require_runnable(graph_def: Any, targets: Iterable[str], where: str) -> None:
    """Refuse what must not or cannot run, before anything is loaded.

    Raises:
        DamagedError: the graph is not well formed.
        UnsafeGraph: the targets reach an op that touches files or the network, runs Python, or ends the process.
        UnsupportedGraph: they reach an op that this TensorFlow does not know, or has no kernel for on a CPU.
    """
    require_well_formed(graph_def, where)
    targets = list(targets)
    found = scan(graph_def, targets)
    if found.unsafe:
        at = next(at for at in _placed(graph_def, targets, swapped_in=True) if does(at))
        raise UnsafeGraph(
            f"{where}: {at.name} ({at.node.op}), which the outputs reach",
            "ops that only compute",
            f"one that {does(at)}{and_more(found.unsafe, f'{at.name} ({at.node.op})')}",
            "choose an --output that does not need it, or give the tensor after it as --input; "
            "nothing of this graph was run.",
            {"ops": found.model_dump(mode="json")},
        )
    if found.unknown:
        op, library = next(iter(found.unknown.items()))
        at = next(at for at in _placed(graph_def, targets) if at.node.op == op)
        brings = f"the library that has it is {library}" if library else "no library is known to define it"
        raise UnsupportedGraph(
            f"{where}: {at.name} ({op}), which the outputs reach",
            f"ops that TensorFlow {kernels.version()} registers",
            f"the unknown op {op}, {brings}{and_more(found.unknown, op)}",
            "cut the graph after it (--input) or before it (--output), or export the model again without it; "
            "TensorFlow Serving's stock image does not have it either.",
            {"ops": found.model_dump(mode="json")},
        )
    if found.no_kernel:
        at = next(
            at
            for at in _placed(graph_def, targets)
            if at.node.op in found.no_kernel and not kernels.has_kernel(at.node)
        )
        types = kernels.types_of(at.node)
        with_types = f" with {types}" if types else ""
        raise UnsupportedGraph(
            f"{where}: {at.name} ({at.node.op}), which the outputs reach",
            f"ops that have a CPU kernel in TensorFlow {kernels.version()}",
            f"{at.node.op}{with_types}, which has {kernels.elsewhere(at.node.op)}{and_more(found.no_kernel, at.node.op)}",
            "export the model again with an op that runs on a CPU (for a cuDNN layer: its portable twin), or cut the "
            "graph after it (--input) or before it (--output).",
            {"ops": found.model_dump(mode="json")},
        )


def require_loadable(meta: Any, where: str) -> None:
    """Refuse what a loader would run of itself: the operations that initialise and restore, before any output is asked.

    (tensorflow/cc/saved_model/loader.cc runs `restore_op_name` and the main op.) Reading a checkpoint is all that a
    restore may do beyond computing.

    Raises:
        UnsafeGraph: one of them touches other files or the network, runs Python, or ends the process.
    """
    starts = {name for name in (meta.saver_def.restore_op_name, *_main_ops(meta)) if name}
    nodes = {node.name for node in meta.graph_def.node}
    for start in sorted(starts):
        if graphs.node_name(start) not in nodes:
            continue
        restores = start == meta.saver_def.restore_op_name
        for at in _placed(meta.graph_def, [start], swapped_in=True):
            if does(at) and not (restores and at.node.op in _RESTORES):
                raise UnsafeGraph(
                    f"{where}: {at.name} ({at.node.op}), which runs when the model is loaded ({start})",
                    "ops that only compute or restore",
                    f"one that {does(at)}",
                    "export the model again without it; nothing of this graph was run.",
                )


def _main_ops(meta: Any) -> list[str]:
    found = (
        [info.name for info in meta.signature_def["__saved_model_init_op"].outputs.values()]
        if ("__saved_model_init_op" in meta.signature_def)
        else []
    )
    for collection in ("saved_model_main_op", "legacy_init_op", "table_initializer"):
        if collection in meta.collection_def:
            found += meta.collection_def[collection].node_list.value
    return found


def does(at: Placed) -> str:
    """What a node does that must not be run, in words; "" for what only computes."""
    node = at.node
    if family := op_lists.unsafe_family(node.op):
        return family
    if node.op.startswith("Debug") and any(node.attr[op_lists.DEBUG_URLS].list.s):
        return "sends what it sees to files or over the network"
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:"):
        return "touches files"
    if node.op == "FixedUnigramCandidateSampler" and node.attr["vocab_file"].s:
        return "touches files"
    if node.op in ("CacheDataset", "CacheDatasetV2") and not _is_empty_string(at):
        return "touches files"  # without a name it caches in memory
    return ""


def _is_empty_string(at: Placed) -> bool:
    filename = at.within.get(graphs.node_name(at.node.input[1])) if len(at.node.input) > 1 else None
    if filename is None or filename.op != "Const":
        return False
    tensor = filename.attr["value"].tensor
    return not tensor.tensor_content and not any(tensor.string_val)


def _placed(graph_def: Any, targets: list[str] | None, *, swapped_in: bool = False) -> Iterator[Placed]:
    """Every node that `targets` reach. With `swapped_in` also the functions that TensorFlow may put in another's place:
    gradients, and those that implement the same interface (tensorflow/core/grappler/optimizers/implementation_selector.cc).
    """
    within = {node.name: node for node in graph_def.node}
    names = within.keys() if targets is None else graphs.reached(graph_def, targets)
    yield from (Placed(node.name, node, within) for node in graph_def.node if node.name in names)
    functions = {function.signature.name: function for function in graph_def.library.function}
    bodies = set(functions)
    if targets is not None:
        bodies = graphs.called(functions, (node for node in graph_def.node if node.name in names))
        while swapped_in and (more := _in_place_of(graph_def, functions, bodies) - bodies):
            bodies |= more | graphs.called(functions, (node for name in more for node in functions[name].node_def))
    for function in graph_def.library.function:
        name = function.signature.name
        if name not in bodies:
            continue
        body = {node.name: node for node in function.node_def}
        gpu_only = (
            function.attr["api_preferred_device"].s == b"GPU" if "api_preferred_device" in function.attr else False
        )
        yield from (Placed(f"{name}/{node.name}", node, body, gpu_only) for node in function.node_def)


def _in_place_of(graph_def: Any, functions: dict[str, Any], bodies: set[str]) -> set[str]:
    def interface(name: str) -> bytes:
        function = functions[name]
        return bytes(function.attr["api_implements"].s) if "api_implements" in function.attr else b""

    gradients = {entry.gradient_func for entry in graph_def.library.gradient if entry.function_name in bodies}
    interfaces = {interface(name) for name in bodies} - {b""}
    return (gradients & functions.keys()) | {name for name in functions if interface(name) in interfaces}
