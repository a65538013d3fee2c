"""Resolution of signatures: what the model declares, what the user requests, what can be guessed.

Only the first two are ever shipped. A guess is shown, ranked, with the options that accept it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tasks.errors import UsageError
from tasks.graphs import graph as graphs
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.tensor_specs import FEEDERS, PLACEHOLDERS, Specs
from tasks.graphs.validate import require_valid_graph
from tasks.records.adoption import ModelOptions
from tasks.records.base import Record
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.signatures import option_syntax, ranking
from tasks.signatures import propose as proposals
from tasks.signatures.propose import options_for, propose
from tasks.signatures.ranking import Candidates

__all__ = ["DEFAULT_KEY", "Resolved", "options_for", "propose", "resolve"]

DEFAULT_KEY = "serving_default"  # tensorflow/python/saved_model/signature_constants.py


class Resolved(Record):
    """A model's signatures as they will be shipped.

    `pins` are the values of placeholders, by tensor; `cuts` the inputs whose producer is no placeholder, where the graph
    has to be cut; `notes` what the user should know.
    """

    signatures: tuple[Signature, ...]
    pins: dict[str, Any] = Field(default_factory=dict)
    cuts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def resolve(meta: MetaGraphDef, given: ModelOptions) -> Resolved:
    """The signatures to ship: those that the user names, else all that the model declares, else what its collections name.

    Raises:
        UsageError: nobody says what the inputs and outputs are, and the message has a ranked proposal; a name, value,
            shape or dtype is wrong; or the outputs need a placeholder that is neither input nor pinned.
        DamagedError: the graph is not well formed, or a declared signature names a tensor that is not in it.
    """
    require_valid_graph(meta.graph_def, "the graph")
    specs = Specs(meta.graph_def)
    notes: list[str] = []
    pins = option_syntax.pinned(specs, given.pins)
    if given.inputs or given.outputs:
        found: tuple[Signature, ...] = (_asked(meta, specs, given, pins),)
    else:
        found = proposals.declared(meta, specs, notes, given.signature)
        found = tuple(_without_pinned(signature, pins, notes) for signature in found)
    if not found and given.signature is None:
        found = _collected(meta, specs, pins, notes)
    if not found:
        raise proposals.ask(meta, specs, "the names of its inputs and outputs", notes)
    guesses = Candidates(specs, proposals.machinery(meta))
    for signature in found:
        for spec in (*signature.inputs.values(), *signature.outputs.values()):
            specs.require_one_value(spec.tensor, f"signature {signature.key}")
        _require_complete(specs, guesses, signature, pins, notes)
    if given.allow_nonfinite:
        found = tuple(signature.model_copy(update={"allow_nonfinite": True}) for signature in found)
    inputs = {spec.tensor for signature in found for spec in signature.inputs.values()}
    cuts = sorted(name for name in inputs if not specs.nodes[graphs.node_name(name)].op.startswith("Placeholder"))
    return Resolved(signatures=found, pins=pins, cuts=tuple(cuts), notes=tuple(notes))


def _asked(meta: MetaGraphDef, specs: Specs, given: ModelOptions, pins: Mapping[str, Any]) -> Signature:
    if not given.outputs:
        raise proposals.ask(meta, specs, "--output as well as --input", [])
    wanted = [option_syntax.tensor(specs, "--output", text) for text in given.outputs]
    stops = [option_syntax.tensor(specs, "--input", text) for text in given.inputs]
    if both := sorted(set(stops) & pins.keys()):
        found = "an input, too"
        raise UsageError(f"--pin {both[0]}", "a placeholder that is no input", found, "leave one of them out.")
    if twice := next((name for name in stops if stops.count(name) > 1), None):
        raise UsageError(f"--input {twice}", "each tensor once", "it twice", "leave one out.")
    # What reads a placeholder tells its shape, so the way from the inputs to the outputs is looked at first.
    specs.infer(wanted, [*pins, *(name for name in stops if proposals.op(specs, name) not in PLACEHOLDERS)])
    inputs = option_syntax.named(specs, "--input", given.inputs)
    outputs = option_syntax.named(specs, "--output", given.outputs, [*stops, *pins])
    if not inputs and not _alone(specs, wanted, pins):
        raise proposals.ask(meta, specs, "--input as well as --output", [])
    return Signature(key=given.signature or DEFAULT_KEY, method=Method.PREDICT, inputs=inputs, outputs=outputs)


def _alone(specs: Specs, outputs: list[str], pins: Mapping[str, Any]) -> bool:
    """Return True if the outputs need no input, because variables hold it."""
    return not specs.needed(outputs, pins)[1]


def _without_pinned(signature: Signature, pins: Mapping[str, Any], notes: list[str]) -> Signature:
    pinned = [alias for alias, spec in signature.inputs.items() if spec.tensor in pins]
    notes += [f"{alias} is no input of {signature.key} any more: it is pinned" for alias in pinned]
    left = {alias: spec for alias, spec in signature.inputs.items() if alias not in pinned}
    return signature.model_copy(update={"inputs": left})


def _collected(meta: MetaGraphDef, specs: Specs, pins: Mapping[str, Any], notes: list[str]) -> tuple[Signature, ...]:
    """Return one signature from collections, if they name inputs and outputs."""
    held = ranking.collected(meta.collection_def, specs.nodes)
    sides: dict[str, dict[str, TensorSpec]] = {"inputs": {}, "outputs": {}}
    for key, tensors in held.items():
        at = sides[ranking.side(key)]
        for tensor in tensors:
            if tensor not in pins and tensor not in (spec.tensor for spec in at.values()):
                specs.infer([tensor], list(pins))
                at[option_syntax.alias_of(tensor, at)] = specs.spec(tensor)
    if not all(sides.values()):
        return ()
    notes.append(f"inputs and outputs are those of the collections {', '.join(held)}")
    return (Signature(key=DEFAULT_KEY, method=Method.PREDICT, **sides),)


def _require_complete(
    specs: Specs, guesses: Candidates, signature: Signature, pins: Mapping[str, Any], notes: list[str]
) -> None:
    """Raise UsageError if an output needs a batch, or a placeholder, that has no value."""
    given = [spec.tensor for spec in signature.inputs.values()] + list(pins)
    reached, entered = specs.needed((spec.tensor for spec in signature.outputs.values()), given)
    for name in sorted(guesses.pins.keys() & reached):
        if proposals.op(specs, name) not in PLACEHOLDERS and f"{name}:0" not in given:
            notes.append(
                f"{name} keeps its default: {guesses.pins[name].why}; {proposals.option(guesses, name)} fixes it"
            )
    if not signature.inputs:
        notes.append(f"signature {signature.key} has no inputs: its outputs are computed from what the model holds")
    if not entered:
        return
    missing = sorted(entered, key=proposals.by_position)
    options = " ".join(proposals.option(guesses, tensor) for tensor in missing)
    fed = [tensor for tensor in missing if proposals.op(specs, tensor) in FEEDERS]
    first = (fed or missing)[0]
    pin = guesses.pins.get(graphs.node_name(first))
    why = pin.why if pin else f"it feeds {entered[first]}"
    others = f" (and {', '.join(missing[1:])})" if len(missing) > 1 else ""
    raise UsageError(
        f"signature {signature.key}",
        "outputs that only the inputs lead to",
        f"that they need {', '.join(fed)}: {proposals.op(specs, first)} feeds the training graph"
        if fed
        else f"that they need the placeholder {first}, which is neither input nor pinned: {why}{others}",
        f"cut the graph at the tensors after it: {options}" if fed else f"add {options}",
        missing=missing,
    )
