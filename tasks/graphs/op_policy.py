"""Ops by what they do: a table of every op that TensorFlow registers, and the libraries that define ops of their own.

What is not known to be harmless does not run. `ops.tsv` has a line for each op of TensorFlow 2.21, the op and its Effect;
`tests/graphs/test_scan.py` holds that it names the registered ops and no others, so that a new TensorFlow brings no op
unnoticed.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from importlib import resources


class Effect(StrEnum):
    """What an op does besides, or instead of, computing its outputs from its inputs alone.

    Functions that an op calls by name are judged by themselves: such an op is `PURE`, and so is `XlaCallModule`, whose
    StableHLO only computes, and calls the TensorFlow functions that the op names
    (tensorflow/compiler/tf2xla/kernels/xla_call_module_loader.cc).
    """

    PURE = "pure"
    STATE = "state"  # makes or reads variables, tables, queues, iterators
    WRITES = "writes"  # changes them, or a tensor in place
    RANDOM = "random"  # draws anew each time
    CLOCK = "clock"
    ASSET = "asset"  # reads a file that may be the model's own: see model_files.py
    GRAPH = "graph"  # runs a graph or code that it is handed as data
    FILES = "files"
    NETWORK = "network"
    PYTHON = "python"
    PROCESS = "process"
    TPU = "tpu"
    DISTRIBUTED = "distributed"  # runs on several devices or hosts together


# What an op does that must not run, for the message. An asset's file and a graph that is handed over may be found and judged.
REFUSED = {
    Effect.FILES: "touches files",
    Effect.NETWORK: "talks to other processes",
    Effect.PYTHON: "runs Python",
    Effect.PROCESS: "ends the process",
    Effect.TPU: "needs a TPU",
    Effect.DISTRIBUTED: "needs other devices or hosts",
    Effect.GRAPH: "runs a graph or code that is not in the file as such",
}
# Debugging ops send what they see to these URLs (tensorflow/core/debug/debug_io_utils.cc: file://, grpc://, memcbk://).
DEBUG_URLS = "debug_urls"
# Ops that read message descriptors from a file, unless these are TensorFlow's own or in the attribute itself
# (tensorflow/core/util/proto/descriptors.cc).
DESCRIBED = frozenset({"DecodeProtoV2", "EncodeProto"})
DESCRIBED_HERE = re.compile(rb"(local://)?\Z|bytes://")

# Registered without a kernel, because a graph pass replaces them before anything runs
# (tensorflow/core/common_runtime/accumulate_n_optimizer.cc).
REWRITTEN = frozenset({"AccumulateNV2"})

LIBRARIES = (
    ("Addons>", "tensorflow-addons"),
    ("TFText>", "tensorflow_text"),
    ("Sentencepiece", "tensorflow_text"),
    ("Wordpiece", "tensorflow_text"),
    ("FastWordpiece", "tensorflow_text"),
    ("FastBert", "tensorflow_text"),
    ("CaseFoldUTF8", "tensorflow_text"),
    ("NormalizeUTF8", "tensorflow_text"),
    ("RegexSplitWithOffsets", "tensorflow_text"),
    ("UnicodeScriptTokenize", "tensorflow_text"),
    ("WhitespaceTokenize", "tensorflow_text"),
    ("ConstrainedSequence", "tensorflow_text"),
    ("SentenceFragments", "tensorflow_text"),
    ("SplitMergeTokenize", "tensorflow_text"),
    ("MaxSpanningTree", "tensorflow_text"),
    ("RougeL", "tensorflow_text"),
    ("SimpleML", "tensorflow_decision_forests (TF-DF)"),
    ("IO>", "tensorflow-io"),
    ("TFRA>", "tensorflow-recommenders-addons"),
    ("Tfq", "tensorflow-quantum"),
    ("Reverb", "dm-reverb"),
    ("Horovod", "horovod"),
    ("TRTEngineOp", "TensorRT (a GPU build of TensorFlow with TF-TRT)"),
    ("CreateTRTResource", "TensorRT (a GPU build of TensorFlow with TF-TRT)"),
    ("InitializeTRTResource", "TensorRT (a GPU build of TensorFlow with TF-TRT)"),
    ("Dali", "nvidia-dali-tf-plugin"),
    ("NeuronOp", "tensorflow-neuron (AWS)"),
    ("edgetpu", "the Edge TPU compiler"),
    ("TFLite_", "TensorFlow Lite (a custom op)"),
    ("DecodeProtoSparse", "struct2tensor"),
    ("GradientTrees", "tf.contrib.boosted_trees (TensorFlow 1)"),
    ("TreeEnsemble", "tf.contrib.boosted_trees (TensorFlow 1)"),
    ("DecisionTree", "tf.contrib.boosted_trees (TensorFlow 1)"),
    ("FertileStats", "tf.contrib.tensor_forest (TensorFlow 1)"),
    ("TreePredictions", "tf.contrib.tensor_forest (TensorFlow 1)"),
    ("GrowTree", "tf.contrib.tensor_forest (TensorFlow 1)"),
    ("ImageProjectiveTransform", "tf.contrib.image (TensorFlow 1)"),
    ("ImageConnectedComponents", "tf.contrib.image (TensorFlow 1)"),
    ("BipartiteMatch", "tf.contrib.image (TensorFlow 1)"),
    ("AdjustHsvInYiq", "tf.contrib.image (TensorFlow 1)"),
    ("Resampler", "tf.contrib.resampler (TensorFlow 1)"),
    ("PeriodicResample", "tf.contrib.periodic_resample (TensorFlow 1)"),
    ("ReduceSlice", "tf.contrib.reduce_slice_ops (TensorFlow 1)"),
    ("GatherTree", "tf.contrib.seq2seq (TensorFlow 1)"),
    ("SparseFeatureCross", "tf.contrib.layers (TensorFlow 1)"),
    ("MaskedMatmul", "tf.contrib.factorization (TensorFlow 1)"),
    ("WALSCompute", "tf.contrib.factorization (TensorFlow 1)"),
    ("NearestNeighbors", "tf.contrib.factorization (TensorFlow 1)"),
    ("HyperplaneLSHProbes", "tf.contrib.nearest_neighbor (TensorFlow 1)"),
    ("DecodeAudio", "tf.contrib.ffmpeg (TensorFlow 1)"),
    ("EncodeAudio", "tf.contrib.ffmpeg (TensorFlow 1)"),
    ("DecodeVideo", "tf.contrib.ffmpeg (TensorFlow 1)"),
    ("DecodeLibsvm", "tf.contrib.libsvm (TensorFlow 1)"),
    ("Kafka", "tf.contrib.kafka (TensorFlow 1) or tensorflow-io"),
    ("Bigtable", "tf.contrib.bigtable (TensorFlow 1) or tensorflow-io"),
    ("Rpc", "tf.contrib.rpc (TensorFlow 1)"),
    ("TryRpc", "tf.contrib.rpc (TensorFlow 1)"),
)


def library_of(op: str) -> str:
    """Return the library that is known to define an op that TensorFlow does not, or ""."""
    for prefix, library in LIBRARIES:
        if op.startswith(prefix):
            return library
    namespace, found, _ = op.partition(">")
    return namespace if found else ""


@cache
def table() -> dict[str, Effect]:
    """The table: every op that is known, with its effect."""
    lines = resources.files(__package__).joinpath("ops.tsv").read_text(encoding="utf-8").splitlines()
    return {op: Effect(effect) for op, effect in (line.split("\t") for line in lines)}


def refused(op: str) -> str:
    """Return what an op of TensorFlow's does that must not run; "" if it is allowed, or judged by its attributes or inputs."""
    effect = table().get(op)
    return "is not in the table of the ops that are known to be harmless" if effect is None else REFUSED.get(effect, "")
