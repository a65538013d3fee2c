"""A graph whose train op does more than train. Runs in a child."""

from __future__ import annotations

from pathlib import Path


def spoil(prefix: Path, target: Path) -> None:
    """Let the train op of `<prefix>.meta` write a file."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    file = prefix.with_name(prefix.name + ".meta")
    meta = meta_graph_pb2.MetaGraphDef.FromString(file.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.io.write_file(tf.constant(str(target), name="hostile/name"), tf.constant("!", name="hostile/words"))
    meta.graph_def.node.extend(graph.as_graph_def().node)
    written = next(node.name for node in meta.graph_def.node if node.op == "WriteFile")
    next(node for node in meta.graph_def.node if node.name == "Adam").input.append(f"^{written}")
    file.write_bytes(meta.SerializeToString())
