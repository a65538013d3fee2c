"""A model server's REST client, which is one more form of the model. Runs in a child.

Protocol: TensorFlow Serving's `g3doc/api_rest.md`, the columnar format (one list for each input, under `inputs`) and the
row format (one element for each row, under `instances`).
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks.errors import ChildFailed
from tasks.records.baseline import TensorFact
from tasks.records.forms import CandidateForm
from tasks.records.serving import Endpoint
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.serving.clients import plain_http
from tasks.serving.clients.admission import admitted, is_full
from tasks.serving.clients.grpc import AnsweredError, NotCarriedError, classified, reaching, regressed
from tasks.tensors.tensor_file import Array, Tensors, numpy_dtype

# The dtypes that REST's JSON can carry (tensorflow_serving/util/json_tensor.cc).
IN_JSON = frozenset(
    {"float32", "float64", "int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool", "string"}
)
# A larger body is sent only for a single row: servers and proxies have limits of their own, and the embedded server
# reads about a MiB a second on a busy machine.
BODY_BYTES = 8 * 2**20
_BUSY = frozenset({429, 502, 503, 504})  # RFC 9110: status codes that say nothing about the model
_TOO_LARGE = 413
# Bounds of the error with which a server may read a decimal as a double (RapidJSON without kParseFullPrecisionFlag:
# 3 units in the last place).
_MISREAD = (1 - 2**-50, 1 + 2**-50)


class RestPredictor:
    """A served model over REST, in columns (one list for each input) or by row (one list of instances).

    By default it is asked in its latest version, else in the one with this number or this label.

    `turned_away` counts attempts that the server turned away because it was full.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        signatures: Mapping[str, Signature],
        seconds: float,
        *,
        by_row: bool = False,
        version: int | str | None = None,
    ) -> None:
        self.form = CandidateForm.SERVED_REST_ROWS if by_row else CandidateForm.SERVED_REST
        path = "" if version is None else f"/versions/{version}" if isinstance(version, int) else f"/labels/{version}"
        self.model = f"{endpoint.rest}/v1/models/{name}{path}"
        self.client = plain_http.client(seconds)
        self.signatures = signatures
        self.by_row = by_row
        self.turned_away = 0
        self._counting = threading.Lock()

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`.

        Raises:
            AnsweredError: the server answered with an error.
            NotCarriedError: the protocol cannot carry a dtype of the signature, its inputs, or its rows.
            ChildFailed: the server did not answer.
        """
        spec = self.signatures[signature]
        _require_carried(spec)
        if spec.called_by is Method.PREDICT:
            outputs = self._rows(spec, inputs) if self.by_row else self._columns(spec, inputs)
            return {name: parsed(value, spec.outputs.get(name)) for name, value in outputs.items()}
        (examples,) = inputs.values()
        body = {"signature_name": signature, "examples": [example(encoded) for encoded in examples.ravel()]}
        if spec.called_by is Method.REGRESS:
            return regressed(spec, self.ask(":regress", body, "results"))
        rows = self.ask(":classify", body, "results")
        return classified(spec, [[(label.encode(), score) for label, score in row] for row in rows])

    def shown(self, spec: Signature, outputs: Mapping[str, Array]) -> Tensors:
        """Return `outputs` as JSON can carry them: without the dimensions after an empty one.

        `outputs` are the live model's, so that no answer of a server excuses it.

        Raises:
            NotCarriedError: JSON, or its row format, cannot hold these outputs.
        """
        _require_carried(spec)
        for name, array in outputs.items():
            as_text = spec.called_by is not Method.PREDICT or not name.endswith("_bytes")  # others come in base64
            if array.dtype.kind in "OSU" and as_text and not all(map(_is_text, array.ravel().tolist())):
                found = f"strings in {name} that are not UTF-8"
                raise NotCarriedError("REST", "text", found, "give the output a name that ends in `_bytes`.")
        # (json_tensor.cc: "has no shape information", "has inconsistent batch size".)
        lengths = {array.shape[:1] for array in outputs.values()}
        if self.by_row and (len(lengths) != 1 or () in lengths):
            raise NotCarriedError("REST by row", "outputs of one length", "outputs of several lengths", "use columns.")
        return {name: _cut(array) for name, array in outputs.items()}

    def size(self, spec: Signature, inputs: Mapping[str, Array]) -> int:
        """Estimate the bytes of JSON of a request with these inputs, by their first rows."""
        written = jsonable if spec.called_by is Method.PREDICT else lambda rows: [example(row) for row in rows.ravel()]
        return sum(len(json.dumps(written(array[:1]))) * len(array) for array in inputs.values() if array.ndim)

    def _columns(self, spec: Signature, inputs: Mapping[str, Array]) -> dict[str, Any]:
        columns = {name: jsonable(array) for name, array in inputs.items()}
        answer = self.ask(":predict", {"signature_name": spec.key, "inputs": columns}, "outputs")
        return {next(iter(spec.outputs)): answer} if len(spec.outputs) == 1 else answer

    def _rows(self, spec: Signature, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """Send inputs row by row: all inputs, and all outputs, must have as many rows."""
        scalars = [name for name, one in (*spec.inputs.items(), *spec.outputs.items()) if one.shape == ()]
        if scalars:
            found = f"{' and '.join(sorted(set(scalars)))}, without rows"
            raise NotCarriedError("REST by row", "rows in every input and output", found, "use columns.")
        lengths = {len(array) if array.ndim else None for array in inputs.values()}
        if len(lengths) != 1 or None in lengths:
            raise NotCarriedError("REST by row", "inputs of one length", "inputs of several lengths", "use columns.")
        columns = {name: jsonable(array) for name, array in inputs.items()}
        named = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        instances = named if len(columns) > 1 else [next(iter(row.values())) for row in named]
        answer = self.ask(":predict", {"signature_name": spec.key, "instances": instances}, "predictions")
        if len(spec.outputs) == 1:
            return {next(iter(spec.outputs)): answer}
        return {name: [row[name] for row in answer] for name in (answer[0] if answer else spec.outputs)}

    def metadata(self) -> list[Signature]:
        """Return the signatures that the server reports (`GET …/metadata`)."""
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        from tasks.forms.saved_model import signatures_in

        with reaching("REST", self.client.timeout.read or 0):
            answer = self.client.get(f"{self.model}/metadata")
        reported = get_model_metadata_pb2.SignatureDefMap()
        if answer.status_code == 200:
            found = answer.json().get("metadata", {}).get("signature_def", {})
            json_format.ParseDict(found, reported, ignore_unknown_fields=True)
        return signatures_in(reported.signature_def)

    def ask(self, verb: str, body: Mapping[str, Any], part: str) -> Any:
        """POST one request and return the member `part` of the JSON answer.

        Raises:
            AnsweredError: the server answered with an error, or with something else.
            NotCarriedError: the server does not take a body of this length.
            ChildFailed: it did not answer.
        """
        content = json.dumps(body)
        answer = self.post(self.model + verb, content)
        if answer.status_code == _TOO_LARGE:
            found = f"a body of {len(content)} bytes, which the server refused with {_TOO_LARGE}"
            raise NotCarriedError("REST", "a body that the server takes", found, "use gRPC.")
        try:
            if answer.status_code == 200:
                return answer.json()[part]
        except (ValueError, KeyError, TypeError):
            pass
        raise AnsweredError(f"{answer.status_code} {answer.text[:300]}")

    def post(self, url: str, content: str) -> Any:
        """POST and return the answer of any status; send again while the server is full.

        Raises:
            ChildFailed: there is no answer, or the server is busy.
        """

        def send(left: float) -> Any:
            answer = self.client.post(url, content=content, timeout=left)
            if answer.status_code in _BUSY and is_full(answer.text):
                answer.raise_for_status()
            return answer

        seconds = self.client.timeout.read or 0
        with reaching("REST", seconds):
            answer = admitted(send, seconds, self._count)
        if answer.status_code in _BUSY:
            found, remedy = f"{answer.status_code} {answer.text[:300]}", "see the server's log; run again."
            raise ChildFailed("the server over REST", "an answer", found, remedy)
        return answer

    def _count(self) -> None:
        with self._counting:  # one predictor serves several threads
            self.turned_away += 1

    def values(self) -> Iterator[TensorFact]:
        """Return an empty iterator: a server does not expose its variables."""
        return iter(())

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def _require_carried(spec: Signature) -> None:
    if lost := {one.dtype for one in (*spec.inputs.values(), *spec.outputs.values())} - IN_JSON:
        raise NotCarriedError("REST", "a dtype that JSON can carry", ", ".join(sorted(lost)), "use gRPC.")
    if not spec.inputs:  # `Failed to get input map for signature` (tensorflow_serving/util/json_tensor.cc)
        raise NotCarriedError("REST", "a signature with inputs", "a signature without inputs", "use gRPC.")


def jsonable(array: Array) -> Any:
    """Convert an array to nested lists for JSON: strings as `{"b64": …}`, a float32 with as few digits as it needs."""
    if array.dtype.kind in "OSU":
        encoded = [{"b64": base64.b64encode(item).decode()} for item in array.ravel().tolist()]
        nested = np.empty(array.shape, dtype=object)
        nested.ravel()[:] = encoded
        return nested.tolist()
    if array.dtype == np.float32:
        return _shortest(array).tolist()
    return array.tolist()


def _shortest(array: Array) -> Array:
    """Return for each float32 the double with the fewest digits that is read as the same float32."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact, short = array.astype(np.float64), array.astype("U").astype(np.float64)
        same = np.all([(short * misread).astype(np.float32) == array for misread in _MISREAD], axis=0)
    return np.where(same, short, exact)


def _is_text(item: bytes | str) -> bool:
    try:
        if isinstance(item, bytes):
            item.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(array: Array) -> Array:
    """Drop the dimensions after the first empty one."""
    if array.size:
        return array
    return array.reshape(array.shape[: array.shape.index(0) + 1])


def parsed(value: Any, spec: TensorSpec | None) -> Array:
    """Convert JSON to an array of the expected dtype, or of its own if it does not fit, for the comparison to refuse."""
    flat, shape = _flattened(value)
    if spec is None or shape is None:
        return np.array(json.dumps(value), dtype=object)
    if spec.dtype == "string":
        texts = [base64.b64decode(item["b64"]) if isinstance(item, dict) else item for item in flat]
        array = np.empty(len(flat), dtype=object)
        if all(isinstance(text, (str, bytes)) for text in texts):
            array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
            return array.reshape(shape)
        return np.array(flat).reshape(shape)
    wanted = numpy_dtype(spec.dtype)
    kinds: dict[str, type] = {"f": float, "i": int, "u": int, "b": bool}
    if not all(type(item) is kinds.get(wanted.kind) for item in flat):
        return np.array(flat, dtype=None if flat else wanted).reshape(shape)
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=wanted).reshape(shape)
    except OverflowError:  # a number that the dtype cannot hold
        return np.array(flat, dtype=object).reshape(shape)


def _flattened(value: Any) -> tuple[list[Any], tuple[int, ...] | None]:
    """Flatten nested lists to (items, shape); the shape is None if the lists are ragged."""
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        if any(not isinstance(row, list) or len(row) != len(level[0]) for row in level):
            return level, None
        shape.append(len(level[0]))
        level = [item for row in level for item in row]
    return level, tuple(shape)


def example(encoded: bytes) -> dict[str, Any]:
    """Convert a serialized `tf.Example` to REST's JSON: flat lists by feature name."""
    import tensorflow as tf

    features = {}
    for name, feature in tf.train.Example.FromString(encoded).features.feature.items():
        if feature.WhichOneof("kind") == "bytes_list":
            features[name] = [{"b64": base64.b64encode(item).decode()} for item in feature.bytes_list.value]
        else:
            features[name] = list(feature.float_list.value or feature.int64_list.value)
    return features
