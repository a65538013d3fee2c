"""Protocols for the messages of TensorFlow Serving that are read or filled here: the fields in use, with their types.

The real classes come from `tensorflow_serving` and `tensorflow.core`, which ship no types and are imported only in
children (tensorflow_serving/apis/*.proto, tensorflow_serving/config/model_server_config.proto,
tensorflow/core/protobuf/meta_graph.proto, tensorflow/core/framework/tensor.proto, tensorflow/core/example/*.proto).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

from tasks.graphs.protos import Message

M_co = TypeVar("M_co", covariant=True)


class OptionalFields(Message, Protocol):
    """A message with optional fields or a `oneof`."""

    def HasField(self, field: str) -> bool:  # noqa: N802 - protobuf's names
        """Tell whether a field is set."""
        ...

    def WhichOneof(self, group: str) -> str | None:  # noqa: N802
        """Return the name of the field of `group` that is set."""
        ...

    def SetInParent(self) -> None:  # noqa: N802
        """Mark the message as present, even if it is empty."""


class Repeated(Protocol[M_co]):
    """A repeated field of messages."""

    def __iter__(self) -> Iterator[M_co]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> M_co: ...

    def add(self, **fields: Any) -> M_co:
        """Append a message and return it."""
        ...


class Dimension(Protocol):
    """One dimension of a shape."""

    size: int


class TensorShape(OptionalFields, Protocol):
    """A tensor's shape."""

    dim: Repeated[Dimension]
    unknown_rank: bool


class TensorProto(Message, Protocol):
    """A tensor; its values are in `tensor_content` or in the repeated field of its dtype."""

    dtype: int
    tensor_shape: TensorShape
    tensor_content: bytes


class TensorInfo(Protocol):
    """A tensor of a signature: its name in the graph and its DataType number."""

    name: str
    dtype: int


class SignatureDef(Protocol):
    """A signature: tensors by alias, and the defaults of inputs."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, TensorProto]
    method_name: str


class ModelSpec(OptionalFields, Protocol):
    """The model, version and signature of a request or an answer."""

    name: str
    version: Any
    version_label: str
    signature_name: str


class ModelRequest(OptionalFields, Protocol):
    """Any request for one model."""

    model_spec: ModelSpec


class PredictRequest(ModelRequest, Protocol):
    """A Predict request: tensors by alias, and the outputs wanted, empty for all."""

    inputs: Mapping[str, TensorProto]
    output_filter: MutableSequence[str]


class PredictResponse(Message, Protocol):
    """A Predict answer: tensors by alias."""

    model_spec: ModelSpec
    outputs: Mapping[str, TensorProto]


class FeatureList(Protocol):
    """The values of a feature."""

    value: MutableSequence[Any]


class Feature(OptionalFields, Protocol):
    """A feature: one of `bytes_list`, `float_list`, `int64_list` is set."""

    bytes_list: FeatureList
    float_list: FeatureList
    int64_list: FeatureList


class Features(Protocol):
    """Features by name; reading a missing one adds it."""

    feature: Mapping[str, Feature]


class Example(OptionalFields, Protocol):
    """A `tf.Example`."""

    features: Features


class ExampleList(Protocol):
    """Examples, and a context that all share (unless it is a plain list)."""

    examples: Repeated[Example]
    context: Example


class Input(OptionalFields, Protocol):
    """The examples of a request: one of the two fields is set."""

    example_list: ExampleList
    example_list_with_context: ExampleList


class ExamplesRequest(ModelRequest, Protocol):
    """A Classify or Regress request."""

    input: Input


class InferenceTask(Protocol):
    """One task of a MultiInference request."""

    model_spec: ModelSpec
    method_name: str


class MultiInferenceRequest(Message, Protocol):
    """A MultiInference request: several tasks on the same examples."""

    tasks: Repeated[InferenceTask]
    input: Input


class Class(Protocol):
    """One class of a classified example."""

    label: str
    score: float


class Classifications(Protocol):
    """The classes of one example."""

    classes: Repeated[Class]


class ClassificationResult(Protocol):
    """The classes of each example."""

    classifications: Repeated[Classifications]


class Regression(Protocol):
    """The value of one example."""

    value: float


class RegressionResult(Protocol):
    """The value of each example."""

    regressions: Repeated[Regression]


class MetadataRequest(ModelRequest, Protocol):
    """A GetModelMetadata request."""

    metadata_field: Sequence[str]


class ResultResponse(Message, Protocol):
    """A Classify or Regress answer."""

    model_spec: ModelSpec
    result: Any


class MultiInferenceResponse(Message, Protocol):
    """A MultiInference answer: a result for each task."""

    results: Repeated[Any]


class MetadataResponse(Message, Protocol):
    """A GetModelMetadata answer: an `Any` message by field."""

    model_spec: ModelSpec
    metadata: Mapping[str, Any]


class StatusResponse(Message, Protocol):
    """A GetModelStatus answer: a status for each version."""

    model_version_status: Repeated[Any]


class ReloadResponse(Message, Protocol):
    """A HandleReloadConfigRequest answer."""

    status: OptionalFields


class Logged(Protocol[M_co]):
    """A logged request."""

    @property
    def request(self) -> M_co:
        """The request."""
        ...


class PredictionLog(OptionalFields, Protocol):
    """A logged request of one kind."""

    DESCRIPTOR: Any
    predict_log: Logged[PredictRequest]
    classify_log: Logged[ExamplesRequest]
    regress_log: Logged[ExamplesRequest]
    multi_inference_log: Logged[MultiInferenceRequest]


class Versions(Protocol):
    """A version policy's numbers."""

    versions: Sequence[int]
    num_versions: int


class VersionPolicyProto(OptionalFields, Protocol):
    """A version policy: one of `latest`, `all`, `specific` is set."""

    latest: Versions
    specific: Versions


class ModelConfig(Message, Protocol):
    """One model of a server's configuration."""

    name: str
    base_path: str
    model_platform: str
    model_type: int
    model_version_policy: VersionPolicyProto
    version_labels: Mapping[str, int]


class ModelConfigList(Protocol):
    """The models of a server's configuration."""

    config: Repeated[ModelConfig]


class ModelServerConfig(OptionalFields, Protocol):
    """A server's configuration."""

    model_config_list: ModelConfigList
