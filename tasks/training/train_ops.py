"""What trains a brought graph: its train op, loss and global step, and what running them needs when some tensors are fed."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tasks.adoption.source_model import SourceModel
from tasks.errors import UsageError
from tasks.graphs import graph as graphs
from tasks.graphs import rewrite
from tasks.graphs.protos import GraphDef
from tasks.graphs.tensor_specs import Specs
from tasks.records.settings import Training
from tasks.records.signature import GraphNames

_FED = "tfship_fed"
_WRITES = ("Assign", "AssignAdd", "AssignVariableOp", "AssignAddVariableOp")
_TABLES = re.compile(r"(Anonymous)?HashTable(V2)?")


def named(brought: SourceModel, training: Training) -> GraphNames:
    """The brought model's names with the train op and the loss that the user names, or the graph's collections.

    Raises:
        UsageError: there is no train op, or several and none is named; or a name is none of the graph's.
    """
    specs = Specs(brought.meta.graph_def)
    loss = training.loss
    if loss is not None:
        loss = specs.named(loss, "--loss")
        specs.infer([loss], [])
        if specs.spec(loss).shape not in (None, ()) or "float" not in specs.spec(loss).dtype:
            found = f"{specs.spec(loss).dtype}{list(specs.spec(loss).shape or ())}"
            raise UsageError(f"--loss {loss}", "one number", found, "name the mean of it.")
    elif brought.names.loss is not None:
        specs.infer([brought.names.loss], [])
        loss = brought.names.loss if specs.spec(brought.names.loss).shape == () else None
    return brought.names.model_copy(update={"train_op": _train_op(brought, training), "loss": loss})


def _train_op(brought: SourceModel, training: Training) -> str:
    graph_def = brought.meta.graph_def
    nodes = {node.name for node in graph_def.node}
    remedy = "name the operation that trains: --train-op NAME."
    if training.train_op is not None:
        name = graphs.node_name(training.train_op)
        if name not in nodes:
            raise UsageError(f"--train-op {name}", "an operation of the graph", "none of that name", remedy)
        return name
    held = brought.meta.collection_def.get("train_op")
    listed = [graphs.node_name(name) for name in held.node_list.value] if held is not None else []
    listed = [name for name in dict.fromkeys(listed) if name in nodes]
    if not listed:
        found = "; ".join(("none", *brought.notes))
        raise UsageError("the graph", "a train op in its collection `train_op`", found, remedy)
    # slim's and Estimator's train op runs the optimizer's, and both are in the collection.
    whole = [name for name in listed if set(listed) <= graphs.Graph(graph_def).reach([name])]
    if len(whole) != 1:
        raise UsageError("the graph", "one train op", f"{len(listed)}: {', '.join(listed)}", remedy)
    return whole[0]


def targets(names: GraphNames) -> list[str]:
    """What one step of training runs."""
    return [str(names.train_op), *([names.loss] if names.loss else [])]


def aliases(brought: SourceModel) -> dict[str, str]:
    """Other names of the graph's inputs: the signatures' own, and the tensor where the graph was cut."""
    found: dict[str, str] = {}
    clashing: set[str] = set()
    for requested, own in zip(brought.requested, brought.names.signatures, strict=True):
        for alias, spec in own.inputs.items():
            for name in (alias, requested.inputs[alias].tensor):
                if found.setdefault(name, spec.tensor) != spec.tensor:
                    clashing.add(name)
    return {name: tensor for name, tensor in found.items() if name not in clashing}


def part(brought: SourceModel, names: GraphNames, feeds: Collection[str]) -> Any:
    """The GraphDef of what one step of training runs when `feeds` are fed, for looking at and not for running.

    Raises:
        UsageError: it needs a placeholder, a batch of the training graph's own, a pin or a table that nobody gives.
    """
    graph_def = brought.meta.graph_def
    specs = Specs(graph_def)
    reached, entered = specs.needed(targets(names), feeds)
    readers = dict(entered)
    earlier = [node.name for node in graph_def.node if rewrite.PINNED in node.attr]
    for tensor in (*brought.pins, *earlier):
        name = graphs.node_name(tensor)
        if name in reached and f"{name}:0" not in feeds:
            readers[f"{name}:0"] = "the train op, and is pinned for inference only"
    if readers:
        own = {tensor: name for name, tensor in aliases(brought).items() if ":" in name}  # not the cut's own name
        some = ", ".join(f"{own.get(tensor, tensor)} (feeds {reader})" for tensor, reader in list(readers.items())[:8])
        some += f", and {len(readers) - 8} more" if len(readers) > 8 else ""
        remedy = "add them to the file of --batches: rows by name, or a scalar (keep_prob) that is fed in every step."
        facts = {"missing": [own.get(tensor, tensor) for tensor in readers]}
        raise UsageError("--batches", "everything that the train op has to be fed", f"no {some}", remedy, facts)
    filled = graphs.Graph(graph_def).reach([names.table_init]) if names.table_init else set()
    tables = [node.name for node in graph_def.node if node.name in reached - filled and _TABLES.fullmatch(node.op)]
    if tables:
        found = f"{', '.join(tables[:5])}, which the outputs do not read"
        remedy = "feed the tensor after the lookup in the file of --batches."
        raise UsageError("the train op", "lookup tables that the outputs read too", found, remedy)
    return _cut(graph_def, reached)


def counted(names: GraphNames, run: Any) -> GraphNames:
    """The names without the global step where training does not count it."""
    step = graphs.node_name(names.global_step) if names.global_step else None
    counts = any(node.op in _WRITES and graphs.node_name(node.input[0]) == step for node in run.node)
    return names if counts else names.model_copy(update={"global_step": None})


def defaults(run: Any) -> tuple[str, ...]:
    """What is worth knowing of a step: the placeholders that keep their defaults in it."""
    kept = [node.name for node in run.node if node.op == "PlaceholderWithDefault"]
    return tuple(
        f"{name} keeps its default while training; name it in the file of --batches to feed it" for name in kept
    )


def _cut(graph_def: GraphDef, names: set[str]) -> GraphDef:
    """The nodes of these names; what they read beyond is one stand-in."""
    cut = type(graph_def)()
    cut.versions.CopyFrom(graph_def.versions)
    for node in graph_def.node:
        if node.name in names:
            cut.node.add().CopyFrom(node)
    for node in cut.node:
        for position, source in enumerate(node.input):
            if graphs.node_name(source) not in names:
                node.input[position] = f"^{_FED}" if source.startswith("^") else _FED
    stand_in = cut.node.add(name=_FED, op="Placeholder")
    stand_in.attr["dtype"].type = 1  # DT_FLOAT; nobody runs it
    cut.library.CopyFrom(graph_def.library)
    graphs.drop_unused_functions(cut)
    return cut
