"""Two models side by side: which of the user's words are for which of them, and what in one stands for what in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.adoption import source_graph
from tasks.errors import UsageError
from tasks.graphs.protos import MetaGraphDef
from tasks.graphs.tensor_specs import PLACEHOLDERS, Specs
from tasks.records.adoption import Found, ModelOptions
from tasks.records.base import Record
from tasks.records.forms import Form
from tasks.records.signature import Signature, TensorSpec
from tasks.signatures import option_syntax
from tasks.user_code.source import ModelSource

_PINNABLE = (*PLACEHOLDERS, "PlaceholderWithDefault")
_CHECKPOINTS = (Form.SAVER_V1, Form.SAVER_V2)


class Pair(Record):
    """A signature of the baseline and the candidate's that stands for it; names are baseline's -> candidate's."""

    baseline: Signature
    candidate: Signature
    inputs: dict[str, str]
    outputs: dict[str, str]


def given_for(meta: MetaGraphDef | None, given: ModelOptions) -> ModelOptions:
    """Return the options that apply to the model of this graph; None for one that is opened from code or by Keras.

    Inputs and outputs apply if all their tensors are in its graph, or if it declares no signature; pins apply if the
    placeholder exists; the key of a signature applies if it is declared, or names the given inputs and outputs.
    """
    named = bool(given.inputs or given.outputs)
    if meta is None:
        left_out: dict[str, Any] = {"inputs": (), "outputs": (), "pins": {}}
        return given.model_copy(update=left_out | ({"signature": None} if named else {}))
    specs = Specs(meta.graph_def)
    pins = {name: value for name, value in given.pins.items() if _pinnable(specs, name)}
    declared = {key for key in meta.signature_def if not key.startswith("__saved_model")}
    texts = [*(("--input", text) for text in given.inputs), *(("--output", text) for text in given.outputs)]
    if not declared or (named and all(_is_there(specs, *text) for text in texts)):
        return given.model_copy(update={"pins": pins})
    key = given.signature if given.signature in declared else None
    return given.model_copy(update={"inputs": (), "outputs": (), "pins": pins, "signature": key})


def code_for(found: Found, given: ModelOptions, code: ModelSource | None) -> tuple[ModelOptions, ModelSource | None]:
    """Return the options that apply to a model of this form: graph, code and name map for one without its graph, tags for a
    SavedModel.
    """
    alone = found.form in _CHECKPOINTS and found.meta is None
    mapped = alone or (found.form in _CHECKPOINTS and given.graph is None and code is None)
    graph = given.graph if alone and code is None else None
    kept = given.model_copy(update={"graph": graph, "var_map": given.var_map if mapped else None})
    if source_graph.graph_of(found, kept).form is not Form.SAVED_MODEL:
        kept = kept.model_copy(update={"tags": None})
    return kept, code if alone or found.form in (Form.OBJECT_CHECKPOINT, Form.KERAS, Form.HDF5) else None


def words(given: ModelOptions, code: ModelSource | None) -> tuple[str, ...]:
    """Return the options as words, to find those that applied to no model."""
    options = [*(f"--input {text}" for text in given.inputs), *(f"--output {text}" for text in given.outputs)]
    options += [f"--pin {name}" for name in given.pins]
    options += [f"--signature {given.signature}"] if given.signature is not None else []
    options += [f"--tags {','.join(given.tags)}"] if given.tags is not None else []
    options += [f"--graph {given.graph}"] if given.graph is not None else []
    options += [f"--var-map {given.var_map}"] if given.var_map is not None else []
    return (*options, f"--model {code.module}:{code.attribute}") if code is not None else tuple(options)


def pair(
    baseline: Sequence[Signature], candidate: Sequence[Signature], where: str
) -> tuple[list[Pair], list[Signature], list[Signature]]:
    """Return the pairs, and the signatures that only the baseline and only the candidate has.

    They are paired by key; if each model has one signature, those two are paired.

    Raises:
        UsageError: no signature of the one corresponds to any of the other, or the inputs or outputs of two cannot be paired.
    """
    by_key = {signature.key: signature for signature in candidate}
    if len(baseline) == len(candidate) == 1:
        by_key = {baseline[0].key: candidate[0]}
    pairs = [_paired(mine, by_key[mine.key], where) for mine in baseline if mine.key in by_key]
    if not pairs:
        remedy = "name one that both have (--signature KEY), or tensors of both graphs (--input … --output …)."
        raise UsageError(where, f"a signature among {_keys(baseline)}", _keys(candidate), remedy)
    taken = {one.candidate.key for one in pairs}
    only_mine = [mine for mine in baseline if mine.key not in by_key]
    return pairs, only_mine, [theirs for theirs in candidate if theirs.key not in taken]


def _paired(mine: Signature, theirs: Signature, where: str) -> Pair:
    inputs = _alike(mine.inputs, theirs.inputs)
    if inputs.keys() != mine.inputs.keys() or set(inputs.values()) != theirs.inputs.keys():
        raise _unpaired("inputs", mine, theirs, mine.inputs, theirs.inputs, where)
    outputs = _alike(mine.outputs, theirs.outputs)
    if not outputs:
        raise _unpaired("outputs", mine, theirs, mine.outputs, theirs.outputs, where)
    return Pair(baseline=mine, candidate=theirs, inputs=inputs, outputs=outputs)


def _alike(mine: Mapping[str, TensorSpec], theirs: Mapping[str, TensorSpec]) -> dict[str, str]:
    if len(mine) == len(theirs) == 1:
        return dict(zip(mine, theirs, strict=True))
    return {name: name for name in mine if name in theirs}


def _unpaired(
    side: str,
    mine: Signature,
    theirs: Signature,
    expected: Mapping[str, TensorSpec],
    found: Mapping[str, TensorSpec],
    where: str,
) -> UsageError:
    option = f"--{side.removesuffix('s')}"
    return UsageError(
        f"{where}, {side} of the signature {theirs.key}",
        f"those of the first model's {mine.key}: {_listed(expected)}",
        _listed(found),
        f"call them alike: {option} ALIAS=NAME, for tensors that are in both graphs.",
    )


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} ({spec.dtype})" for name, spec in specs.items()) or "none"


def _keys(signatures: Sequence[Signature]) -> str:
    return ", ".join(signature.key for signature in signatures) or "none"


def _is_there(specs: Specs, option: str, text: str) -> bool:
    try:
        option_syntax.tensor(specs, option, text)
    except UsageError:
        return False
    return True


def _pinnable(specs: Specs, name: str) -> bool:
    node = specs.nodes.get(name.partition(":")[0])
    return node is not None and node.op in _PINNABLE
