"""The safety scan: decides on the protos which ops may run, among all that the outputs reach, function bodies included.

Nothing is executed and nothing is imported into a tf.Graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tasks.errors import UnsafeGraph, UnsupportedGraph
from tasks.graphs import graph as graphs
from tasks.graphs import lookup_tables, model_files, op_policy, op_registry, training_ops
from tasks.graphs.graph import CARRIES, Graph, Placed
from tasks.graphs.op_policy import Effect
from tasks.graphs.protos import GraphDef, MetaGraphDef, NodeDef
from tasks.graphs.validate import and_more, require_valid_graph
from tasks.records.adoption import OpsFound

__all__ = [
    "does",
    "in_training",
    "require_harmless",
    "require_known",
    "require_loadable",
    "require_runnable",
    "require_valid_graph",
    "scan",
]

_SAVES = frozenset({"Save", "SaveV2", "SaveSlices", "MergeV2Checkpoints"})


def scan(graph_def: GraphDef, targets: Iterable[str] | None) -> OpsFound:
    """Scan a graph for its ops, and for those that must not or cannot run.

    Counts and devices cover the entire graph and its function library. `unsafe`, `unknown`, `no_kernel` and `train_mode`
    cover what `targets` (tensors or operations) reach, or everything without targets.

    Raises:
        PipelineError: a target is not in the graph.
    """
    targets = None if targets is None else list(targets)
    graph = Graph(graph_def)
    every = list(graph.every_node())
    reached = list(graph.placed(targets))
    unknown = {
        at.node.op: op_policy.library_of(at.node.op)
        for at in reached
        if at.node.op not in graph.functions and op_registry.definition(at.node.op) is None
    }
    no_kernel = {
        at.node.op
        for at in reached
        if not at.gpu_only and at.node.op not in graph.functions and not op_registry.has_kernel(at.node)
    }
    hostile = reached if targets is None else list(graph.placed(targets, swapped_in=True))
    return OpsFound(
        counts=dict(sorted(Counter(node.op for node in every).items(), key=lambda item: (-item[1], item[0]))),
        unknown=dict(sorted(unknown.items())),
        no_kernel=tuple(sorted(no_kernel - set(unknown))),
        unsafe=tuple(sorted({f"{at.name} ({at.node.op})" for at in hostile if does(at)})),
        of_saver=tuple(
            sorted({f"{at.name} ({at.node.op})" for at in hostile if at.node.op in model_files.RESTORES | _SAVES})
        ),
        train_mode=training_ops.found(reached, reached=targets is not None),
        devices=tuple(sorted({node.device for node in every if node.device})),
    )


def require_runnable(graph_def: GraphDef, targets: Iterable[str], where: str) -> None:
    """Refuse what must not or cannot run, before anything is loaded.

    Raises:
        DamagedError: the graph is not well formed.
        UnsafeGraph: the targets reach an op that touches files or the network, runs Python, or ends the process.
        UnsupportedGraph: they reach an op that this TensorFlow does not know, or has no kernel for on a CPU.
    """
    require_valid_graph(graph_def, where)
    targets = list(targets)
    require_harmless(graph_def, targets, where)
    found = scan(graph_def, targets)
    _require_known(graph_def, targets, found, where)
    if found.no_kernel:
        at = next(
            at
            for at in Graph(graph_def).placed(targets)
            if at.node.op in found.no_kernel and not op_registry.has_kernel(at.node)
        )
        types = op_registry.types_of(at.node)
        with_types = f" with {types}" if types else ""
        raise UnsupportedGraph(
            f"{where}: {at.name} ({at.node.op}), which the outputs reach",
            f"ops that have a CPU kernel in TensorFlow {op_registry.version()}",
            f"{at.node.op}{with_types}, which has {op_registry.elsewhere(at.node.op)}{and_more(found.no_kernel, at.node.op)}",
            "export the model again with an op that runs on a CPU (for a cuDNN layer: its portable twin), or cut the "
            "graph after it (--input) or before it (--output).",
            ops=found,
        )


def require_known(graph_def: GraphDef, where: str) -> None:
    """Raise UnsupportedGraph for an op that this TensorFlow does not know, anywhere in a graph that is to be imported."""
    _require_known(graph_def, None, scan(graph_def, None), where)


def _require_known(graph_def: GraphDef, targets: list[str] | None, found: OpsFound, where: str) -> None:
    if not found.unknown:
        return
    op, library = next(iter(found.unknown.items()))
    at = next(at for at in Graph(graph_def).placed(targets) if at.node.op == op)
    brings = f"the library that has it is {library}" if library else "no library is known to define it"
    reaching = "which the outputs reach" if targets is not None else "without which it cannot be loaded"
    raise UnsupportedGraph(
        f"{where}: {at.name} ({op}), {reaching}",
        f"ops that TensorFlow {op_registry.version()} registers",
        f"the unknown op {op}, {brings}{and_more(found.unknown, op)}",
        "cut the graph after it (--input) or before it (--output), or export the model again without it; "
        "TensorFlow Serving's stock image does not have it either.",
        ops=found,
    )


def in_training(graph_def: GraphDef, targets: Iterable[str]) -> tuple[str, ...]:
    """`node (op)` of what the targets reach and what computes as it does in training, unless a switch turns it off.

    Without what draws anew, which shows by itself: the model answers otherwise each time. Dropout whose rate is a
    constant that keeps everything is none.
    """
    nodes = Graph(graph_def).nodes
    off = {one.mask for one in training_ops.dropouts(nodes) if _constant(nodes.get(one.source)) == one.off}
    named = (at.removesuffix(")").rpartition(" (") for at in scan(graph_def, targets).train_mode)
    return tuple(f"{name} ({op})" for name, _, op in named if name not in off and not training_ops.RANDOM.fullmatch(op))


def _constant(node: NodeDef | None) -> float | None:
    import tensorflow as tf

    if node is None or node.op != "Const":
        return None
    value = tf.make_ndarray(graphs.attribute(node, "value").tensor)
    return float(value) if value.ndim == 0 and value.dtype.kind == "f" else None


def require_harmless(graph_def: GraphDef, targets: Iterable[str], where: str) -> None:
    """Refuse what the targets must not run. Raises UnsafeGraph, or PipelineError where a target is not in the graph."""
    unsafe = [at for at in Graph(graph_def).placed(list(targets), swapped_in=True) if does(at)]
    if unsafe:
        at, named = unsafe[0], sorted({f"{at.name} ({at.node.op})" for at in unsafe})
        first = f"{at.name} ({at.node.op})"
        raise UnsafeGraph(
            f"{where}: {first}, which the outputs reach",
            "ops that only compute",
            f"one that {does(at)}{and_more(named, first)}",
            "choose an --output that does not need it, or give the tensor after it as --input; "
            "nothing of this graph was run.",
            ops=scan(graph_def, list(targets)),
        )


def require_loadable(meta: MetaGraphDef, where: str) -> None:
    """Refuse what a loader would run by itself: the operations that initialise and restore, before any output is requested.

    (tensorflow/cc/saved_model/loader.cc runs `restore_op_name` and the main op.) Besides computing, a restore may only read
    the checkpoint whose path it is given, and the others may only fill tables from the model's own files.

    Raises:
        UnsafeGraph: one of them touches other files or the network, runs Python, or ends the process.
    """
    restore = meta.saver_def.restore_op_name
    starts = {name for name in (restore, *lookup_tables.initialisers(meta)) if name}
    graph = Graph(meta.graph_def)
    for start in sorted(starts):
        if graphs.node_name(start) not in graph.nodes:
            continue
        for at in graph.placed([start], swapped_in=True):
            if does(at) and not (start == restore and at.node.op in model_files.RESTORES):
                raise UnsafeGraph(
                    f"{where}: {at.name} ({at.node.op}), which runs when the model is loaded ({start})",
                    "ops that only compute or restore",
                    f"one that {does(at)}",
                    "export the model again without it; nothing of this graph was run.",
                )
        own = {meta.saver_def.filename_tensor_name} if start == restore else lookup_tables.paths(meta)
        model_files.require_own(meta.graph_def, [start], own, where)


def does(at: Placed) -> str:
    """Describe what a node does that must not be run; "" if it only computes.

    An op that this TensorFlow does not register is judged elsewhere: it cannot run.
    """
    node = at.node
    if node.op in CARRIES:
        return "" if at.seen_through else op_policy.REFUSED[Effect.GRAPH]
    if node.op in model_files.RESTORES:
        return op_policy.REFUSED[Effect.FILES]
    if (refused := op_policy.refused(node.op)) and op_registry.definition(node.op) is not None:
        # What runs elsewhere only, and has no kernel here, cannot run: said by `require_runnable`.
        elsewhere = op_policy.table().get(node.op) in (Effect.TPU, Effect.DISTRIBUTED)
        return "" if elsewhere and not op_registry.has_kernel(node) else refused
    if node.op.startswith("Debug") and any(graphs.attribute(node, op_policy.DEBUG_URLS).list.s):
        return "sends what it sees to files or over the network"
    if node.op == "PrintV2" and graphs.attribute(node, "output_stream").s.startswith(b"file:"):
        return "touches files"
    if node.op == "FixedUnigramCandidateSampler" and graphs.attribute(node, "vocab_file").s:
        return "touches files"
    if node.op in op_policy.DESCRIBED and not op_policy.DESCRIBED_HERE.match(
        graphs.attribute(node, "descriptor_source").s
    ):
        return "touches files"
    if node.op in ("CacheDataset", "CacheDatasetV2") and not _is_empty_string(at):
        return "touches files"  # without a name it caches in memory
    return ""


def _is_empty_string(at: Placed) -> bool:
    filename = at.body.nodes.get(graphs.node_name(at.node.input[1])) if len(at.node.input) > 1 else None
    if filename is None or filename.op != "Const":
        return False
    tensor = graphs.attribute(filename, "value").tensor
    return not tensor.tensor_content and not any(tensor.string_val)
