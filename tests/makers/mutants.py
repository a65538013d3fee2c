"""The mutants: faults in an exported SavedModel and the cause by which the gate must refuse each; and harmless changes.

`python -m tests.makers.mutants` judges them all and prints the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import ChildFailed, DamagedError, ParityError, PipelineError, SmokeRefused, UnsafeGraph
from tests.makers import mutants_graph as g
from tests.makers import mutants_values as v
from tests.makers import saved_model_faults

PASSED = "passed"


@dataclass(frozen=True)
class Mutant:
    """`spoil` changes the folder of a SavedModel in place, in a child; the gate must then raise `error`.

    `cause` is `facts["cause"]`, or what the refusal says was found; of a ParityError the first failing row's candidate,
    signature/output and test. `error` is None for a change that spoils nothing.
    """

    name: str
    spoil: Callable[[Path], None]
    error: type[PipelineError] | None = None
    cause: str = PASSED
    serving: Mapping[str, Any] = field(default_factory=dict)


def _on_disk(output: str) -> tuple[type[PipelineError], str]:
    return ParityError, f"saved_model (files) {output} values"


def _served(output: str, form: str = "served (gRPC)") -> tuple[type[PipelineError], str]:
    return ParityError, f"{form} {output} served"


_ANSWERS = ParityError, "served (gRPC) serving_default/"
_PROBABILITIES = _served("serving_default/probabilities")
_CLASSES = _served("classify/classes")
_STRUCTURE = ParityError, "(graph) structure"
_LABELS = _on_disk("asset sundaynet_labels.txt")
_LOAD = SmokeRefused, "load error"
_UNKNOWN = SmokeRefused, "unknown op"
_SIGNATURE = SmokeRefused, "signature differs"
_WARMUP = SmokeRefused, "warmup refused"

_REDIRECTED = v.both(v.changed(v.one_more_moved), g.meta(g.restored_from(saved_model_faults.WEIGHT, v.OTHER)))

SLOW_MS = 45.0
LEAK_BYTES = 100 * 2**20

MUTANTS: tuple[Mutant, ...] = (
    # Variables
    Mutant("one bit of a weight flipped", v.changed(v.bit_flipped), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a weight moved by 1e-4", v.in_bundle(saved_model_faults.one_weight_moved), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a weight zeroed", v.in_bundle(saved_model_faults.one_weight_zeroed), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("all weights NaN", v.in_bundle(saved_model_faults.all_nan), *_on_disk("conv1/beta")),
    Mutant("two variables swapped", v.changed(v.two_swapped), *_on_disk("conv1/beta")),
    Mutant("a kernel transposed", v.changed(v.one_transposed), *_on_disk("conv2/kernel")),
    Mutant("another model's variables", v.changed(v.another_models), *_on_disk("conv1/beta")),
    Mutant("another step's variables", v.another_steps, *_on_disk("conv1/beta")),
    Mutant("a variable as float64", v.changed(v.one_as_double), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a variable of another shape", v.in_bundle(saved_model_faults.variable_of_other_shape), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a variable dropped from the bundle", v.in_bundle(saved_model_faults.variable_dropped), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("variables.index missing", v.no_index, *_on_disk("conv1/beta")),
    Mutant("variables missing", v.no_variables, *_on_disk("conv1/beta")),
    Mutant("data truncated", v.data_truncated, *_LOAD),
    Mutant("data missing", v.no_data, *_LOAD),
    Mutant("the restore forgets a variable", saved_model_faults.variable_not_restored, *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("the restore reads two variables crosswise", g.meta(g.restored_crosswise), *_on_disk("conv1/beta")),
    Mutant("the restore reads another tensor, one weight moved by 1e-4", _REDIRECTED, *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a variable initialised again after the restore", g.meta(g.initialised_again), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("a weight moved by 1e-4 after the restore", g.meta(g.moved_after_the_restore), *_on_disk(saved_model_faults.WEIGHT)),
    Mutant("another variable read, one weight moved by 1e-4", g.meta(g.another_variable_read), *_on_disk(v.OTHER)),
    Mutant("no saver", g.meta(g.no_saver), *_LOAD),
    # Assets and tables
    Mutant("asset missing", v.no_asset, *_LABELS),
    Mutant("asset with two lines swapped", saved_model_faults.other_vocabulary, *_LABELS),
    Mutant("asset with a line more", v.asset(lambda content: content + b"eleven\n"), *_LABELS),
    Mutant("asset not UTF-8", v.asset(lambda content: b"\xff\xfe" + content), *_LABELS),
    Mutant("asset empty", v.asset(lambda content: b""), *_LABELS),
    Mutant("a stale vocabulary beside the right one", v.stale_vocabulary, *_CLASSES),
    Mutant("a vocabulary of this host", v.vocabulary_of_this_host, UnsafeGraph, "a file of this machine"),
    Mutant("tables not initialised", g.meta(g.tables_not_filled), *_LOAD),
    # Signatures
    Mutant("outputs swapped", saved_model_faults.outputs_swapped, *_ANSWERS),
    Mutant("an output that names another one's tensor", g.meta(g.same_tensor_twice), *_ANSWERS),
    Mutant("input renamed", g.renamed("inputs", "images", "pictures"), *_SIGNATURE),
    Mutant("output renamed", g.renamed("outputs", "class", "label"), *_SIGNATURE),
    Mutant("signature missing", g.meta(g.no_classify), *_SIGNATURE),
    Mutant("signature added", g.meta(g.one_more), *_SIGNATURE),
    Mutant("method changed", g.method("tensorflow/serving/predict"), *_SIGNATURE),
    Mutant("method that no server has", g.method("tensorflow/serving/guess"), *_SIGNATURE),
    Mutant("output of another dtype", saved_model_faults.wrong_dtype, *_SIGNATURE),
    Mutant("output declared with another dtype", g.declared(2), *_SIGNATURE),
    Mutant("output declared with a dtype of nowhere", g.declared(999), *_SIGNATURE),
    Mutant("batch narrowed to one row", g.meta(g.one_row_only), *_SIGNATURE),
    Mutant("output of a tensor that is not there", g.meta(g.no_such_tensor), *_LOAD),
    # The proto
    Mutant("saved_model.pb missing", v.no_proto, *_LOAD),
    Mutant("saved_model.pb empty", v.proto(lambda content: b""), *_LOAD),
    Mutant("saved_model.pb truncated", v.proto(lambda content: content[: len(content) // 2]), *_LOAD),
    Mutant("saved_model.pb of other bytes", v.proto(lambda content: b"PK\3\4" * 2000), *_LOAD),
    Mutant("tags other than serve", v.model(v.other_tags), *_LOAD),
    Mutant("no MetaGraph", v.model(v.no_meta_graph), *_LOAD),
    Mutant("two MetaGraphs with the same tags", v.model(v.two_alike), *_LOAD),
    Mutant("two nodes of one name", g.meta(g.two_of_a_name), *_LOAD),
    Mutant("a node whose input is gone", g.meta(g.input_gone), *_LOAD),
    Mutant("a graph for later readers only", v.model(v.for_later_consumers), *_LOAD),
    Mutant("a graph not for this reader", v.model(v.not_for_this_consumer), *_LOAD),
    # The graph
    Mutant("op unknown", g.another_op("dense/matmul", "NoSuchOp"), *_UNKNOWN),
    Mutant("op unknown in a function", g.meta(g.op_unknown_in_a_function), *_UNKNOWN),
    Mutant("op without a kernel here", g.meta(g.no_kernel), *_UNKNOWN),
    Mutant("dropout left on", saved_model_faults.dropout_left_on, *_ANSWERS),
    Mutant("batch norm in training mode", saved_model_faults.batch_norm_in_training_mode, *_ANSWERS),
    Mutant("softmax removed", g.graft(g.PROBABILITIES, g.without_softmax), *_PROBABILITIES),
    Mutant("softmax of another temperature", g.graft(g.PROBABILITIES, g.hotter), *_PROBABILITIES),
    Mutant("a constant changed", g.meta(g.constant_changed), *_on_disk("conv1/batchnorm/add/y")),
    Mutant("another constant read", g.another_epsilon, *_ANSWERS),
    Mutant("another activation", g.another_op("conv2/Relu", "Elu"), *_ANSWERS),
    Mutant("a cast to float16 and back", g.graft(g.LOGITS, g.half), *_ANSWERS),
    Mutant("argmax over the wrong axis", g.graft(g.CLASS, g.across_the_batch), *_served("serving_default/class")),
    Mutant("the batch's mean subtracted", g.graft(g.LOGITS, g.centred), *_ANSWERS),
    Mutant("rows in reverse order", g.graft(g.LOGITS, g.upside_down), *_ANSWERS),
    Mutant("images inverted", g.graft(g.IMAGES, g.inverted), *_ANSWERS),
    Mutant("labels shifted", g.graft("classes:0", g.shifted_labels), *_CLASSES),
    Mutant("wrong for one row alone", g.graft(g.LOGITS, g.alone_only), *_served("serving_default/logits", "served (gRPC), batch 1")),
    Mutant("NaN in the last row", g.graft(g.LOGITS, g.one_nan), *_ANSWERS),
    Mutant("noise of a thousandth", g.graft(g.PROBABILITIES, g.noise), *_PROBABILITIES),
    Mutant("weights that move with every request", g.graft(g.LOGITS, g.drifting), *_ANSWERS),
    # What no answer to the probe shows
    Mutant("a limit that nothing reaches", g.graft(g.LOGITS, g.limited), *_STRUCTURE),
    Mutant("a weight that drifts aside", g.meta(g.drifting_aside), *_STRUCTURE),
    Mutant("a branch that is never taken", g.graft(g.LOGITS, g.with_a_branch), *_STRUCTURE),
    Mutant("Relu6 for Relu", g.another_op("conv2/Relu", "Relu6"), *_STRUCTURE),
    Mutant("an epsilon other in the ninth digit", g.epsilon(g.next_float), *_STRUCTURE),
    Mutant("an attribute that changes nothing today", g.attribute("StridedSlice", "begin_mask", 1), *_STRUCTURE),
    Mutant("another op in the branch of training", g.another_op_in_a_function("GreaterEqual", "Greater"), *_STRUCTURE),
    # Warmup requests
    Mutant("warmup: no PredictionLog", v.records(lambda before: [b"\xff\xff\xff", *before]), *_WARMUP),
    Mutant("warmup: an empty record", v.records(lambda before: [b"", *before]), *_WARMUP),
    Mutant("warmup: unknown signature", v.request(v.unknown_signature), *_WARMUP),
    Mutant("warmup: wrong dtype", v.set_input("images", lambda images: images.astype("float64")), *_WARMUP),
    Mutant("warmup: a dtype of nowhere", v.request(v.dtype_of_nowhere), *_WARMUP),
    Mutant("warmup: wrong input name", v.set_input("pictures", lambda images: images), *_WARMUP),
    Mutant("warmup: wrong shape", v.set_input("images", lambda images: images[:, :2]), *_WARMUP),
    Mutant("warmup: too few bytes", v.request(v.too_few_bytes), *_WARMUP),
    Mutant("warmup: a session's log", v.request(v.of_another_kind), *_WARMUP),
    Mutant("warmup: a task of an unknown signature", v.request(v.for_two_heads), *_WARMUP),
    Mutant("warmup: 1001 records", v.records(lambda before: (before * 1001)[:1001]), *_WARMUP),
    Mutant("warmup: a corrupt checksum", v.corrupt_crc, *_WARMUP),
    Mutant("warmup: compressed", v.zipped, *_WARMUP),
    Mutant("warmup: a folder", v.a_folder_of_requests, *_WARMUP),
    # Files
    Mutant("a symbolic link out of the folder", v.symlink_out, DamagedError, "is not a regular file"),
    # Conduct
    Mutant("reads a file of the host", g.graft(g.LOGITS, g.reading_a_file), UnsafeGraph, "touches files"),
    Mutant("writes what it is asked", g.graft(g.LOGITS, g.writing_a_file), UnsafeGraph, "touches files"),
    Mutant("calls Python", g.graft(g.LOGITS, g.calling_python), UnsafeGraph, "runs Python"),
    Mutant("slower than its gate", g.graft(g.LOGITS, g.slow), SmokeRefused, "too slow", {"gates": {"max_p99_ms": SLOW_MS}}),
    Mutant("larger with every request", g.graft(g.LOGITS, g.leaking), SmokeRefused, "too large", {"gates": {"max_rss_bytes": LEAK_BYTES}}),
    Mutant("aborts at any request", g.graft(g.LOGITS, g.aborting(0)), UnsafeGraph, "ends the process"),
    Mutant("aborts at many rows", g.graft(g.LOGITS, g.aborting(40)), UnsafeGraph, "ends the process"),
    Mutant("leaves at many rows", g.graft(g.LOGITS, g.aborting(40, quietly=True)), UnsafeGraph, "ends the process"),
    Mutant("never ends", g.graft(g.LOGITS, g.never_ending), ChildFailed, "never AVAILABLE", {"load_timeout": 6.0}),
)  # fmt: skip

HARMLESS: tuple[Mutant, ...] = (
    Mutant("nodes in another order", saved_model_faults.nodes_in_other_order),
    Mutant("a node that nothing reads", g.meta(g.unused_node)),
    Mutant("an inner node renamed", g.meta(g.internal_node_renamed)),
    Mutant("a constant renamed", g.meta(g.constant_renamed)),
    Mutant("an equal constant read", g.epsilon(float)),
    Mutant("debug information stripped", g.meta(g.without_debug_information)),
    Mutant("other versions in the meta information", g.meta(g.by_another_writer)),
    Mutant("a later producer", g.meta(g.by_a_later_producer)),
    Mutant("a MetaGraph for training too", v.model(v.one_for_training_too)),
    Mutant("an assertion on the input's rank", g.graft(g.IMAGES, g.refusing_a_wrong_shape)),
    Mutant("variables in two shards", v.in_two_shards),
    Mutant(
        "a variable more in the bundle",
        v.changed(lambda named: named | {"zz/unused": named[saved_model_faults.WEIGHT] * 2}),
    ),
    Mutant("an extra file in assets.extra", v.added("assets.extra/README.md")),
    Mutant("a hidden file among the variables", v.added("variables/.variables.data-00000-of-00001.swp")),
    Mutant("no warmup requests", v.no_warmup),
    Mutant("files that nobody may read", v.unreadable),
)

BY_NAME = {mutant.name: mutant for mutant in (*MUTANTS, *HARMLESS)}

if __name__ == "__main__":
    from tests.serving.checks.gate import main

    main()
