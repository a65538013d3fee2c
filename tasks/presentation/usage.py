"""Examples of requests to a server at the given addresses, and commands that manage the release.

Request formats: TensorFlow Serving's g3doc/api_rest.md (row format under `instances`, columnar under `inputs`) and
tensorflow_serving/apis/predict.proto. Every method's signature answers Predict (servables/tensorflow/predict_util.cc).
"""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from tasks.presentation.facts import ReportFacts
from tasks.presentation.samples import is_batched
from tasks.records.signature import Method, Signature, TensorSpec

# The dtypes that REST's JSON can carry (tensorflow_serving/util/json_tensor.cc).
_IN_JSON = frozenset(
    {"float32", "float64", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool", "string"}
)
_LONG = 6000  # characters of JSON above which a sample is not printed


@dataclass(frozen=True)
class Example:
    """Example requests to one signature. `curl` is empty where REST cannot be used; `note` gives the reason."""

    signature: str
    curl: str
    grpc: str
    note: str


@dataclass(frozen=True)
class Command:
    """A shell command and its purpose."""

    line: str
    purpose: str


def examples(facts: ReportFacts) -> tuple[Example, ...]:
    """Return an example for each signature that has a sample row, the default predict signature first."""
    complete = [
        signature
        for signature in facts.signatures
        if signature.inputs and set(signature.inputs) <= set(facts.sample_inputs.get(signature.key, {}))
    ]
    complete.sort(key=lambda signature: (signature.key != "serving_default", signature.called_by is not Method.PREDICT))
    return tuple(_example(facts, signature) for signature in complete)


def _example(facts: ReportFacts, signature: Signature) -> Example:
    specs = {**signature.inputs, **signature.outputs}
    not_carried = sorted({spec.dtype for spec in specs.values()} - _IN_JSON)
    sample = facts.sample_inputs[signature.key]
    long = _is_long(sample, signature)
    note = f"REST's JSON cannot carry {', '.join(not_carried)}: use gRPC. " if not_carried else ""
    note += "The sample row is too long to print; a row of the same shape stands in for it." if long else ""
    curl = "" if not_carried else _curl(facts, signature, sample, long)
    return Example(signature.key, curl, _grpc(facts, signature, sample, long), note.strip())


def _curl(facts: ReportFacts, signature: Signature, sample: dict[str, Any], long: bool) -> str:
    url = f"{facts.rest_url.rstrip('/')}/v1/models/{quote(facts.name, safe='')}:predict"
    post = f"curl -sS -X POST {shlex.quote(url)} -H 'Content-Type: application/json'"
    rows = all(is_batched(spec) for spec in signature.inputs.values())
    if long:
        pairs = ", ".join(
            f"{json.dumps(name)}: {_filled(sample[name], spec) if rows else _value(sample[name], spec, long)}.tolist()"
            for name, spec in signature.inputs.items()
        )
        body = f'"instances": [{{{pairs}}}]' if rows else f'"inputs": {{{pairs}}}'
        program = (
            f'import json, numpy as np; print(json.dumps({{"signature_name": {json.dumps(signature.key)}, {body}}}))'
        )
        return f"python3 -c {shlex.quote(program)} |\n{post} -d @-"
    given = {name: sample[name] for name in signature.inputs}
    columns = {name: [value] if is_batched(signature.inputs[name]) else value for name, value in given.items()}
    request = {"signature_name": signature.key} | ({"instances": [given]} if rows else {"inputs": columns})
    return f"{post} \\\n  -d {shlex.quote(json.dumps(request))}"


def _grpc(facts: ReportFacts, signature: Signature, sample: dict[str, Any], long: bool) -> str:
    feeds = "\n".join(
        f"request.inputs[{name!r}].CopyFrom(tf.make_tensor_proto({_value(sample[name], spec, long)}, {spec.dtype!r}))"
        for name, spec in signature.inputs.items()
    )
    numpy = "import numpy as np\n" if long else ""
    return f"""\
import grpc
{numpy}import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

request = predict_pb2.PredictRequest()
request.model_spec.name = {facts.name!r}
request.model_spec.signature_name = {signature.key!r}
{feeds}
with grpc.insecure_channel({facts.grpc_address!r}) as channel:
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answer = service.Predict(request, timeout=10)
for name, tensor in answer.outputs.items():
    print(name, tf.make_ndarray(tensor))
"""


def frozen(facts: ReportFacts) -> str:
    """Return Python code that runs the frozen graph without a server, or "" where there is no frozen graph or no sample."""
    folder = next((step.artifact for step in facts.steps if step.name == "freeze" and step.artifact), None)
    made = any(entry.step == "freeze" and entry.path == "frozen_graph.pb" for entry in facts.files)
    shown = next(iter(examples(facts)), None)
    signature = next((signature for signature in facts.signatures if shown and signature.key == shown.signature), None)
    if not folder or not made or signature is None:
        return ""
    sample = facts.sample_inputs[signature.key]
    long = _is_long(sample, signature)
    fetches = ", ".join(f"{name!r}: {spec.tensor!r}" for name, spec in signature.outputs.items())
    feeds = ", ".join(f"{spec.tensor!r}: {_value(sample[name], spec, long)}" for name, spec in signature.inputs.items())
    assets = ", ".join(f"{asset.tensor!r}: folder + {f'/assets/{asset.filename}'!r}" for asset in facts.assets)
    tables = (
        f"    session.run({facts.table_init!r}, {{{assets}}})  # fills the lookup tables\n" if facts.table_init else ""
    )
    return f"""\
{"import numpy as np" + chr(10) if long else ""}import tensorflow as tf

folder = {folder!r}
graph_def = tf.compat.v1.GraphDef()
with open(folder + "/frozen_graph.pb", "rb") as stream:
    graph_def.ParseFromString(stream.read())
with tf.Graph().as_default() as graph:
    tf.import_graph_def(graph_def, name="")
with tf.compat.v1.Session(graph=graph) as session:
{tables}    print(session.run({{{fetches}}}, {{{feeds}}}))
"""


def _is_long(sample: dict[str, Any], signature: Signature) -> bool:
    """Return whether a row is too long to print. JSON has no complex numbers; Python source has."""
    return len(json.dumps({name: sample[name] for name in signature.inputs}, default=repr)) > _LONG


def _value(sample: Any, spec: TensorSpec, long: bool) -> str:
    """Return Python source for an input: the sample as a batch of one where the input has rows."""
    if long:
        return _filled([sample] if is_batched(spec) else sample, spec)
    return _literal([sample] if is_batched(spec) else sample)


def _filled(sample: Any, spec: TensorSpec) -> str:
    """Return an expression for an array of zeros or empty strings of the sample's shape."""
    shape = []
    while isinstance(sample, list):
        shape.append(len(sample))
        sample = sample[0] if sample else None
    fill = {"string": '""', "bool": "False"}.get(spec.dtype, "0" if "int" in spec.dtype else "0.0")
    return f"np.full({tuple(shape)}, {fill})"


def _literal(value: Any) -> str:
    """Return a JSON value as Python source: base64 objects as bytes, NaN and infinities as floats."""
    if isinstance(value, list):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if isinstance(value, dict) and set(value) == {"b64"}:
        return repr(base64.b64decode(value["b64"]))
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return repr(value)


def commands(facts: ReportFacts) -> tuple[Command, ...]:
    """Return the commands that apply to the release now."""
    release = facts.promotion
    name = shlex.quote(facts.name)
    base = PurePosixPath(release.path).parent if release and release.path else None
    root = f" --serving-root {shlex.quote(str(base.parent))}" if base and base.name == facts.name else ""
    lines = [Command(f"tfship releases {name}{root}", "every version with its promotions and rollbacks")]
    if release and release.outcome == "promoted" and release.previous is not None:
        rollback = f"tfship rollback {name} --to {release.previous} --reason 'say why'{root}"
        lines.append(Command(rollback, f"serve version {release.previous} again and hold version {release.version}"))
    if base and release and release.version is not None:
        ports = f"--port={_port(facts.grpc_address)} --rest_api_port={_port(facts.rest_url)}"
        place = f"--model_name={name} --model_base_path={shlex.quote(str(base))}"
        server = f"python -m tasks.serving.embedded {ports} {place}"
        lines.append(Command(server, "serve it here with the embedded server"))
    return tuple(lines)


def _port(address: str) -> str:
    return address.rstrip("/").rpartition(":")[2]
