"""Signatures of a model: inputs, outputs, assets and names, in the terms of TensorFlow's SignatureDef."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from tasks.records.base import Record

DEFAULT_KEY = "serving_default"  # comes first wherever signatures are listed


class Method(StrEnum):
    """The method names that TensorFlow Serving knows (tensorflow/python/saved_model/signature_constants.py)."""

    PREDICT = "tensorflow/serving/predict"
    CLASSIFY = "tensorflow/serving/classify"
    REGRESS = "tensorflow/serving/regress"


class OutputRef(NamedTuple):
    """An output, or an input, of a signature.

    `str()` is its name in tensor files, tables and settings: `signature/output`, or `output` alone without a signature.
    """

    signature: str
    output: str

    def __str__(self) -> str:
        return f"{self.signature}/{self.output}" if self.signature else self.output

    @classmethod
    def parse(cls, name: str) -> OutputRef:
        """Take a name apart. Keys of signatures hold no slash, names of outputs may."""
        signature, slash, output = name.partition("/")
        return cls(signature, output) if slash else cls("", name)


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
        """The method to call it by: its own, or Predict, which takes every signature.

        Classify and Regress send serialised `tf.Example`s, which only one string input takes; half_plus_two of
        TensorFlow Serving has a regress signature of floats.
        """
        takes_examples = [spec.dtype for spec in self.inputs.values()] == ["string"]
        return self.method if takes_examples else Method.PREDICT


class Asset(Record):
    """A file that the graph reads when its tables are initialised; `tensor` is the Const that holds its path."""

    filename: str
    tensor: str
    sha256: str


class GraphNames(Record):
    """The names by which later steps find what they need in the graph, without the model's source code.

    `needed` are the variables that the signatures' outputs read; `table_init` is the operation that fills lookup
    tables, which never touches a variable.
    """

    signatures: tuple[Signature, ...]
    assets: tuple[Asset, ...] = ()
    needed: tuple[str, ...] = ()
    table_init: str | None = None
    train_op: str | None = None
    loss: str | None = None
    global_step: str | None = None

    def signature(self, key: str) -> Signature:
        """Return the signature of a key. Raises KeyError."""
        for signature in self.signatures:
            if signature.key == key:
                return signature
        raise KeyError(key)
