"""The train op, loss and global step of a source model's graph, and the nodes that they need when some tensors are fed."""

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


def named(model: SourceModel, training: Training) -> GraphNames:
    """Return the model's names with the train op and the loss from the options, or from the graph's collections.

    Raises:
        UsageError: there is no train op, or several and none is named; or the graph has no such name.
    """
    specs = Specs(model.meta.graph_def)
    loss = training.loss
    if loss is not None:
        loss = specs.named(loss, "--loss")
        specs.infer([loss], [])
        if specs.spec(loss).shape not in (None, ()) or "float" not in specs.spec(loss).dtype:
            found = f"{specs.spec(loss).dtype}{list(specs.spec(loss).shape or ())}"
            raise UsageError(f"--loss {loss}", "a scalar", found, "name its mean.")
    elif model.names.loss is not None:
        specs.infer([model.names.loss], [])
        loss = model.names.loss if specs.spec(model.names.loss).shape == () else None
    return model.names.model_copy(update={"train_op": _train_op(model, training), "loss": loss})


def _train_op(model: SourceModel, training: Training) -> str:
    graph_def = model.meta.graph_def
    nodes = {node.name for node in graph_def.node}
    remedy = "name the operation that trains: --train-op NAME."
    if training.train_op is not None:
        name = graphs.node_name(training.train_op)
        if name not in nodes:
            raise UsageError(f"--train-op {name}", "an operation of the graph", "none of that name", remedy)
        return name
    held = model.meta.collection_def.get("train_op")
    listed = [graphs.node_name(name) for name in held.node_list.value] if held is not None else []
    listed = [name for name in dict.fromkeys(listed) if name in nodes]
    if not listed:
        found = "; ".join(("none", *model.notes))
        raise UsageError("the graph", "a train op in its collection `train_op`", found, remedy)
    # The train op of slim or of an Estimator runs the optimizer's, and both are in the collection.
    complete = [name for name in listed if set(listed) <= graphs.Graph(graph_def).reach([name])]
    if len(complete) != 1:
        raise UsageError("the graph", "one train op", f"{len(listed)}: {', '.join(listed)}", remedy)
    return complete[0]


def targets(names: GraphNames) -> list[str]:
    """Return what one training step runs."""
    return [str(names.train_op), *([names.loss] if names.loss else [])]


def aliases(model: SourceModel) -> dict[str, str]:
    """Return other names of the graph's inputs: those of the signatures, and the tensors at which the graph was cut."""
    found: dict[str, str] = {}
    clashing: set[str] = set()
    for requested, own in zip(model.requested, model.names.signatures, strict=True):
        for alias, spec in own.inputs.items():
            for name in (alias, requested.inputs[alias].tensor):
                if found.setdefault(name, spec.tensor) != spec.tensor:
                    clashing.add(name)
    return {name: tensor for name, tensor in found.items() if name not in clashing}


def part(model: SourceModel, names: GraphNames, feeds: Collection[str]) -> Any:
    """Return the GraphDef of the nodes that a training step runs when `feeds` are fed, for inspection and not to be run.

    Raises:
        UsageError: it needs a placeholder, an input pipeline, a pin or a table that is not fed.
    """
    graph_def = model.meta.graph_def
    specs = Specs(graph_def)
    reached, entered = specs.needed(targets(names), feeds)
    readers = dict(entered)
    earlier = [node.name for node in graph_def.node if rewrite.PINNED in node.attr]
    for tensor in (*model.pins, *earlier):
        name = graphs.node_name(tensor)
        if name in reached and f"{name}:0" not in feeds:
            readers[f"{name}:0"] = "the train op, and is pinned for inference only"
    if readers:
        own = {tensor: name for name, tensor in aliases(model).items() if ":" in name}  # not the cut's own name
        some = ", ".join(f"{own.get(tensor, tensor)} (feeds {reader})" for tensor, reader in list(readers.items())[:8])
        some += f", and {len(readers) - 8} more" if len(readers) > 8 else ""
        remedy = "add them to the file of --batches: rows by name, or a scalar (keep_prob) that is fed in every step."
        missing = [own.get(tensor, tensor) for tensor in readers]
        raise UsageError("--batches", "every feed that the train op needs", f"no {some}", remedy, missing=missing)
    filled = graphs.Graph(graph_def).reach([names.table_init]) if names.table_init else set()
    tables = [node.name for node in graph_def.node if node.name in reached - filled and _TABLES.fullmatch(node.op)]
    if tables:
        found = f"{', '.join(tables[:5])}, which the outputs do not read"
        remedy = "feed the result of the lookup in the file of --batches."
        raise UsageError("the train op", "only lookup tables that the outputs read too", found, remedy)
    return _cut(graph_def, reached)


def counted(names: GraphNames, run: Any) -> GraphNames:
    """Return the names, without the global step if training does not count it."""
    step = graphs.node_name(names.global_step) if names.global_step else None
    counts = any(node.op in _WRITES and graphs.node_name(node.input[0]) == step for node in run.node)
    return names if counts else names.model_copy(update={"global_step": None})


def defaults(run: Any) -> tuple[str, ...]:
    """Return notes on the placeholders that keep their defaults in a training step."""
    kept = [node.name for node in run.node if node.op == "PlaceholderWithDefault"]
    return tuple(
        f"{name} keeps its default while training; name it in the file of --batches to feed it" for name in kept
    )


def _cut(graph_def: GraphDef, names: set[str]) -> GraphDef:
    """Cut a graph to the nodes `names`; their other inputs are replaced by one placeholder."""
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
    stand_in.attr["dtype"].type = 1  # DT_FLOAT; it is never run
    cut.library.CopyFrom(graph_def.library)
    graphs.drop_unused_functions(cut)
    return cut
