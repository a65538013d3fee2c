"""Signatures of a model: inputs, outputs, assets and names, in the terms of TensorFlow's SignatureDef."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from tasks.records.base import Record

DEFAULT_KEY = "serving_default"  # comes first wherever signatures are listed
ESCAPED_SLASH = "%2F"


class Method(StrEnum):
    """The method names that TensorFlow Serving knows (tensorflow/python/saved_model/signature_constants.py)."""

    PREDICT = "tensorflow/serving/predict"
    CLASSIFY = "tensorflow/serving/classify"
    REGRESS = "tensorflow/serving/regress"


class OutputRef(NamedTuple):
    """An output, or an input, of a signature.

    `str()` is its name in tensor files, tables and settings: `signature/output`, or `output` alone without a signature. A
    slash in the signature's key, as in `tensorflow/serving/regress`, is written `%2F`.
    """

    signature: str
    output: str

    def __str__(self) -> str:
        return f"{self.signature.replace('/', ESCAPED_SLASH)}/{self.output}" if self.signature else self.output

    @classmethod
    def parse(cls, name: str) -> OutputRef:
        """Take a name apart: the inverse of `str()`."""
        signature, slash, output = name.partition("/")
        return cls(signature.replace(ESCAPED_SLASH, "/"), output) if slash else cls("", name)


class TensorSpec(Record):
    """One input or output: the tensor in the graph, its dtype (`float32`), its shape (None for an unknown size)."""

    tensor: str
    dtype: str
    shape: tuple[int | None, ...] | None


class Signature(Record):
    """One signature key's inputs and outputs.

    `allow_nonfinite` declares that NaN and infinities are legitimate outputs of this signature and legitimate values of
    the variables that it reads; without it, a baseline that holds one is refused.
    """

    key: str
    method: Method
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    allow_nonfinite: bool = False

    @property
    def called_by(self) -> Method:
        """The method to call it by: its own, or Predict, which takes every signature, where no server answers its own."""
        return Method.PREDICT if self.unanswerable else self.method

    @property
    def unanswerable(self) -> str:
        """The reason why no server answers this signature by its own method, or empty.

        Classify and Regress send serialised `tf.Example`s to one string input, `inputs`, and want outputs of given names,
        dtypes and ranks (tensorflow_serving/servables/tensorflow/classifier.cc, regressor.cc). TensorFlow Serving's own
        half_plus_two has regress signatures of floats.
        """
        if self.method is Method.PREDICT:
            return ""
        if {name: spec.dtype for name, spec in self.inputs.items()} != {"inputs": "string"}:
            return f"its inputs are not one of tf.Examples, `inputs`, but {_named(self.inputs)}"
        if self.method is Method.REGRESS:
            fits = [*self.outputs] == ["outputs"] and _fits(self.outputs["outputs"], "float32", (1, 2), (None, 1))
            return (
                "" if fits else f"its outputs are not one float32 for each row, `outputs`, but {_named(self.outputs)}"
            )
        wanted = {"classes": "string", "scores": "float32"}
        fits = bool(self.outputs) and all(
            name in wanted and _fits(spec, wanted[name], (2,)) for name, spec in self.outputs.items()
        )
        return "" if fits else f"its outputs are not rows of `classes` and `scores`, but {_named(self.outputs)}"


def _fits(spec: TensorSpec, dtype: str, ranks: tuple[int, ...], last: tuple[int | None, ...] = ()) -> bool:
    """Return True if a tensor may be of that dtype and one of the ranks, its second dimension one of `last` (empty: any)."""
    if spec.dtype != dtype:
        return False
    return spec.shape is None or (
        len(spec.shape) in ranks and (len(spec.shape) < 2 or not last or spec.shape[1] in last)
    )


def _named(specs: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{name}: {spec.dtype} {_shape(spec)}" for name, spec in specs.items()) or "none"


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "of unknown rank"
    return f"[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"


class Asset(Record):
    """A file that the graph reads when its tables are initialised; `tensor` is the Const that holds its path."""

    filename: str
    tensor: str
    sha256: str


class Impurity(StrEnum):
    """What an output may depend on besides the inputs."""

    CLOCK = "clock"
    RANDOM = "random"
    STATE = "state"


class GraphNames(Record):
    """The names by which later steps find what they need in the graph, without the model's source code.

    `needed` are the variables that the signatures' outputs read; `table_init` is the operation that fills lookup
    tables, which never touches a variable. `impure` is what the outputs depend on besides the inputs, and was declared.
    """

    signatures: tuple[Signature, ...]
    assets: tuple[Asset, ...] = ()
    needed: tuple[str, ...] = ()
    table_init: str | None = None
    train_op: str | None = None
    loss: str | None = None
    global_step: str | None = None
    impure: tuple[Impurity, ...] = ()

    def signature(self, key: str) -> Signature:
        """Return the signature of a key. Raises KeyError."""
        for signature in self.signatures:
            if signature.key == key:
                return signature
        raise KeyError(key)
