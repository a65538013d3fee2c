"""Ops by what they touch: files, the network, Python, the process; and the libraries that define ops of their own.

Derived from the op list of TensorFlow 2.21. `tests/graphs/test_scan.py` checks every registered op: one whose name
suggests files, Python or the network must be in a list here, so that no new TensorFlow adds such an op unnoticed.
"""

from __future__ import annotations

import re

# What an op that must not run does, for the message.
UNSAFE = {
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), "runs Python"),
    **dict.fromkeys(
        (
            "WriteFile",
            "ReadFile",
            "MatchingFiles",
            "FileSystemSetConfiguration",
            "ImmutableConst",
            "Save",
            "SaveV2",
            "SaveSlices",
            "Restore",
            "RestoreV2",
            "RestoreSlice",
            "DTensorRestoreV2",
            "MergeV2Checkpoints",
            "LoadAndRemapMatrix",
            "GenerateVocabRemapping",
            "RecordInput",
            "Skipgram",
            "WholeFileReader",
            "WholeFileReaderV2",
            "TextLineReader",
            "TextLineReaderV2",
            "TFRecordReader",
            "TFRecordReaderV2",
            "FixedLengthRecordReader",
            "FixedLengthRecordReaderV2",
            "LMDBReader",
            "CalibrationStatisticsSaver",
            "DumpTensor",
            "ImportEvent",
            "StatsAggregatorSetSummaryWriter",
            "DistributedSave",
        ),
        "touches files",
    ),
    "Abort": "ends the process",
}
# Families, for ops come in versions (`…V2`) and with prefixes (`Experimental…`).
UNSAFE_FAMILIES = (
    (
        re.compile(
            r"(Experimental)?(TextLine|TFRecord|FixedLengthRecord|CSV|Sql|LMDB|MatchingFiles|Load|Save|Snapshot"
            r"|SnapshotChunk|ListSnapshotChunks)Dataset(V\d+)?"
            r"|Snapshot(Nested)?DatasetReader|(Experimental)?DatasetToTFRecord"
            r"|CreateSummary(File|Db)Writer|Write\w*Summary|(Flush|Close)SummaryWriter"
        ),
        "touches files",
    ),
    (
        re.compile(
            r"(Try)?Rpc\w*|DeleteRpcFutureResource|DataServiceDataset(V\d+)?|RegisterDataset(V\d+)?"
            r"|(_|_Host|Collective\w*|_Nccl\w*|_?Xla)?(Send|Recv)(V\d+)?|_?Xla(Send|Recv)\w*Host(V\d+)?"
            r"|\w*(ZeroMQ|ZMQ|Kafka|Kinesis|Bigtable|BigQuery|Ignite|GcsConfigure|Socket)\w*"
        ),
        "talks to other processes",
    ),
    (re.compile(r"\w*PyFunc\w*|\w*NumpyFunc\w*"), "runs Python"),
)
# Ops whose names only sound like it: why each is harmless.
HARMLESS = (
    (
        re.compile(r"(_?Read|DisableCopyOn)\w*Variable\w*|DisableCopyOnRead|RngReadAndSkip|BarrierReadySize|Snapshot"),
        "memory",
    ),
    (re.compile(r"TensorArray(Read|Write)(V\d+)?"), "memory"),
    (re.compile(r"Reader\w+|IdentityReader(V2)?"), "the reader that it is given stands in the list, or reads no file"),
    (re.compile(r"InitializeTableFromTextFile(V2)?"), "judged by where its file's name comes from: table_files.py"),
    (re.compile(r"Sharded(Filename|Filespec)"), "makes a name only"),
    (re.compile(r"SummaryWriter|WorkerHeartbeat"), "a handle; what opens and writes it stands in the list"),
    (re.compile(r"\w*TPU\w*|_?Xla(Send|Recv)TPU\w*"), "has no kernel outside a TPU"),
    (re.compile(r"BoostedTreesExampleDebugOutputs"), "has no kernel any more"),
    (re.compile(r"Debug(Gradient(Ref)?Identity|NumericSummaryV2)"), "computes only"),
    (re.compile(r"DecodeCompressed|DebugIdentity(V\d)?|DebugNanCount|DebugNumericSummary"), "judged by its attributes"),
)
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


def unsafe_family(op: str) -> str:
    """Return what an op does that must not be run; "" if it is allowed or depends on its attributes."""
    if op in UNSAFE:
        return UNSAFE[op]
    return next((does for pattern, does in UNSAFE_FAMILIES if pattern.fullmatch(op)), "")


def harmless(op: str) -> bool:
    """Return True if an op's name is known to sound worse than it is."""
    return any(pattern.fullmatch(op) for pattern, _ in HARMLESS)
