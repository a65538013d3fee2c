"""A live Python object as a form: a tf.Module, a Keras model or a graph function, called through its exported functions.

Every answer comes from the concrete functions that `export` writes, with Grappler off: on a CNN with batch
normalisation and dropout, and on an LSTM, TensorFlow 2.21's v1 loader then gives the same outputs bit for bit.
Everything here runs in a child.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UnsupportedGraph, UsageError
from tasks.forms import saved_model
from tasks.forms.keras import library
from tasks.graphs.graph import Graph, node_name
from tasks.parity.predictor import variable_pieces
from tasks.records.baseline import TensorFact
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, Tensors

_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"


class LivePredictor:
    """See `Predictor`: `functions` are concrete functions by signature key, `root` the object that they belong to.

    A signature takes keyword tensors and returns a dictionary of tensors: see `served`. `root` is None where a function
    stands alone; the variables are then those that the functions read.
    """

    def __init__(
        self, form: str, functions: Mapping[str, Any], root: Any = None, allow_nonfinite: Iterable[str] = ()
    ) -> None:
        self.form, self.functions, self.root = form, dict(functions), root
        allowed = frozenset(allow_nonfinite)
        self.signatures: Mapping[str, Signature] = {
            key: _signature(key, function, key in allowed) for key, function in self.functions.items()
        }
        self.variables = variables(root) if root is not None else {}
        known = {id(variable) for variable in self.variables.values()}
        # Of what only a closure holds, nothing but its name is known.
        loose = {id(variable): variable for function in self.functions.values() for variable in function.variables}
        for variable in sorted(loose.values(), key=lambda variable: str(variable.name)):
            if id(variable) not in known:
                self.variables[_free(variable.name.removesuffix(":0"), self.variables)] = variable

    def predict(self, signature: str, inputs: Mapping[str, Array]) -> Tensors:
        """See `Predictor`."""
        import tensorflow as tf

        specs = self.signatures[signature].inputs
        fed = {name: tf.constant(array, dtype=specs[name].dtype) for name, array in inputs.items()}
        answers = self.functions[signature](**fed)
        return {name: tensor_file.as_array(answer.numpy()) for name, answer in answers.items()}

    def values(self) -> Iterator[TensorFact]:
        """See `Predictor`: every variable by its path."""
        for path, variable in self.variables.items():
            yield tensor_file.fact_of_pieces(path, variable_pieces(variable))

    def export(self, folder: Path) -> dict[str, str]:
        """Write a SavedModel with exactly these signatures; returns variable operation -> path in the live object.

        Raises:
            UnsupportedGraph: TensorFlow cannot export it.
        """
        import tensorflow as tf

        holder = tf.Module()
        # The variables themselves: of a Keras 3 variable TensorFlow would write, and restore, a copy that nothing reads
        # (keras/src/backend/tensorflow/core.py, `_export_to_saved_model_graph`).
        holder.state = list(self.variables.values())
        holder.resources = _resources(self.root)
        try:
            tf.saved_model.save(holder, str(folder), signatures=self.functions)
        except (ValueError, TypeError, AssertionError, NotImplementedError) as error:
            raise UnsupportedGraph(
                self.form,
                "functions, variables and tables that `tf.saved_model.save` can write",
                _sentence(error),
                "reach every variable and table from an attribute of the object, and take and return plain tensors.",
            ) from None
        paths = list(self.variables)
        return {name: paths[index] for name, index in _exported(folder).items()}


def served(function: Callable[..., Any], specs: Mapping[str, Any]) -> Any:
    """Return a concrete function of keyword tensors that calls `function(**tensors)`, with outputs named as TensorFlow does.

    One tensor is `output_0`, a sequence `output_0`, `output_1`, …
    (tensorflow/python/saved_model/signature_serialization.py). `specs` are tf.TensorSpecs by input name.

    Raises:
        UnsupportedGraph: an input or an output is not a dense tensor.
    """
    import tensorflow as tf

    def named(**inputs: Any) -> dict[str, Any]:
        answer = function(**inputs)
        if isinstance(answer, Mapping):
            found = {str(name): output for name, output in answer.items()}
        else:
            outputs = answer if isinstance(answer, (tuple, list)) else [answer]
            found = {f"output_{index}": output for index, output in enumerate(outputs)}
        for name, output in found.items():
            _require_tensor(f"output {name}", output)
        return {name: tf.identity(output, name=name) for name, output in found.items()}

    for name, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec):
            _require_tensor(f"input {name}", spec)
    plain = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    return tf.function(named, autograph=False).get_concrete_function(**plain)


def of_function(key: str, function: Any) -> Any:
    """`served` for a user's tf.function with an input signature, or for a concrete function.

    Raises:
        UsageError: it has no input signature, or two inputs of one name.
        UnsupportedGraph: an input or an output is no plain tensor.
    """
    import tensorflow as tf

    where = f"signature {key!r}"
    remedy = "decorate it: @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name='x')])."
    concrete = function
    if not hasattr(function, "structured_input_signature"):
        if getattr(function, "input_signature", None) is None:
            found = f"{type(function).__name__} without one"
            raise UsageError(where, "a tf.function with an input_signature", found, remedy)
        concrete = function.get_concrete_function()
    structure = concrete.structured_input_signature
    flat = tf.nest.flatten(structure)
    if loose := [spec for spec in flat if not isinstance(spec, tf.TensorSpec)]:
        _require_tensor(f"{where}: an input", loose[0])
    names = [spec.name for spec in flat]
    if None in names or len(set(names)) < len(names):
        raise UsageError(where, "inputs with names that differ", ", ".join(map(str, names)), remedy)

    def call(**inputs: Any) -> Any:
        positional, keyword = tf.nest.pack_sequence_as(structure, [inputs[name] for name in names])
        return concrete(*positional, **keyword)

    return served(call, dict(zip(names, flat, strict=True)))


def variables(root: Any) -> dict[str, Any]:
    """Return every tf.Variable of a live object by its path: Keras' own path, or the attributes that lead to it.

    Each comes once, in an order that depends on the object's code alone. Of a variable that is mirrored among several
    workers it is this worker's own, which the functions read.
    """
    found: dict[str, Any] = {}
    for path, variable in _leaves(root):
        mirrored = getattr(variable, "distribute_strategy", None)
        found[_free(path, found)] = mirrored.experimental_local_results(variable)[0] if mirrored else variable
    return found


def _leaves(root: Any) -> list[tuple[str, Any]]:
    import keras
    import tensorflow as tf

    # Keras' weights: not the state of metrics and of random numbers, which no answer depends on, or `functions` read it.
    if library.of_object(root) is not None:
        return library.weights_of(root)
    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    waiting = deque([("", root)])
    while waiting:
        path, node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, (tf.Variable, keras.Variable)):
            variable = node.value if isinstance(node, keras.Variable) else node
            found.setdefault(id(variable), (path, variable))
        elif library.of_object(node) is not None:
            for name, variable in library.weights_of(node):
                found.setdefault(id(variable), (f"{path}/{name}".lstrip("/"), variable))
        else:
            for name, child in tf.train.TrackableView.children(node).items():
                if not callable(child) or isinstance(child, tf.Module) or library.of_object(child) is not None:
                    waiting.append((f"{path}/{name}".lstrip("/"), child))
    return list(found.values())


def _resources(root: Any) -> list[Any]:
    """Lookup tables and their like, which functions may read and no variable holds."""
    import tensorflow as tf

    if root is None:
        return []
    kinds = (tf.saved_model.experimental.TrackableResource, tf.lookup.StaticVocabularyTable)
    return [node for node in tf.train.TrackableView(root).descendants() if isinstance(node, kinds)]


def _exported(folder: Path) -> dict[str, int]:
    """Map each variable operation of an exported graph to the index of its variable in `holder.state`.

    Names are ambiguous: TensorFlow numbers equal ones in the order it meets them. The function behind the saver's restore
    operation assigns each checkpoint key to a handle (tensorflow/python/checkpoint/functional_saver.py).
    """
    import tensorflow as tf

    meta = saved_model.meta_graph(folder)
    graph = Graph(meta.graph_def)
    restore = graph.nodes[meta.saver_def.restore_op_name]
    body = graph.functions[restore.attr["f"].func.name]
    handles = dict(zip(body.arguments, restore.input, strict=True))
    inner = body.nodes
    found = {}
    for node in inner.values():
        if node.op != "AssignVariableOp":
            continue
        source = inner[node_name(node.input[1])]
        position = 0
        while source.op in ("Identity", "Cast"):
            position = int(source.input[0].rpartition(":")[2])
            source = inner[node_name(source.input[0])]
        keys = tf.make_ndarray(inner[node_name(source.input[1])].attr["value"].tensor).ravel()
        key = keys[position].decode()
        if key.startswith("state/"):
            found[node_name(handles[node.input[0]])] = int(key.removeprefix("state/").removesuffix(_ATTRIBUTE))
    return found


def _signature(key: str, function: Any, allow_nonfinite: bool) -> Signature:
    def spec(name: str, tensor: Any) -> TensorSpec:
        shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        return TensorSpec(tensor=name, dtype=tensor.dtype.name, shape=shape)

    _, keywords = function.structured_input_signature
    return Signature(
        key=key,
        method=Method.PREDICT,
        inputs={name: spec(name, found) for name, found in keywords.items()},
        outputs={name: spec(name, found) for name, found in function.structured_outputs.items()},
        allow_nonfinite=allow_nonfinite,
    )


def _require_tensor(where: str, value: Any) -> None:
    import tensorflow as tf

    if not isinstance(value, tf.Tensor):
        raise UnsupportedGraph(
            where,
            "a plain tensor",
            f"{type(value).__name__} (ragged, sparse and other composites are not served)",
            "convert it inside the function: `.to_tensor()`, `tf.sparse.to_dense(…)`.",
        )


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, numbered if it is taken."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
