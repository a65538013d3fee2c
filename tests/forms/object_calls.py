"""Calls on live objects, Keras files and object-based checkpoints, made in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import live_object, object_checkpoint, saved_model
from tasks.forms.keras import model as keras_form
from tasks.parity import predictor
from tasks.records.coverage import Coverage
from tasks.records.settings import SessionOptions
from tasks.tensors import tensor_file

OPTIONS = SessionOptions()


def network(name: str) -> Any:
    """A Keras model with weights that are not their initial values, and as many rows as it takes."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(7)
    if name == "cnn":
        image = keras.Input((8, 8, 1), name="image")
        x = layers.BatchNormalization()(layers.Conv2D(6, 3, activation="relu")(image))
        model = keras.Model(image, layers.Dense(10, name="logits")(layers.Flatten()(layers.Dropout(0.5)(x))))
    elif name == "lstm":
        rows = keras.Input((None, 5), name="rows")
        x = layers.GRU(7)(layers.LSTM(16, return_sequences=True, dropout=0.2)(rows))
        model = keras.Model(rows, layers.Dense(3, activation="softmax", name="classes")(x))
    elif name == "text":
        words = keras.Input((), dtype="string", name="words")
        split = layers.TextVectorization(vocabulary=["a", "b", "c"], output_sequence_length=4)
        x = layers.Flatten()(layers.Embedding(10, 4)(split(words)))
        model = keras.Model(words, layers.Dense(2, name="mood")(x))
    else:
        a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        x = layers.Concatenate()([a, keras.ops.multiply(b, 2.0)])
        model = keras.Model({"a": a, "b": b}, {"sum": layers.Dense(2)(x), "difference": layers.Dense(3)(x)})
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.uniform(0, 0.3, weight.shape).astype(np.float32))
    return model


def rows_for(model: Any) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    given = {}
    for tensor in model.inputs:
        shape = [20, *(12 if size is None else size for size in tensor.shape[1:])]
        if tensor.dtype == "string":
            given[tensor.name] = np.array([b"a b zz", b"c c"] * 10, dtype=object)
        else:
            given[tensor.name] = rng.normal(size=shape).astype(np.float32)
    return given


def differences(name: str, folder: Path) -> dict[str, int]:
    """How many bytes of outputs and variables differ between a live object and the v1 loader's session of its export."""
    predictor.eager(OPTIONS)
    model = network(name)
    live = live_object.LivePredictor("live object", {"serving_default": keras_form.signature_of(model)}, model)
    rows = rows_for(model)
    one = {key: value[:1] for key, value in rows.items()}
    expected = [live.predict("serving_default", given) for given in (rows, one)]
    held = {fact.name: fact.sha256 for fact in live.values()}
    operations = live.export(folder)
    with saved_model.loaded_v1(folder, OPTIONS) as opened:
        got = [opened.predict("serving_default", given) for given in (rows, one)]
    assert sorted(operations.values()) == sorted(held)
    assert len(held) >= len(model.weights)
    return {
        f"{number}/{key}": sum(
            a != b for a, b in zip(tensor_file.as_bytes(want[key]), tensor_file.as_bytes(have[key]), strict=True)
        )
        for number, (want, have) in enumerate(zip(expected, got, strict=True))
        for key in want
    }


def operations_of_three_equal_layers(folder: Path) -> dict[str, bool]:
    """Whether each exported operation holds the variable that `export` says, where all have the same name."""
    import tensorflow as tf

    from tasks.graphs import variables as graph_variables

    predictor.eager(OPTIONS)
    module = tf.Module()
    module.layers = [tf.Variable(float(number), name="w") for number in range(11)]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(x: Any) -> Any:
        for number, layer in enumerate(module.layers):
            x = x * layer + float(number)
        return x

    live = live_object.LivePredictor("live object", {"serve": live_object.of_function("serve", serve)}, module)
    operations = live.export(folder)
    with saved_model.session_of(folder, ["serve"], OPTIONS) as (session, _):
        readers = graph_variables.read_tensors(session.graph, operations)
        found = {name: float(session.run(tensor)) for name, tensor in readers.items()}
    return {name: operations[name] == f"layers/{int(value)}" for name, value in found.items()}


def save(name: str, path: Path, compiled: bool = True) -> None:
    model = network(name)
    if compiled:
        model.compile("adam", "mse")
    model.save(str(path))


def save_weights(name: str, path: Path) -> None:
    network(name).save_weights(str(path))


def save_lambda(path: Path, wrapped: bool = False) -> None:
    import keras

    code = keras.layers.Lambda(lambda x: x + 1, name="plus_one")
    inner = keras.Sequential([keras.Input((3,)), code], name="inner")
    body = [keras.layers.TimeDistributed(code)] if wrapped else [keras.layers.Dense(3), inner]
    keras.Sequential([keras.Input((2, 3) if wrapped else (3,)), *body]).save(str(path))


def save_custom(path: Path) -> None:
    import keras

    class Doubling(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    keras.Sequential([keras.Input((3,)), Doubling(name="twice")]).save(str(path))


def load(path: Path) -> dict[str, list[str]]:
    """A Keras file's inputs and outputs."""
    with keras_form.loaded(path, OPTIONS) as opened:
        signature = opened.signatures["serving_default"]
        return {"inputs": sorted(signature.inputs), "outputs": sorted(signature.outputs)}


def taken_as_declared(kind: str, path: Path) -> list[str]:
    """The inputs' names of a model that was saved and loaded, which answers the same in either."""
    import keras

    predictor.eager(OPTIONS)
    a, b = keras.Input((3,), name="layer_a"), keras.Input((2,), name="layer_b")
    structures = {"by_key": {"right": b, "left": a}, "nested": {"two": [b, a]}, "list_of_one": [a]}
    both = keras.layers.Concatenate()([a, keras.layers.Rescaling(2.0)(b)]) if kind != "list_of_one" else a
    model = keras.Model(structures[kind], keras.layers.Dense(2, name="y")(both))
    model.save(str(path))
    rng = np.random.default_rng(3)
    rows = {tensor.name: rng.normal(size=(4, tensor.shape[1])).astype(np.float32) for tensor in (a, b)}
    want = np.asarray(model(keras.tree.map_structure(lambda tensor: rows[tensor.name], structures[kind])))
    keys = {"left": "layer_a", "right": "layer_b"}
    with keras_form.loaded(path, OPTIONS) as opened:
        names = list(opened.signatures["serving_default"].inputs)
        got = opened.predict("serving_default", {name: rows[keys.get(name, name)] for name in names})
    assert tensor_file.as_bytes(got["y"]) == tensor_file.as_bytes(want)
    return sorted(names)


def coded(path: Path) -> None:
    """Say whether code beside a file is of use; raises as `require_applicable`."""
    from tasks.adoption import source_graph
    from tasks.forms import detect
    from tasks.records.adoption import ModelOptions

    source_graph.require_applicable(detect.detect(path), ModelOptions(), coded=True)


def answers_as_saved(name: str, path: Path) -> bool:
    """Whether the loaded file answers as the model that was saved."""
    predictor.eager(OPTIONS)
    model = network(name)
    origin = live_object.LivePredictor("live object", {"serving_default": keras_form.signature_of(model)}, model)
    rows = rows_for(model)
    want = list(origin.predict("serving_default", rows).values())
    with keras_form.loaded(path, OPTIONS) as opened:
        given = dict(zip(opened.signatures["serving_default"].inputs, rows.values(), strict=True))
        have = list(opened.predict("serving_default", given).values())
    return all(tensor_file.as_bytes(a) == tensor_file.as_bytes(b) for a, b in zip(want, have, strict=True))


def write_again(path: Path, out: Path) -> None:
    keras_form.write(path, out)


def require_safe(path: Path) -> None:
    keras_form.require_safe(path)


def iris(classes: int = 3, layers: int = 2) -> Any:
    import keras

    body = [keras.layers.Dense(128, activation="relu") for _ in range(layers - 1)]
    return keras.Sequential([keras.Input((4,)), *body, keras.layers.Dense(classes, activation="softmax")])


def restore_iris(prefix: Path, classes: int = 3, layers: int = 2) -> list[float]:
    """Restore the iris checkpoint; what each row of probabilities adds up to, for five flowers."""
    model = iris(classes, layers)
    object_checkpoint.restore(prefix, model)
    return [float(total) for total in np.asarray(model(np.eye(5, 4, dtype=np.float32))).sum(axis=1)]


def module(scale: float = 1.0, size: int = 3, more: bool = False) -> Any:
    import tensorflow as tf

    made = tf.Module()
    made.layers = [tf.Variable(scale * np.arange(size, dtype=np.float32) + number, name="w") for number in range(2)]
    made.heads = {"a": tf.Variable(scale)}
    if more:
        made.more = tf.Variable(scale)
    return made


def write_checkpoint(prefix: Path, kind: str) -> str:
    """A tf.train.Checkpoint of `module(3.0)` under one of the usual roots; its prefix."""
    import keras
    import tensorflow as tf

    saved = module(3.0)
    optimizer = keras.optimizers.Adam()
    optimizer.build(saved.trainable_variables)
    roots = {
        "itself": lambda: tf.train.Checkpoint(saved),
        "model": lambda: tf.train.Checkpoint(model=saved),
        "net": lambda: tf.train.Checkpoint(optimizer=optimizer, step=tf.Variable(1), net=saved),
        "two": lambda: tf.train.Checkpoint(model=saved, ema=module(4.0)),
    }
    path: str = roots[kind]().save(str(prefix))
    return path


def restore_module(prefix: Path, at: str | None = None, size: int = 3, more: bool = False) -> Coverage:
    restored = module(0.0, size, more)
    before = [variable.numpy().tolist() for variable in restored.variables]
    try:
        coverage = object_checkpoint.restore(prefix, restored, at)
    except Exception:
        assert before == [variable.numpy().tolist() for variable in restored.variables]
        raise
    saved = module(4.0 if at == "ema" else 3.0)
    for want, have in zip(saved.variables, restored.variables, strict=True):
        assert want.numpy().tolist() == have.numpy().tolist()
    return coverage


def restored_as_saved(name: str, prefix: Path) -> bool:
    """Whether TensorFlow's own restore, into the model that was saved set to zeros, brings its weights back."""
    import tensorflow as tf

    saved, made = network(name), network(name)
    for weight in made.weights:
        weight.assign(np.zeros(weight.shape, weight.dtype))
    tf.train.Checkpoint(model=made).restore(str(prefix)).assert_existing_objects_matched()
    return all((a.numpy() == b.numpy()).all() for a, b in zip(saved.weights, made.weights, strict=True))


def weights_lost(path: Path) -> None:
    """Load a file while Keras, planted so, leaves one weight at its initial value."""
    import keras

    load = keras.models.load_model

    def forgetful(*arguments: Any, **named: Any) -> Any:
        model = load(*arguments, **named)
        model.weights[0].assign(model.weights[0].numpy() * 0.5)
        return model

    keras.models.load_model = forgetful
    with keras_form.loaded(path, OPTIONS):
        pass


def weights_restored(name: str, path: Path, other: str | None = None) -> bool:
    """Whether weights alone, given to the model's code, are those of the model that was saved."""
    import numpy

    saved, made = network(name), network(other or name)
    for weight in made.weights:
        weight.assign(numpy.zeros(weight.shape, weight.dtype))
    keras_form.restore_weights(path, made)
    return all((a.numpy() == b.numpy()).all() for a, b in zip(saved.weights, made.weights, strict=True))


def seen_devices(device: str) -> list[str]:
    """The devices that an eager function and a session may compute on."""
    import tensorflow as tf

    options = SessionOptions(device=device, memory_growth=False, allow_soft_placement=False)
    predictor.eager(options)
    with tf.Graph().as_default() as graph, predictor.session(graph, options) as session:
        seen = [found.device_type for found in session.list_devices()]
    assert predictor.environment(options).device == device
    return seen


def answers_to(path: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """The answers of a Keras file, by the object and by the v1 loader's session of its export; who built it."""
    given = {
        name: np.array(value, object if isinstance(value[0][0], str) else np.float32) for name, value in rows.items()
    }
    with keras_form.loaded(path, OPTIONS) as opened:
        answers = opened.predict("serving_default", given)
        opened.export(path.parent / "exported")
    with saved_model.loaded_v1(path.parent / "exported", OPTIONS) as exported:
        again = exported.predict("serving_default", given)
    return {
        "live": {name: value.tolist() for name, value in answers.items()},
        "exported": {name: value.tolist() for name, value in again.items()},
        "notes": list(keras_form.notes(path)),
    }
