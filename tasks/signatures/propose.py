"""Proposals of signatures: what a graph declares, what can be guessed, and the error that asks the user to choose."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from tasks.errors import DamagedError, UsageError
from tasks.graphs import graph as graphs
from tasks.graphs.graph import full_name
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.tensor_specs import FEEDERS, Specs, shape_of
from tasks.graphs.validate import is_dtype, require_valid_graph
from tasks.records.adoption import Candidate, Proposal
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.signatures import ranking
from tasks.signatures.ranking import Candidates
from tasks.tensors.tensor_type import written

_NO_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_TRAINING = ("tensorflow/supervised/training", "tensorflow/supervised/eval")
_MACHINERY_COLLECTIONS = (
    *("losses", "summaries", "train_op", "summary_op", "init_op", "local_init_op", "regularization_losses"),
)
_SHOWN = 8


def propose(meta: MetaGraphDef) -> Proposal:
    """Return what a MetaGraphDef declares, and guesses of its inputs, pins and outputs. Nothing is run.

    Raises:
        DamagedError: the graph is not valid, or a declared signature names a tensor that is not in it.
    """
    require_valid_graph(meta.graph_def, "the graph")
    return _proposal(meta, Specs(meta.graph_def))


def _proposal(meta: MetaGraphDef, specs: Specs) -> Proposal:
    guesses = Candidates(specs, machinery(meta))
    outputs = guesses.outputs()  # first, for it infers shapes
    return Proposal(
        declared=declared(meta, specs, [], None),
        collected=ranking.collected(meta.collection_def, specs.nodes),
        inputs=guesses.inputs(),
        outputs=outputs,
        pins=tuple(guesses.pins[name] for name in sorted(guesses.pins)),
    )


def options_for(meta: MetaGraphDef, proposal: Proposal) -> tuple[str, ...]:
    """Return the options that accept the first guess of a proposal, as words of a command line; empty without a guess."""
    return _options(Specs(meta.graph_def), proposal)


def declared(meta: MetaGraphDef, specs: Specs, notes: list[str], key: str | None) -> tuple[Signature, ...]:
    """Return the SignatureDefs that can be shipped, or the one of a key; `notes` receives the reasons for omissions.

    Raises:
        UsageError: there is none of that key, or one of its tensors is not dense.
        DamagedError: one names a tensor that is not in the graph.
    """
    keys = sorted(name for name in meta.signature_def if name not in _NO_SIGNATURES)
    if key is not None and key not in keys:
        remedy = "choose one of these, or name the tensors: --input … --output …"
        raise UsageError(f"--signature {key}", "a signature that the model declares", ", ".join(keys) or "none", remedy)
    if key is not None and len(keys) > 1:
        others = ", ".join(name for name in keys if name != key)
        notes.append(f"left out by --signature {key}, and so neither proven nor served: {others}")
    found = []
    for name in keys if key is None else [key]:
        declared = meta.signature_def[name]
        reason = _left_out(declared) if key is None or _composite(declared) else ""
        if reason and key is not None:
            remedy = "choose another signature, or name dense tensors: --input … --output …"
            raise UsageError(f"--signature {key}", "dense tensors", reason, remedy)
        if reason:
            notes.append(f"signature {name} is left out: {reason}")
            continue
        if declared.method_name not in set(Method):
            notes.append(f"signature {name} is served as Predict: its method is {declared.method_name or 'not said'}")
        if declared.defaults:
            notes.append(f"signature {name}: optional inputs become required: {', '.join(sorted(declared.defaults))}")
        found.append(
            Signature(
                key=name,
                method=Method(declared.method_name) if declared.method_name in set(Method) else Method.PREDICT,
                inputs={alias: _told(specs, name, info) for alias, info in sorted(declared.inputs.items())},
                outputs={alias: _told(specs, name, info) for alias, info in sorted(declared.outputs.items())},
            )
        )
    return tuple(found)


def _composite(declared: Any) -> str:
    for infos in (declared.inputs, declared.outputs):
        for alias, info in sorted(infos.items()):
            kind = info.WhichOneof("encoding")
            if kind != "name":
                return f"{alias} is a {kind.replace('_', ' ') if kind else 'thing'}, no dense tensor"
    return ""


def _left_out(declared: Any) -> str:
    if not declared.outputs:
        return "it has no outputs"
    if declared.method_name in _TRAINING:
        return f"it is for training ({declared.method_name})"
    return _composite(declared)


def _told(specs: Specs, key: str, info: Any) -> TensorSpec:
    import tensorflow as tf

    remedy = "get the file again from its author."
    name, _, position = full_name(info.name).partition(":")
    types = specs.types(name) if name in specs.nodes else []
    if name not in specs.nodes or not position.isdecimal() or (types and int(position) >= len(types)):
        raise DamagedError(f"signature {key}", f"a tensor {info.name} in the graph", "none", remedy)
    if not is_dtype(info.dtype):
        raise DamagedError(f"signature {key}, {info.name}", "a dtype of TensorFlow's", f"number {info.dtype}", remedy)
    shape = shape_of(info.tensor_shape) if info.HasField("tensor_shape") else specs.spec(full_name(info.name)).shape
    return TensorSpec(tensor=full_name(info.name), dtype=tf.dtypes.as_dtype(info.dtype).base_dtype.name, shape=shape)


def op(specs: Specs, tensor: str) -> str:
    """Return the op of the node that a tensor comes from."""
    return str(specs.nodes[graphs.node_name(tensor)].op)


def by_position(tensor: str) -> tuple[str, int]:
    """For sorting: by node, then by the number of its output."""
    name, _, position = tensor.partition(":")
    return name, int(position or 0)


def option(guesses: Candidates, tensor: str) -> str:
    """Return the option to add to the command line for a tensor without a value."""
    pin = guesses.pins.get(graphs.node_name(tensor))
    if pin:
        return f"--pin {shlex.quote(f'{graphs.node_name(tensor)}={_typed(pin.value)}')}"
    return f"--input {shlex.quote(tensor)}"


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _options(specs: Specs, proposal: Proposal) -> tuple[str, ...]:
    if not proposal.outputs:
        return ()
    output = proposal.outputs[0].tensor
    pins = {pin.tensor: pin for pin in proposal.pins}
    stops = [one.tensor for one in proposal.inputs if not op(specs, one.tensor).startswith("Placeholder")]
    names, entered = specs.needed([output], [stop for stop in stops if op(specs, stop) not in FEEDERS])
    inputs = [tensor for tensor in sorted(entered, key=by_position) if tensor not in pins]
    read = {full_name(source) for name in names for source in specs.nodes[name].input}
    inputs += [stop for stop in stops if stop not in inputs and op(specs, stop) not in FEEDERS and stop in read]
    if not inputs and proposal.inputs:
        return ()
    return (
        *(f"--input {shlex.quote(tensor)}" for tensor in inputs),
        *(
            f"--pin {shlex.quote(f'{graphs.node_name(name)}={_typed(pin.value)}')}"
            for name, pin in pins.items()
            if name in entered or graphs.node_name(name) in names
        ),
        f"--output {shlex.quote(output)}",
    )


def ask(meta: MetaGraphDef, specs: Specs, wanted: str, notes: Iterable[str]) -> UsageError:
    """Return the error that asks the user for signatures, with ranked guesses and the options that accept them."""
    proposal = _proposal(meta, specs)
    ranked = "".join(
        _ranked(title, held)
        for title, held in (("inputs", proposal.inputs), ("pins", proposal.pins), ("outputs", proposal.outputs))
    )
    said = "".join(f"\n  note: {note}" for note in notes)
    options = " ".join(_options(specs, proposal))
    return UsageError(
        "signatures",
        wanted,
        f"no SignatureDef that declares them; these are guesses, the likeliest first:{ranked}{said}",
        f"name them, for example: {options}" if options else "name tensors: --input NAME --output NAME",
        proposal=proposal,
        options=options,
    )


def _ranked(title: str, held: tuple[Candidate, ...]) -> str:
    lines = [
        f"\n    {one.tensor}{'' if one.value is None else '=' + _typed(one.value)}  {one.dtype} "
        f"{written(one.shape)}  {one.why}"
        for one in held[:_SHOWN]
    ]
    more = f"\n    … and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    return f"\n  {title}:{''.join(lines)}{more}" if lines else ""


def machinery(meta: MetaGraphDef) -> set[str]:
    """Return what collections and the SaverDef name as training, saving and summarising."""
    saver = meta.saver_def
    found = {saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name}
    for key in _MACHINERY_COLLECTIONS:
        if key in meta.collection_def:
            found.update(meta.collection_def[key].node_list.value)
    return found - {""}
