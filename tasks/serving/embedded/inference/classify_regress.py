"""Classify, regress and multi-inference: check requests over `tf.Example`s, run them and make their results.

Sources in tensorflow_serving/servables/tensorflow: classifier.cc, regressor.cc, multi_inference.cc, util.cc. Requests and
results are the messages of tensorflow_serving/apis, over REST too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tasks.serving.embedded import tensors
from tasks.serving.embedded.errors import Code, ServingError, invalid
from tasks.serving.embedded.inference.predict import DEFAULT_SIGNATURE
from tasks.serving.embedded.tensors import Array
from tasks.serving.embedded.versions.servable import Servable
from tasks.serving.protos import (
    ClassificationResult,
    ExamplesRequest,
    Input,
    ModelSpec,
    MultiInferenceRequest,
    RegressionResult,
    SignatureDef,
)

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def classify(servable: Servable, request: ExamplesRequest, timeout_ms: int | None) -> ClassificationResult:
    """Return the `ClassificationResult` of a `ClassificationRequest`."""
    signature = _named_signature(servable, request.model_spec)
    input_name, output_names = _classify_tensors(signature)
    outputs, examples = _run_on_examples(servable, request.input, input_name, output_names, timeout_ms)
    return _classification(signature, outputs, examples)


def regress(servable: Servable, request: ExamplesRequest, timeout_ms: int | None) -> RegressionResult:
    """Return the `RegressionResult` of a `RegressionRequest`."""
    signature = _named_signature(servable, request.model_spec)
    input_name, output_names = _regress_tensors(signature)
    outputs, examples = _run_on_examples(servable, request.input, input_name, output_names, timeout_ms)
    return _regression(signature, outputs, examples)


def multi_inference(
    servable: Servable, request: MultiInferenceRequest, timeout_ms: int | None
) -> list[ClassificationResult | RegressionResult]:
    """Return the result of each task of a `MultiInferenceRequest`, from one run over the shared input."""
    requested: list[tuple[str, SignatureDef]] = []
    model_name = input_name = ""
    output_names: set[str] = set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if model_name not in ("", task.model_spec.name):
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        model_name = task.model_spec.name
        key = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if key in (name for name, _ in requested):
            raise invalid(f"Duplicate evaluation of signature: {key}")
        if key not in servable.signatures:
            raise invalid(f"Requested signature not found in model graph: {key}")
        signature = servable.signatures[key]
        requested.append((key, signature))
        if task.method_name == CLASSIFY_METHOD:
            task_input, task_outputs = _classify_tensors(signature)
        elif task.method_name == REGRESS_METHOD:
            task_input, task_outputs = _regress_tensors(signature)
        else:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        if input_name not in ("", task_input):
            raise invalid("Input tensor must be the same for all Signatures.")
        input_name = task_input
        output_names.update(task_outputs)
    outputs, examples = _run_on_examples(servable, request.input, input_name, sorted(output_names), timeout_ms)
    return [
        _classification(signature, outputs, examples)
        if task.method_name == CLASSIFY_METHOD
        else _regression(signature, outputs, examples)
        for task, (_, signature) in zip(request.tasks, requested, strict=True)
    ]


def _named_signature(servable: Servable, model_spec: ModelSpec) -> SignatureDef:
    key = model_spec.signature_name or DEFAULT_SIGNATURE
    if key not in servable.signatures:
        raise invalid(f"No signature was found with the name: {key}")
    return servable.signatures[key]


def _classify_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {signature_text(signature)}")
    names = [signature.outputs[alias].name for alias in ("classes", "scores") if alias in signature.outputs]
    if not names:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores".'
            f" Signature was: {signature_text(signature)}"
        )
    return signature.inputs["inputs"].name, names


def _regress_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {signature_text(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {signature_text(signature)}")
    return signature.inputs["inputs"].name, [signature.outputs["outputs"].name]


def signature_text(signature: SignatureDef) -> str:
    """Format a SignatureDef as C++'s `DebugString` does."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(signature)
    return text


def _run_on_examples(
    servable: Servable, request_input: Input, input_name: str, output_names: Sequence[str], timeout_ms: int | None
) -> tuple[dict[str, Array], int]:
    """Return outputs by tensor name, and the number of examples."""
    kind = request_input.WhichOneof("kind")
    chosen = getattr(request_input, kind) if kind else None
    if chosen is None or not chosen.examples:
        raise invalid("Input is empty.")
    # Concatenated messages are merged when parsed: each example gets the context's features, its own taking precedence.
    prefix = chosen.context.SerializeToString() if kind == "example_list_with_context" else b""
    serialized = np.empty(len(chosen.examples), object)
    serialized[:] = [prefix + example.SerializeToString() for example in chosen.examples]
    outputs = servable.run({input_name: serialized}, output_names, timeout_ms)
    return dict(zip(output_names, outputs, strict=True)), len(serialized)


def _classification(signature: SignatureDef, outputs: Mapping[str, Array], examples: int) -> ClassificationResult:
    from tensorflow_serving.apis import classification_pb2

    columns: dict[str, Array] = {}
    for alias, dtype in (("classes", np.dtype(object)), ("scores", np.dtype(np.float32))):
        if alias not in signature.outputs:
            continue
        column = outputs[signature.outputs[alias].name]
        if column.ndim != 2:
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(column)}")
        if column.dtype != dtype:
            expected = tensors.data_type_enum_name(tensors.data_type_of(dtype))
            raise invalid(f"Expected {alias} Tensor of {expected}. Got: {_type_text(column)}")
        if column.shape[0] != examples:
            raise invalid(f"Expected {alias} output batch size of {examples}. Got: {column.shape[0]}")
        columns[alias] = column
    widths = [column.shape[1] for column in columns.values()]
    if len(set(widths)) > 1:
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[1]}")
    result: ClassificationResult = classification_pb2.ClassificationResult()
    for row in range(examples):
        classifications = result.classifications.add()
        for index in range(widths[0]):
            found = classifications.classes.add()
            if "classes" in columns:
                found.label = columns["classes"][row, index].decode("utf-8", "replace")
            if "scores" in columns:
                found.score = columns["scores"][row, index]
    return result


def _regression(signature: SignatureDef, outputs: Mapping[str, Array], examples: int) -> RegressionResult:
    from tensorflow_serving.apis import regression_pb2

    output = outputs[signature.outputs["outputs"].name]
    if not (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + _shape_text(output)
        )
    if output.shape[0] != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {output.shape[0]}")
    if output.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_type_text(output)}")
    result: RegressionResult = regression_pb2.RegressionResult()
    for value in output.reshape(-1):
        result.regressions.add().value = value
    return result


def _shape_text(tensor: Array) -> str:
    return f"[{','.join(map(str, tensor.shape))}]"


def _type_text(tensor: Array) -> str:
    return tensors.data_type_enum_name(tensors.data_type_of(tensor.dtype))
