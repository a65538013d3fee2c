"""Whether looking at a graph leaves it as it was: asking a protobuf map for what it does not have adds it. In children."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.errors import PipelineError
from tasks.graphs import model_files, scan, tensor_specs, validate
from tasks.records.adoption import ModelOptions
from tasks.signatures import resolve
from tests.makers import graphs


def bare(holding: str) -> Any:
    """A graph of ops that are judged by attributes, none of which it has; its parameters are held by this op."""
    made = graphs.empty()
    ops_ = (
        "PrintV2",
        "DebugIdentityV2",
        "FixedUnigramCandidateSampler",
        "DecodeProtoV2",
        "Placeholder",
        "FusedBatchNorm",
    )
    for op in dict.fromkeys((*ops_, "Const", holding, "RandomUniform")):
        graphs.node(made, op, op)
    graphs.node(made, "cached", "CacheDataset", "PrintV2", "Const")
    graphs.node(made, "InitializeTableFromTextFileV2", "InitializeTableFromTextFileV2", holding, "Const")
    graphs.node(made, "MatMul", "MatMul", "Placeholder", holding)
    graphs.function(made, "f", ("inner", "PrintV2"), ("other", "Const"))
    graphs.call(made, "y", "f", *(one.name for one in made.node))
    return made


def looked_at(meta: Any) -> bool:
    """Whether a MetaGraphDef is, byte by byte, as it was before everything that only looks has looked at it."""
    before = meta.SerializeToString(deterministic=True)
    scan.scan(meta.graph_def, None)
    specs = tensor_specs.Specs(meta.graph_def)
    for node in meta.graph_def.node:
        specs.spec(f"{node.name}:0")
    proposal = resolve.propose(meta)
    resolve.options_for(meta, proposal)
    outputs = [spec.tensor for one in proposal.declared for spec in one.outputs.values()]
    outputs = (
        outputs or [one.tensor for one in proposal.outputs[:1]] or [node.name for node in meta.graph_def.node][-1:]
    )
    scan.scan(meta.graph_def, outputs)
    for look in (
        lambda: resolve.resolve(meta, ModelOptions(outputs=tuple(outputs))),
        lambda: scan.require_runnable(meta.graph_def, outputs, "model"),
        lambda: scan.require_loadable(meta, "model"),
        lambda: model_files.require_own(meta.graph_def, outputs, (), "model"),
        lambda: validate.require_valid_meta_graph(meta, "model"),
    ):
        with suppress(PipelineError):
            look()
    return bool(meta.SerializeToString(deterministic=True) == before)


def bare_is_left_alone() -> list[bool]:
    """`looked_at` of graphs without attributes."""
    from tensorflow.core.protobuf import meta_graph_pb2

    return [looked_at(meta_graph_pb2.MetaGraphDef(graph_def=bare(one))) for one in ("VariableV2", "Const")]


def brought_is_left_alone(path: Path) -> bool:
    """`looked_at` of a model of the corpus."""
    return looked_at(graphs.brought(path))
