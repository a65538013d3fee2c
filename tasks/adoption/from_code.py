"""Source models that need Python code: the graph of a checkpoint without one, or the object that values belong to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.errors import UsageError
from tasks.forms import object_checkpoint
from tasks.forms.keras import model as keras
from tasks.forms.live_object import LivePredictor
from tasks.graphs import rewrite
from tasks.graphs.protos import MetaGraphDef
from tasks.parity import predictor as predictors
from tasks.records.adoption import Found
from tasks.records.forms import Form
from tasks.records.settings import SessionOptions
from tasks.records.signature import OutputRef
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Tensors
from tasks.user_code import objects
from tasks.user_code import source as sources
from tasks.user_code.model import Graph
from tasks.user_code.source import ModelSource


@dataclass(frozen=True)
class Built:
    """A graph from code: its MetaGraphDef with SignatureDefs, and the model's own probe, if it has one."""

    meta: MetaGraphDef
    probe: Tensors | None


def graph(code: ModelSource, found: Found) -> Built:
    """Build the graph of a model's code, in TF1 graph mode.

    Raises:
        UsageError: the form has its own graph, or the code builds no graph.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    if not found.form.of_saver:
        expected = f"a Saver checkpoint, whose graph --model {code.module}:{code.attribute} builds"
        raise UsageError(str(found.path), expected, found.form.value, "leave --model out: the file has its own graph.")
    with sources.importable(code) as model_class:
        model = model_class()
    built_graph = tf.Graph()
    with built_graph.as_default():
        built = model.build(dict(getattr(model, "hyperparameters", {})))
        if not isinstance(built, Graph):
            remedy = "a Saver checkpoint needs the TF1 graph that wrote it."
            raise UsageError(f"--model {code.module}:{code.attribute}", "a Graph", type(built).__name__, remedy)
        meta = v1.train.export_meta_graph(graph=built_graph)
        for key, signature in built.signatures.items():
            meta.signature_def[key].CopyFrom(
                v1.saved_model.signature_def_utils.build_signature_def(
                    inputs={name: v1.saved_model.build_tensor_info(one) for name, one in signature.inputs.items()},
                    outputs={name: v1.saved_model.build_tensor_info(one) for name, one in signature.outputs.items()},
                    method_name=signature.method.value,
                )
            )
        meta.ClearField("saver_def")
    return Built(rewrite.modernise(meta), _probe(model))


def _probe(model: Any) -> Tensors | None:
    batches = model.probe() if hasattr(model, "probe") else {}
    probe = {
        str(OutputRef(key, name)): tensor_file.as_array(rows)
        for key, inputs in batches.items()
        for name, rows in inputs.items()
    }
    return probe or None


@contextmanager
def restored(
    found: Found, code: ModelSource | None, options: SessionOptions
) -> Iterator[tuple[LivePredictor, Tensors | None]]:
    """Build the object of a model's code and restore its variables from an object-based checkpoint or Keras weights.

    Raises:
        UsageError: there is no code, or it builds no object.
        CoverageError: the files lack a variable of the object, or hold it with another dtype or shape.
    """
    if code is None:
        variables = [entry.path for entry in object_checkpoint.table(found.path) if entry.kind == "variable"]
        held = f"the values of {len(variables)} variables, no graph ({', '.join(variables[:6])}, …)"
        remedy = "name the class that builds it: --model module:Model (README, Your own model)."
        raise UsageError(str(found.path), f"Python code for an {found.form.value}", held, remedy)
    predictors.eager(options)
    with sources.importable(code) as model_class:
        model = model_class()
    if not objects.expected(model):
        remedy = "its `build` must return Objects: the Keras model or tf.Module that the values belong to."
        raise UsageError(f"--model {code.module}:{code.attribute}", "a build() that returns Objects", "a graph", remedy)
    built = objects.build(model, dict(getattr(model, "hyperparameters", {})))
    if found.form is Form.OBJECT_CHECKPOINT:
        object_checkpoint.restore(found.path, built.module)
    else:
        keras.restore_weights(found.path, built.module)
    yield objects.live(built, found.form.value), _probe(model)
