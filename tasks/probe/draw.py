"""Inputs drawn with a seed: dtypes and shapes from the signature, ranges from what the graph does with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.errors import UsageError
from tasks.graphs import graph as graphs
from tasks.graphs.dataflow import Dataflow, Use
from tasks.graphs.graph import Graph
from tasks.graphs.protos import MetaGraphDef
from tasks.probe import example_spec
from tasks.probe.fit import keyed
from tasks.probe.vocabulary import Vocabularies
from tasks.records.signature import OutputRef, Signature, TensorSpec
from tasks.tensors.tensor_file import Array, Tensors, numpy_dtype

OPEN = 8  # the size of an open dimension that is not the batch, and of a range that the graph leaves open
_OPEN_PIXELS = 32
_WORDS = ("the", "model", "answers", "quickly", "yes", "No", "42", "naïve", "tensor", "flow")
# How much larger or smaller a row is than its neighbours: weights that matter only far from 0 shall be noticed, too.
_MAGNITUDES = (1.0, 1.0, 1.0, 0.01, 10.0)
_POSITIVE = {"Log", "Sqrt", "Rsqrt", "Log1p"}
_UNDRAWABLE = {"ParseSequenceExample", "ParseSequenceExampleV2", "DecodeRaw", "DecodeBmp", "DecodeGif", "DecodeWebP"}
# (position of the index, position of the table) of ops that read a table's rows.
_LOOKUPS = {
    "Gather": (1, 0),
    "GatherV2": (1, 0),
    "ResourceGather": (1, 0),
    "SparseSegmentMean": (1, 0),
    "SparseSegmentSqrtN": (1, 0),
    "SparseSegmentSum": (1, 0),
}
# (position of the index, position of the number of classes or segments).
_COUNTED = {"OneHot": (0, 1), "DenseBincount": (0, 1), "UnsortedSegmentSum": (1, 2), "UnsortedSegmentMax": (1, 2)}


# The position of the larger operand.
_COMPARED = {"Greater": 0, "GreaterEqual": 0, "Less": 1, "LessEqual": 1}


def drawn(
    meta: MetaGraphDef, signatures: Sequence[Signature], rows: int, seed: int, assets: Mapping[str, Path] | None = None
) -> tuple[Tensors, tuple[str, ...]]:
    """`rows` rows for every input, keyed `signature/input`, and what the user should know of them.

    Raises:
        UsageError: an input is of a dtype that cannot be drawn.
    """
    flow = Dataflow(Graph(meta.graph_def))
    vocabularies = Vocabularies(flow, meta, assets or {})
    found: Tensors = {}
    notes: list[str] = []
    for signature in signatures:
        drawing = _Drawing(flow, vocabularies, np.random.default_rng(seed), notes)
        batch = _batch(signature, rows)
        inputs = {name: drawing.input(signature, name, batch) for name in sorted(signature.inputs)}
        found |= keyed(signature, inputs)
    return found, tuple(dict.fromkeys(notes))


def _batch(signature: Signature, rows: int) -> int:
    """Return the number of rows of inputs with an open first dimension, as fixed by another input of the signature."""
    fixed = {
        spec.shape[0] for spec in signature.inputs.values() if spec.shape and len(spec.shape) > 1 and spec.shape[0]
    }
    return next(iter(fixed)) or rows if len(fixed) == 1 else rows


class _Drawing:
    def __init__(self, flow: Dataflow, vocabularies: Vocabularies, rng: np.random.Generator, notes: list[str]) -> None:
        self.flow, self.vocabularies, self.rng, self.notes = flow, vocabularies, rng, notes

    def input(self, signature: Signature, name: str, rows: int) -> Array:
        spec = signature.inputs[name]
        where = str(OutputRef(signature.key, name))
        source, _, output = spec.tensor.partition(":")
        uses = self.flow.uses(self.flow.graph, source, {output or "0"})
        shape = self.shape(spec, source, rows, where)
        array = self.elements(uses, spec.dtype, math.prod(shape), where).reshape(shape)
        free = bound(self.flow, uses) is None and asserted(self.flow, uses) == (None, None)
        if array.dtype.kind in "fcV" and array.ndim and free:
            scale = np.resize(_MAGNITUDES, len(array)).reshape(-1, *[1] * (array.ndim - 1))
            array = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) * scale).astype(array.dtype)
        return array

    def shape(self, spec: TensorSpec, source: str, rows: int, where: str) -> tuple[int, ...]:
        """Return the input's shape with open sizes filled in: the first with rows, others from the first weights, or small."""
        shape = spec.shape
        told = self.row_shape(source)
        if shape is None:
            if told is None:
                self.notes.append(f"{where} is of unknown rank: a vector was drawn")
            return (rows, *(told or ()))
        sizes = [rows if index == 0 and size is None else size for index, size in enumerate(shape)]
        if told is not None and len(told) == len(sizes) - 1:
            sizes = [sizes[0], *(size or better for size, better in zip(sizes[1:], told, strict=True))]
        image = len(sizes) == 4
        return tuple(
            size if size is not None else _OPEN_PIXELS if image and index in (1, 2) else OPEN
            for index, size in enumerate(sizes)
        )

    def row_shape(self, source: str) -> tuple[int, ...] | None:
        """Return the shape of one row that the input's readers require: a matrix's rows, a filter's channels, a reshape."""
        graph = self.flow.graph
        waiting, seen = [source], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for node, position, _ in graph.body.readers.get(name, ()):
                if position != 0:
                    continue
                if node.op in ("Identity", "Cast", "StopGradient", "PlaceholderWithDefault"):
                    waiting.append(node.name)
                elif node.op == "MatMul" and not graphs.attribute(node, "transpose_a").b:
                    weights = self.flow.shape(graph, node.input[1])
                    if weights and min(weights) > 0:
                        return (weights[int(graphs.attribute(node, "transpose_b").b)],)
                elif node.op == "Conv2D" and graphs.attribute(node, "data_format").s in (b"", b"NHWC"):
                    weights = self.flow.shape(graph, node.input[1])
                    if weights and len(weights) == 4 and weights[2] > 0:
                        return (_OPEN_PIXELS, _OPEN_PIXELS, weights[2])
                elif node.op == "Reshape":
                    target = self.flow.constant(graph, node.input[1])
                    if target is not None and target.ndim == 1 and len(target) and (target[1:] > 0).all():
                        return tuple(int(size) for size in target[1:])
        return None

    def elements(self, uses: Sequence[Use], dtype: str, count: int, where: str) -> Array:
        """`count` values of that dtype that what uses them can work with."""
        if dtype == "string":
            return self.strings(uses, count, where)
        try:
            target = numpy_dtype(dtype)
        except (TypeError, AttributeError):
            remedy = "name another tensor as input; this one is no tensor of values."
            raise UsageError(where, "an input whose values can be drawn", dtype, remedy) from None
        if target.kind == "b":
            return self.rng.integers(0, 2, count).astype(bool)
        limit = bound(self.flow, uses)
        if target.kind in "iu" or limit is not None:
            usual = 256 if target == np.uint8 else OPEN
            top = max(1, limit if limit is not None else usual)
            if target.kind in "iu":
                top = min(top, int(np.iinfo(target).max))
            return self.rng.integers(0, top, count).astype(target)
        low, high = asserted(self.flow, uses)
        if low is not None or high is not None:
            least = high - OPEN if low is None and high is not None else low or 0.0
            most = least + OPEN if high is None else high
            # Neither bound itself: an assertion may exclude it.
            return (least + (most - least) * self.rng.uniform(0.01, 0.99, count)).astype(target)
        values = self.rng.standard_normal(count)
        if count == 1 or any(use.node.op in _POSITIVE for use in uses):
            values = np.abs(values) + 0.01
        return values.astype(target)

    def strings(self, uses: Sequence[Use], count: int, where: str) -> Array:
        found = np.empty(count, dtype=object)
        found[:] = self._strings(uses, count, where)
        return found

    def _strings(self, uses: Sequence[Use], count: int, where: str) -> list[bytes]:
        for use in uses:
            op = use.node.op
            if op in example_spec.OPS and use.position == 0:
                spec = example_spec.features(self.flow, use)
                if spec is not None:
                    return [self.example(use, spec, row, where) for row in range(count)]
                self.notes.append(f"{where}: its feature names are computed by the graph; the examples drawn are empty")
                return [b""] * count
            if op in OPS and use.position == 0:
                return encoded(self.rng, op, int(graphs.attribute(use.node, "channels").i), count)
            if op in ("LookupTableFindV2", "LookupTableFind") and use.position == 1:
                words = self.vocabularies.of(use.scope, use.node.input[0])
                if words:
                    chosen = [words[int(i)] for i in self.rng.integers(0, len(words), count)]
                    return [*chosen[:-1], b"no such word"] if count > 1 else chosen
            if op == "StringToNumber":
                return [f"{value:.4g}".encode() for value in self.rng.standard_normal(count)]
            if op == "DecodeBase64":
                inner = self._strings(self.flow.uses(use.scope, use.node.name), count, where)
                return [base64.urlsafe_b64encode(item).rstrip(b"=") for item in inner]
        for op in sorted({use.node.op for use in uses} & _UNDRAWABLE):
            self.notes.append(f"{where} is read by {op}, for which nothing can be drawn: give --probe")
        lengths = self.rng.integers(1, 6, count)
        return [" ".join(self.rng.choice(_WORDS, int(length))).encode() for length in lengths]

    def example(self, use: Use, spec: Sequence[example_spec.Feature], row: int, where: str) -> bytes:
        """Return one serialized tf.Example; some rows leave out what is optional."""
        import tensorflow as tf

        example = tf.train.Example()
        for feature in spec:
            uses = self.flow.uses(use.scope, use.node.name, feature.outputs)
            if feature.dense:
                count = math.prod(3 if size is None else size for size in feature.shape)
                left_out = feature.optional and row % 7 == 6
            else:
                count, left_out = int(self.rng.integers(1, 4)), row % 7 == 6
                count = count if feature.most is None else min(count, feature.most)
            values = self.elements(uses, feature.dtype, count, f"{where}, feature {feature.key}").tolist()
            if left_out:
                continue
            made = example.features.feature[feature.key]
            if feature.dtype == "string":
                made.bytes_list.value.extend(values)
            elif feature.dtype == "int64":
                made.int64_list.value.extend(values)
            else:
                made.float_list.value.extend(values)
        encoded: bytes = example.SerializeToString(deterministic=True)
        return encoded


def bound(flow: Dataflow, uses: Sequence[Use]) -> int | None:
    """Return the smallest number that an index with these uses must stay below, None if the graph sets no limit."""
    limits = []
    for scope, node, position in uses:
        index, table = _LOOKUPS.get(node.op, (-1, 0))
        if position == index:
            shape = flow.shape(scope, node.input[table])
            axis = flow.constant(scope, node.input[2]) if node.op == "GatherV2" else np.asarray(0)
            if shape and axis is not None and -len(shape) <= int(axis) < len(shape):
                limits.append(shape[int(axis)])
        index, counted = _COUNTED.get(node.op, (-1, 0))
        if position == index:
            number = flow.constant(scope, node.input[counted])
            limits += [int(number)] if number is not None and number.size == 1 else []
        if node.op in ("GatherNd", "ResourceGatherNd") and position == 1:
            limits += flow.shape(scope, node.input[0]) or []
    limits = [limit for limit in limits if limit > 0]
    return min(limits, default=None)


def asserted(flow: Dataflow, uses: Sequence[Use]) -> tuple[float | None, float | None]:
    """Return the bounds that assertions of the graph set for values with these uses, as by `tf.debugging.assert_positive`."""
    low: list[float] = []
    high: list[float] = []
    for scope, node, position in uses:
        side = _COMPARED.get(node.op)
        limit = flow.constant(scope, node.input[1 - position]) if side is not None else None
        if limit is not None and limit.size == 1 and flow.asserted(scope, node.name):
            (low if side == position else high).append(float(limit.ravel()[0]))
    return max(low, default=None), min(high, default=None)


OPS = {"DecodeJpeg", "DecodePng", "DecodeImage", "DecodeAndCropJpeg"}
_SIDE = 32


def encoded(rng: np.random.Generator, op: str, channels: int, count: int) -> list[bytes]:
    """`count` images of 32 x 32 pixels in a format that `op` decodes."""
    import tensorflow as tf

    channels = channels or 3
    graph = tf.Graph()
    with graph.as_default():
        pixels = tf.compat.v1.placeholder(tf.uint8, [_SIDE, _SIDE, None])
        # Whatever its name, each of these ops decodes both (tensorflow/core/kernels/image/decode_image_op.cc).
        jpeg = "Jpeg" in op and channels in (1, 3)
        image = tf.io.encode_jpeg(pixels) if jpeg else tf.io.encode_png(pixels)
    with tf.compat.v1.Session(graph=graph) as session:
        drawn = (_pixels(rng, channels) for _ in range(count))
        return [bytes(session.run(image, {pixels: one})) for one in drawn]


def _pixels(rng: np.random.Generator, channels: int) -> Array:
    """Return a smooth gradient under some noise, as in photographs."""
    slope = rng.uniform(-3, 3, (2, channels))
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(float)
    smooth = 128 + rows[..., None] * slope[0] + columns[..., None] * slope[1]
    noisy = smooth + rng.normal(0, 10, smooth.shape)
    return np.asarray(np.clip(noisy, 0, 255).astype(np.uint8))
