"""A scan finds every reachable op that touches files, Python or the network, wherever it hides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import DamagedError, UnsafeGraph, UnsupportedGraph
from tasks.graphs import op_policy
from tasks.graphs.op_policy import Effect
from tests.graphs import unmodified
from tests.makers import graphs as made

_SUSPICIOUS = re.compile(
    r"File|Python|Py[A-Z]|Write|Read|Save|Restore|Load|Debug|Rpc|RPC|Send|Recv|Socket|Dump|Snapshot[A-Z]|Url|Abort"
    r"|Gcs|Kafka|DataService|(TextLine|Record|CSV|Sql|LMDB)Dataset|CreateSummary|Service"
)
# Names that only sound so.
SOUNDS_WORSE = (
    r"TensorArray(Read|Write)(V\d+)?",  # memory of one run
    r"Sharded(Filename|Filespec)",  # makes a name only
    r"Snapshot",
    r"Debug\w*",  # judged by its attributes, or computes only
    r"DecodeCompressed",
)
HOSTILE = (
    "plain",
    "function",
    "function of a function",
    "behind a function's node of the same name",
    "gradient",
    "implementation",
    "debug urls",
    "print",
    "cache",
    "vocabulary",
    "dataset",
    "descriptors",
    "descriptors to write",
    "abort",
    "carried graph",
    "carried graph in a carried graph",
    "carried graph in a function",
    "graph made by the graph",
    "graph that can be fed",
    "code in an attribute",
    "device of others",
    "op of nobody's table",
)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_must_not_run_is_refused_however_it_is_hidden(kind: str) -> None:
    with pytest.raises(UnsafeGraph, match=r"model\.pb: .+ \(\w+\), which the outputs reach") as refused:
        isolate.call(made.require, "hostile", kind)
    assert refused.value.exit_code == 3 and "--output" in refused.value.remedy


@pytest.mark.parametrize(
    "kind",
    (
        *("beside", "function beside", "print", "cache in memory", "debug", "table", "recursive", "rewritten"),
        *("gpu twin", "descriptors", "carried graph", "carried graph beside"),
    ),
)
def test_what_the_outputs_do_not_reach_is_normal(kind: str) -> None:
    isolate.call(made.require, "harmless", kind)


def test_without_targets_the_whole_graph_counts() -> None:
    assert isolate.call(made.scanned, "harmless", "beside", True).unsafe == ("restore (RestoreV2)", "w (WriteFile)")
    assert isolate.call(made.scanned, "harmless", "function beside", True).unsafe == ("f/inner (PyFunc)",)
    assert isolate.call(made.scanned, "harmless", "beside", False).counts == {"NoOp": 1, "RestoreV2": 1, "WriteFile": 1}


@pytest.mark.parametrize(
    ("kind", "words"),
    (
        ("library", ("tokens (WhitespaceTokenizeWithOffsets)", "unknown op", "tensorflow_text")),
        ("nobody", ("MyOwnOp", "no library is known")),
        ("namespace", ("Acme>Frobnicate", "the library that has it is Acme")),
        ("function", ("f/inner (SimpleMLInferenceOpWithHandle)", "TF-DF")),
        ("no kernel", ("y (CudnnRNNV3)", "T=float", "kernels for GPU only")),
        ("no kernel at all", ("BoostedTreesPredict", "no kernel at all")),
        ("no kernel for the type", ("y (MatMul)", "T=bool", "CPU kernels for other types only")),
    ),
)
def test_an_op_or_a_kernel_that_is_missing_is_named(kind: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedGraph) as refused:
        isolate.call(made.require, "unsupported", kind)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    (
        ("empty", "with nodes"),
        ("twice", "2 nodes named 'x'"),
        ("no input", "nowhere:1"),
        ("no op", "'z' with the op ''"),
        ("cycle", "cycles"),
        ("function twice", "named 'f'"),
        ("function's input", "f/inner"),
    ),
)
def test_what_is_no_graph_is_damaged(kind: str, words: str) -> None:
    with pytest.raises(DamagedError, match=re.escape(words)):
        isolate.call(made.require_form, kind)


def test_what_a_loader_would_run_is_judged_too() -> None:
    isolate.call(made.loadable, "a restore alone")
    for kind in ("restore", "main op", "init op"):
        with pytest.raises(UnsafeGraph, match="runs when the model is loaded"):
            isolate.call(made.loadable, kind)
    with pytest.raises(
        UnsafeGraph, match=r"read \(RestoreV2\), which restore would run: .* the model's own checkpoint"
    ):
        isolate.call(made.loadable, "another checkpoint")


def test_the_table_has_every_registered_op_and_no_other(record_property: Callable[[str, object], None]) -> None:
    registered = set(isolate.call(made.registered_ops))
    table = op_policy.table()
    assert sorted(registered - table.keys()) == [], "a new op: say in tasks/graphs/ops.tsv what it does"
    left = {name for name in table.keys() - registered if not name.startswith(("_Mkl", "__Mkl", "_Fused"))}
    assert left == set(), "an op that is gone: take it out of tasks/graphs/ops.tsv"
    counted = Counter(table.values())
    assert set(counted) == set(Effect)
    record_property("ops by what they do:", ", ".join(f"{effect} {count}" for effect, count in counted.most_common()))


def test_an_op_whose_name_sounds_of_files_or_processes_is_pure_for_a_reason() -> None:
    pure = {name for name, effect in op_policy.table().items() if effect is Effect.PURE and _SUSPICIOUS.search(name)}
    assert {name for name in pure if not any(re.fullmatch(known, name) for known in SOUNDS_WORSE)} == set()


def test_every_attribute_that_sounds_of_a_place_is_judged() -> None:
    suspicious = re.compile(r".*(file|path|dir(?!ection)|url|vocab|descriptor|region|address).*")
    found = {(op, name) for op, name in isolate.call(made.string_attributes) if suspicious.fullmatch(name)}
    left = {name for op, name in found if not op_policy.refused(op)}
    assert left == {op_policy.DEBUG_URLS, "vocab_file", "descriptor_source"}, "judge it in tasks/graphs/scan.py"


def test_looking_at_a_graph_leaves_it_as_it_was() -> None:
    assert isolate.call(unmodified.bare_is_left_alone) == [True, True]


def test_looking_at_graphs_from_the_wild_leaves_them_as_they_were(wild: Path) -> None:
    patterns = ("v1-neo/*.meta", "lenet-traffic/*.meta", "taxi-estimator/export/*/*/saved_model.pb", "java-graph/*.pb")
    found = [next(wild.glob(pattern)) for pattern in (*patterns, "official-resnet-ref/*/expected_graph")]
    for path in found:
        folder = path.parent if path.name == "saved_model.pb" else path
        assert isolate.call(unmodified.brought_is_left_alone, folder), path


@pytest.mark.parametrize(
    ("kind", "value", "node"),
    (
        ("floor", 1.0, "Floor"),
        ("rate", 0.0, "GreaterEqual"),
        ("one minus", 1.0, "GreaterEqual"),
        ("less", 1.0, "Less"),
        ("switch", False, "k (Placeholder)"),
        ("if", False, "k (Placeholder)"),
        ("default", False, "k (PlaceholderWithDefault)"),
    ),
)
def test_train_mode_is_found_and_its_pin_proposed(kind: str, value: object, node: str) -> None:
    train_mode, inputs, pins = isolate.call(made.training, kind)
    assert pins == {"k:0": value}
    assert any(node in one for one in train_mode)
    assert inputs == ["x:0"]


def test_a_pin_by_its_name_alone_and_batch_statistics_without_the_attribute() -> None:
    assert isolate.call(made.training, "named only")[2] == {"keep_prob:0": 1.0}
    train_mode, _, _ = isolate.call(made.training, "batch norm")
    assert any("FusedBatchNormV3" in one for one in train_mode)


def test_the_taxi_saved_model_has_every_op_and_kernel_here_and_nothing_unsafe(wild: Path) -> None:
    # The corpus' README says that a kernel is missing; in TensorFlow 2.21 none is, and the model loads and answers.
    found = isolate.call(made.scanned_file, wild / "taxi-estimator" / "export" / "chicago-taxi" / "1646034756")
    assert set(found) == {"classification", "predict", "regression", "serving_default"}
    for scan in found.values():
        assert (scan.unknown, scan.no_kernel, scan.unsafe) == ({}, (), ())
