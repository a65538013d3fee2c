"""Ways to spoil a model's forms, and ways to change them that spoil nothing. They run in a child: TensorFlow's protos.

Each takes the folder of a form, already a copy, and changes it in place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.baseline import reference as proof
from tasks.baseline.training_run import TrainingRun
from tasks.forms import checkpoint_files, frozen_graph, saved_model, saver
from tasks.forms.frozen_graph import GRAPH, NAMES
from tasks.parity import compare
from tasks.records.parity import ParityReport, ParityTest, Tolerance
from tasks.records.signature import GraphNames, TensorSpec

WEIGHT = "dense/kernel"


# Values ---------------------------------------------------------------------------------------------------------------


def one_weight_moved(prefix: Path) -> None:
    """One weight changed by 1e-4."""
    _rewrite(prefix, WEIGHT, lambda value: _set(value, value.flat[7] + 1e-4))


def one_weight_zeroed(prefix: Path) -> None:
    """One weight zeroed, one that the outputs hardly notice."""
    _rewrite(prefix, WEIGHT, lambda value: _set(value, 0.0))


def all_nan(prefix: Path) -> None:
    """Every float of the bundle NaN."""
    _rewrite(prefix, None, lambda value: np.full_like(value, np.nan) if value.dtype.kind == "f" else value)


def variable_dropped(prefix: Path) -> None:
    """One needed variable is not in the bundle."""
    _rewrite(prefix, WEIGHT, lambda value: None)


def variable_of_other_shape(prefix: Path) -> None:
    """One needed variable has one column fewer."""
    _rewrite(prefix, WEIGHT, lambda value: value[:, :-1])


def _rewrite(prefix: Path, key: str | None, change: Callable[[Any], Any]) -> None:
    checkpoint = saver.reader(prefix)
    named = {}
    for name in sorted(checkpoint.get_variable_to_shape_map()):
        value = saver.read(checkpoint, name, prefix)
        changed = change(value) if key in (None, name) else value
        if changed is not None:
            named[name] = changed
    for path in checkpoint_files.files(prefix):
        path.unlink()
    saved_model.write_bundle(prefix, named.items())


def _set(value: Any, number: float) -> Any:
    changed = value.copy()
    changed.flat[7] = number
    return changed


# SavedModels ----------------------------------------------------------------------------------------------------------


def dropout_left_on(folder: Path) -> None:
    """Dropout runs at inference, everything else does not."""
    _force_training(folder / "saved_model.pb", lambda branch: "RandomUniform" in branch)


def batch_norm_in_training_mode(folder: Path) -> None:
    """Batch normalisation takes the batch's moments, dropout is off."""
    _force_training(folder / "saved_model.pb", lambda branch: "RandomUniform" not in branch)


def outputs_swapped(folder: Path) -> None:
    """`logits` and `probabilities` trade their tensors."""

    def swap(meta: Any) -> None:
        outputs = meta.signature_def["serving_default"].outputs
        first, second = outputs["logits"].name, outputs["probabilities"].name
        outputs["logits"].name, outputs["probabilities"].name = second, first

    change_meta_graph(folder, swap)


def wrong_dtype(folder: Path) -> None:
    """`class` is int32 instead of int64."""

    def narrow(meta: Any) -> None:
        import tensorflow as tf

        info = meta.signature_def["serving_default"].outputs["class"]
        cast = meta.graph_def.node.add(name="narrowed", op="Cast", input=[info.name.split(":")[0]])
        cast.attr["SrcT"].type = tf.int64.as_datatype_enum
        cast.attr["DstT"].type = info.dtype = tf.int32.as_datatype_enum
        info.name = "narrowed:0"

    change_meta_graph(folder, narrow)


def variable_not_restored(folder: Path) -> None:
    """The restore operation forgets one variable: the bundle is whole, and the loader returns."""

    def forget(meta: Any) -> None:
        nodes = {node.name: node for node in meta.graph_def.node}
        (assign,) = [
            n.name
            for n in meta.graph_def.node
            if n.op == "AssignVariableOp" and n.input[0] == WEIGHT and n.name.startswith("save")
        ]
        for node in nodes.values():
            kept = [source for source in node.input if source != f"^{assign}"]
            if len(kept) != len(node.input):
                del node.input[:]
                node.input.extend(kept)

    change_meta_graph(folder, forget)


def other_vocabulary(folder: Path) -> None:
    """The labels asset with two lines swapped."""
    (path,) = (folder / "assets").iterdir()
    lines = path.read_text().splitlines()
    path.unlink()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")


def nodes_in_other_order(folder: Path) -> None:
    """Harmless: the graph's nodes in reverse order."""

    def reverse(meta: Any) -> None:
        nodes = list(meta.graph_def.node)[::-1]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del meta.graph_def.node[:]
        meta.graph_def.node.extend(copies)

    change_meta_graph(folder, reverse)


def _force_training(path: Path, chosen: Callable[[set[str]], bool]) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    changed = _feed_true(model.meta_graphs[0].graph_def, chosen)
    assert changed, "the fault found nothing to spoil"
    path.unlink()
    path.write_bytes(model.SerializeToString())


def _feed_true(graph_def: Any, chosen: Callable[[set[str]], bool]) -> int:
    """Give every chosen conditional a constant True as its predicate; how many there were."""
    import tensorflow as tf

    functions = {function.signature.name: function for function in graph_def.library.function}
    constant = graph_def.node.add(name="always_true", op="Const")
    constant.attr["dtype"].type = tf.bool.as_datatype_enum
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(True))
    changed = 0
    for node in graph_def.node:
        if node.op in ("If", "StatelessIf"):
            branch = {inner.op for inner in functions[node.attr["then_branch"].func.name].node_def}
            if chosen(branch):
                node.input[0] = "always_true"
                changed += 1
    return changed


def change_meta_graph(folder: Path, change: Callable[[Any], None]) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    before = model.SerializeToString(deterministic=True)
    change(model.meta_graphs[0])
    after = model.SerializeToString(deterministic=True)
    assert after != before, "the fault changed nothing"
    path.unlink()
    path.write_bytes(after)


# The `.meta` of a checkpoint --------------------------------------------------------------------------------------------


def meta_dropout_left_on(path: Path) -> None:
    """Dropout runs at inference."""
    _change_meta(path, lambda meta: _feed_true(meta.graph_def, lambda branch: "RandomUniform" in branch))


def meta_batch_norm_in_training_mode(path: Path) -> None:
    """Batch normalisation takes the batch's moments."""
    _change_meta(path, lambda meta: _feed_true(meta.graph_def, lambda branch: "RandomUniform" not in branch))


def meta_outputs_swapped(path: Path) -> None:
    """The tensors of `logits` and `probabilities` trade their names; whatever else reads them reads what it did."""
    names = {"dense/logits": "probabilities", "probabilities": "dense/logits"}
    _change_meta(path, lambda meta: _renamed(meta.graph_def, names))


def meta_without_hyperparameters(path: Path) -> None:
    """The collection is gone."""
    _change_meta(path, lambda meta: meta.collection_def.pop("hyperparameters"))


def meta_of_another_rate(path: Path) -> None:
    """The hyper-parameters name another learning rate."""

    def change(meta: Any) -> None:
        held = meta.collection_def["hyperparameters"].bytes_list
        held.value[0] = json.dumps(json.loads(held.value[0]) | {"learning_rate": 0.5}, sort_keys=True).encode()

    _change_meta(path, change)


def meta_without_train_op(path: Path) -> None:
    """The train op has another name."""
    _change_meta(path, lambda meta: _renamed(meta.graph_def, {"train_op": "other"}))


def meta_without_loss(path: Path) -> None:
    """The loss has another name."""
    _change_meta(path, lambda meta: _renamed(meta.graph_def, {"loss": "other"}))


def meta_without_global_step(path: Path) -> None:
    """The global step has another name."""
    _change_meta(path, lambda meta: _renamed(meta.graph_def, {"global_step": "other"}))


def _change_meta(path: Path, change: Callable[[Any], Any]) -> None:
    from tensorflow.core.protobuf import meta_graph_pb2

    meta = meta_graph_pb2.MetaGraphDef.FromString(path.read_bytes())
    before = meta.SerializeToString(deterministic=True)
    change(meta)
    after = meta.SerializeToString(deterministic=True)
    assert after != before, "the fault changed nothing"
    path.unlink()
    path.write_bytes(after)


def _renamed(graph_def: Any, names: dict[str, str]) -> None:
    assert names.keys() <= {node.name for node in graph_def.node}, "the fault found nothing to rename"
    for node in graph_def.node:
        node.name = names.get(node.name, node.name)
        for position, source in enumerate(node.input):
            plain = source.removeprefix("^").partition(":")[0]
            if plain in names:
                node.input[position] = source.replace(plain, names[plain], 1)


# Frozen graphs --------------------------------------------------------------------------------------------------------


def frozen_dropout_left_on(folder: Path) -> None:
    """Dropout runs at inference."""
    _change_frozen(folder, lambda graph: _feed_true(graph, lambda branch: "RandomUniform" in branch))


def frozen_batch_norm_in_training_mode(folder: Path) -> None:
    """Batch normalisation takes the batch's moments."""
    _change_frozen(folder, lambda graph: _feed_true(graph, lambda branch: "RandomUniform" not in branch))


def frozen_weight_zeroed(folder: Path) -> None:
    """One weight zeroed."""
    _change_constants(folder, {WEIGHT}, lambda value: _set(value, 0.0))


def frozen_weight_moved(folder: Path) -> None:
    """One weight changed by 1e-4."""
    _change_constants(folder, {WEIGHT}, lambda value: _set(value, value.flat[7] + 1e-4))


def frozen_all_nan(folder: Path) -> None:
    """Every float constant of more than one element NaN."""
    _change_constants(
        folder, None, lambda value: np.full_like(value, np.nan) if value.dtype.kind == "f" and value.size > 1 else value
    )


def frozen_wrong_dtype(folder: Path) -> None:
    """`class` is int32 instead of int64."""

    def narrow(graph: Any) -> None:
        import tensorflow as tf

        (node,) = [node for node in graph.node if node.name == "class"]
        node.name = "wide"
        cast = graph.node.add(name="class", op="Cast", input=["wide"])
        cast.attr["SrcT"].type = tf.int64.as_datatype_enum
        cast.attr["DstT"].type = tf.int32.as_datatype_enum

    _change_frozen(folder, narrow)


def _change_constants(folder: Path, names: set[str] | None, change: Callable[[Any], Any]) -> None:
    def each(graph: Any) -> None:
        import tensorflow as tf

        for node in graph.node:
            if node.op == "Const" and (names is None or node.name in names):
                value = change(tf.make_ndarray(node.attr["value"].tensor))
                node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))

    _change_frozen(folder, each)


def frozen_outputs_swapped(folder: Path) -> None:
    """`logits` and `probabilities` trade their tensors."""

    def swap(outputs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
        return outputs | {"logits": outputs["probabilities"], "probabilities": outputs["logits"]}

    names = GraphNames.model_validate_json((folder / NAMES).read_bytes())
    signatures = tuple(
        s.model_copy(update={"outputs": swap(s.outputs)}) if "logits" in s.outputs else s for s in names.signatures
    )
    (folder / NAMES).unlink()
    (folder / NAMES).write_text(names.model_copy(update={"signatures": signatures}).model_dump_json())


def frozen_nodes_renamed(folder: Path) -> None:
    """Harmless: every node under another name, in reverse order."""

    def rename(graph: Any) -> None:
        for node in graph.node:
            node.name = f"renamed/{node.name}"
            inputs = [f"^renamed/{i[1:]}" if i.startswith("^") else f"renamed/{i}" for i in node.input]
            del node.input[:]
            node.input.extend(inputs)
            node.attr.pop("_class", None)
        copies = [type(node).FromString(node.SerializeToString()) for node in list(graph.node)[::-1]]
        del graph.node[:]
        graph.node.extend(copies)

    _change_frozen(folder, rename)
    names = (folder / NAMES).read_text()
    parsed = GraphNames.model_validate_json(names)

    def renamed(specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
        return {name: spec.model_copy(update={"tensor": f"renamed/{spec.tensor}"}) for name, spec in specs.items()}

    signatures = tuple(
        s.model_copy(update={"inputs": renamed(s.inputs), "outputs": renamed(s.outputs)}) for s in parsed.signatures
    )
    assets = tuple(a.model_copy(update={"tensor": f"renamed/{a.tensor}"}) for a in parsed.assets)
    update = {"signatures": signatures, "assets": assets, "table_init": f"renamed/{parsed.table_init}"}
    (folder / NAMES).unlink()
    (folder / NAMES).write_text(parsed.model_copy(update=update).model_dump_json())


def _change_frozen(folder: Path, change: Callable[[Any], Any]) -> None:
    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString((folder / GRAPH).read_bytes())
    before = graph.SerializeToString(deterministic=True)
    change(graph)
    after = graph.SerializeToString(deterministic=True)
    assert after != before, "the fault changed nothing"
    (folder / GRAPH).unlink()
    (folder / GRAPH).write_bytes(after)


# What tests ask of TensorFlow -------------------------------------------------------------------------------------------


def freeze_older(run: Path, prefix: Path, out: Path) -> None:
    """In a child: freeze a checkpoint of the run that is not the pinned one."""
    moved = out / "older"
    moved.mkdir()
    for path in checkpoint_files.files(prefix):
        shutil.copyfile(path, moved / path.name)
    shutil.copyfile(run / "graph.meta", moved / f"{prefix.name}.meta")
    frozen_graph.write(run, moved / prefix.name, TrainingRun(run).names(), out)


def in_batches_of(rows: int, folder: Path, run: Path, step: int) -> ParityReport:
    """In a child: the probe's first rows only, compared with the same rows of the baseline."""
    reference = proof.Reference.read(run, step)
    probe, expected = ({n: a[:rows] for n, a in named.items()} for named in (reference.probe, reference.outputs))
    with frozen_graph.loaded(folder, reference.session) as opened:
        signatures = reference.names.signatures
        found = compare.outputs(opened, signatures, probe, expected, ParityTest.SERVED, Tolerance())
    return ParityReport(rows=tuple(found))
