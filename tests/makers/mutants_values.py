"""Ways to spoil what a SavedModel's files hold: variables, vocabulary, warmup requests, the proto itself. In a child.

Each takes the folder of a SavedModel, already a copy, and changes it in place. Bundles are written anew, so that every
tensor's checksum is right.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.forms import checkpoint_files, saved_model, saver, warmup_requests
from tests.makers import saved_model_faults

Values = dict[str, Any]
LABELS = Path("assets") / "sundaynet_labels.txt"
MODEL = "saved_model.pb"
OTHER = f"{saved_model_faults.WEIGHT}_other"
BUNDLE = Path("variables") / "variables"


def in_bundle(fault: Callable[[Path], None]) -> Callable[[Path], None]:
    """A fault of a tensor bundle as one of a SavedModel."""
    return lambda folder: fault(folder / BUNDLE)


def both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    """Two faults that make one."""

    def spoil(folder: Path) -> None:
        first(folder)
        second(folder)

    return spoil


# Variables ------------------------------------------------------------------------------------------------------------


def read(prefix: Path) -> Values:
    """Every tensor of a bundle."""
    checkpoint = saver.reader(prefix)
    return {key: saver.read(checkpoint, key, prefix) for key in sorted(checkpoint.get_variable_to_shape_map())}


def changed(change: Callable[[Values], Values]) -> Callable[[Path], None]:
    """The bundle written anew with what `change` makes of its tensors."""

    def spoil(folder: Path) -> None:
        named = change(read(folder / BUNDLE))
        shutil.rmtree(folder / "variables")
        (folder / "variables").mkdir()
        saved_model.write_bundle(folder / BUNDLE, named.items())

    return spoil


def one_more_moved(named: Values) -> Values:
    """The right kernel, and beside it one with a weight moved by 1e-4."""
    kernel = named[saved_model_faults.WEIGHT].copy()
    kernel.flat[7] += 1e-4
    return named | {OTHER: kernel}


def bit_flipped(named: Values) -> Values:
    """The lowest bit of one weight."""
    kernel = named[saved_model_faults.WEIGHT].copy()
    kernel.view(np.uint32).flat[3] ^= 1
    return named | {saved_model_faults.WEIGHT: kernel}


def two_swapped(named: Values) -> Values:
    """Two variables of one shape under each other's names."""
    return named | {"conv1/beta": named["conv1/gamma"], "conv1/gamma": named["conv1/beta"]}


def another_models(named: Values) -> Values:
    """The variables of another model of this architecture."""
    draw = np.random.default_rng(1)
    return {name: draw.normal(0, value.std() + 0.1, value.shape).astype(value.dtype) for name, value in named.items()}


def one_as_double(named: Values) -> Values:
    """One variable with the same numbers as float64."""
    return named | {saved_model_faults.WEIGHT: named[saved_model_faults.WEIGHT].astype(np.float64)}


def one_transposed(named: Values) -> Values:
    """A square kernel with its two first axes exchanged: shape and sum stay."""
    return named | {"conv2/kernel": named["conv2/kernel"].transpose(1, 0, 2, 3)}


def another_steps(folder: Path) -> None:
    """The variables of an earlier checkpoint of the same run, which lies in `older` beside all the mutants."""
    (older,) = checkpoint_files.prefixes(folder.parents[1] / "older")
    earlier = read(older)
    changed(lambda named: {name: earlier[name] for name in named})(folder)


def no_index(folder: Path) -> None:
    """`variables.index` is gone."""
    (folder / BUNDLE).with_name("variables.index").unlink()


def data_truncated(folder: Path) -> None:
    """The second half of the data file is gone."""
    path = _data(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_data(folder: Path) -> None:
    """The data file is gone."""
    _data(folder).unlink()


def no_variables(folder: Path) -> None:
    """The folder of variables is gone."""
    shutil.rmtree(folder / "variables")


def _data(folder: Path) -> Path:
    (path,) = (folder / "variables").glob("*.data-*")
    return path


# The vocabulary -------------------------------------------------------------------------------------------------------


def asset(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The labels with other content."""

    def spoil(folder: Path) -> None:
        (folder / LABELS).write_bytes(content((folder / LABELS).read_bytes()))

    return spoil


def no_asset(folder: Path) -> None:
    """The labels are gone."""
    (folder / LABELS).unlink()


def swapped_lines(content: bytes) -> bytes:
    """The first two lines in each other's place."""
    first, second, *rest = content.splitlines(keepends=True)
    return b"".join([second, first, *rest])


def stale_vocabulary(folder: Path) -> None:
    """The graph is filled from a second file, an older one; the right one lies there untouched."""
    (folder / "assets" / "labels.old.txt").write_bytes(swapped_lines((folder / LABELS).read_bytes()))

    def point(meta: Any) -> None:
        meta.asset_file_def[0].filename = "labels.old.txt"

    saved_model_faults.change_meta_graph(folder, point)


def vocabulary_of_this_host(folder: Path) -> None:
    """The table is filled from an absolute path: right here, and nowhere else."""
    elsewhere = folder.parents[1] / "labels.txt"
    shutil.copyfile(folder / LABELS, elsewhere)

    def bake(meta: Any) -> None:
        import tensorflow as tf

        (node,) = [node for node in meta.graph_def.node if node.name == "labels_file"]
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(elsewhere)))
        del meta.asset_file_def[:]

    saved_model_faults.change_meta_graph(folder, bake)


# Warmup requests ------------------------------------------------------------------------------------------------------


def records(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    """Other warmup records."""

    def spoil(folder: Path) -> None:
        import tensorflow as tf

        path = folder / warmup_requests.FILE
        before = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        path.unlink()
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in change(before):
                writer.write(record)

    return spoil


def request(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """The first warmup request changed; it is a Predict request."""

    def rewrite(before: list[bytes]) -> list[bytes]:
        from tensorflow_serving.apis import prediction_log_pb2

        log = prediction_log_pb2.PredictionLog.FromString(before[0])
        change(log)
        return [log.SerializeToString(deterministic=True), *before[1:]]

    return records(rewrite)


def set_input(name: str, value: Callable[[Any], Any], *, drop: str = "images") -> Callable[[Path], None]:
    """The first request with another tensor among its inputs."""

    def change(log: Any) -> None:
        import tensorflow as tf

        inputs = log.predict_log.request.inputs
        array = value(tf.make_ndarray(inputs[drop]))
        del inputs[drop]
        inputs[name].CopyFrom(tf.make_tensor_proto(array))

    return request(change)


def unknown_signature(log: Any) -> None:
    """A signature that the model does not have."""
    log.predict_log.request.model_spec.signature_name = "gone"


def dtype_of_nowhere(log: Any) -> None:
    """A dtype that no TensorFlow knows."""
    log.predict_log.request.inputs["images"].dtype = 999


def too_few_bytes(log: Any) -> None:
    """A tensor of 64 floats that brings 12 bytes."""
    log.predict_log.request.inputs["images"].tensor_content = b"\0" * 12


def of_another_kind(log: Any) -> None:
    """A log that is no request to a signature."""
    log.session_run_log.SetInParent()


def for_two_heads(log: Any) -> None:
    """A MultiInference request to a signature that is not there."""
    task = log.multi_inference_log.request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.signature_name = "gone"


def corrupt_crc(folder: Path) -> None:
    """One bit of the first record's checksum."""
    path = folder / warmup_requests.FILE
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)


def zipped(folder: Path) -> None:
    """The file compressed, which a server does not expect."""
    path = folder / warmup_requests.FILE
    path.write_bytes(gzip.compress(path.read_bytes()))


def a_folder_of_requests(folder: Path) -> None:
    """A folder under the file's name."""
    path = folder / warmup_requests.FILE
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / "1").write_bytes(content)


# The proto ------------------------------------------------------------------------------------------------------------


def proto(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """`saved_model.pb` with other bytes."""

    def spoil(folder: Path) -> None:
        (folder / MODEL).write_bytes(content((folder / MODEL).read_bytes()))

    return spoil


def no_proto(folder: Path) -> None:
    """`saved_model.pb` is gone."""
    (folder / MODEL).unlink()


def model(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """The SavedModel proto changed."""

    def spoil(folder: Path) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        found = saved_model_pb2.SavedModel.FromString((folder / MODEL).read_bytes())
        change(found)
        (folder / MODEL).write_bytes(found.SerializeToString(deterministic=True))

    return spoil


def no_meta_graph(found: Any) -> None:
    """A SavedModel without a MetaGraph."""
    del found.meta_graphs[:]


def two_alike(found: Any) -> None:
    """Two MetaGraphs with the same tags: which one is meant?"""
    found.meta_graphs.add().CopyFrom(found.meta_graphs[0])


def other_tags(found: Any) -> None:
    """For training, not for serving."""
    found.meta_graphs[0].meta_info_def.tags[:] = ["train"]


def one_for_training_too(found: Any) -> None:
    """Harmless: a second MetaGraph under other tags."""
    copy = found.meta_graphs.add()
    copy.CopyFrom(found.meta_graphs[0])
    copy.meta_info_def.tags[:] = ["train"]


def for_later_consumers(found: Any) -> None:
    """A graph that only a far later TensorFlow may read."""
    found.meta_graphs[0].graph_def.versions.min_consumer = 1_000_000


def not_for_this_consumer(found: Any) -> None:
    """A graph that names this TensorFlow's graph version as one that misreads it."""
    from tensorflow.python.framework import versions

    found.meta_graphs[0].graph_def.versions.bad_consumers.append(versions.GRAPH_DEF_VERSION)


# Files that should not be there ------------------------------------------------------------------------------------------


def symlink_out(folder: Path) -> None:
    """The data file is a symbolic link to where it was built."""
    path = _data(folder)
    elsewhere = folder.parents[1] / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def unreadable(folder: Path) -> None:
    """Harmless, for the store gives back the right to read: two files that nobody may read."""
    _data(folder).chmod(0)
    (folder / MODEL).chmod(0o200)


# Changes that spoil nothing ---------------------------------------------------------------------------------------------


def in_two_shards(folder: Path) -> None:
    """The same tensors in a bundle of two data files."""
    import tensorflow as tf

    named = list(read(folder / BUNDLE).items())
    shutil.rmtree(folder / "variables")
    (folder / "variables").mkdir()
    parts = [str(folder / "variables" / part) for part in ("left", "right")]
    for part, some in zip(parts, (named[:5], named[5:]), strict=True):
        saved_model.write_bundle(Path(part), some)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(folder / BUNDLE), delete_old_dirs=False
    )
    assert len(list((folder / "variables").glob("*.data-*"))) == len(parts)


def added(name: str) -> Callable[[Path], None]:
    """A file that no loader reads."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(b"seen by nobody")

    return spoil


def no_warmup(folder: Path) -> None:
    """The warmup requests are gone: a server is slower at first, and answers the same."""
    shutil.rmtree(folder / "assets.extra")
