"""Small encoded images for graphs that decode them, made by TensorFlow."""

from __future__ import annotations

import numpy as np

from tasks.tensors.tensor_file import Array

OPS = {"DecodeJpeg", "DecodePng", "DecodeImage", "DecodeAndCropJpeg"}
_SIDE = 32


def encoded(rng: np.random.Generator, op: str, channels: int, count: int) -> list[bytes]:
    """`count` images of 32 x 32 pixels in a format that `op` decodes."""
    import tensorflow as tf

    channels = channels or 3
    graph = tf.Graph()
    with graph.as_default():
        pixels = tf.compat.v1.placeholder(tf.uint8, [_SIDE, _SIDE, None])
        # Whatever its name, each of these ops decodes both (tensorflow/core/kernels/image/decode_image_op.cc).
        jpeg = "Jpeg" in op and channels in (1, 3)
        image = tf.io.encode_jpeg(pixels) if jpeg else tf.io.encode_png(pixels)
    with tf.compat.v1.Session(graph=graph) as session:
        drawn = (_pixels(rng, channels) for _ in range(count))
        return [bytes(session.run(image, {pixels: one})) for one in drawn]


def _pixels(rng: np.random.Generator, channels: int) -> Array:
    """Return a smooth gradient under some noise, as in photographs."""
    slope = rng.uniform(-3, 3, (2, channels))
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE].astype(float)
    smooth = 128 + rows[..., None] * slope[0] + columns[..., None] * slope[1]
    noisy = smooth + rng.normal(0, 10, smooth.shape)
    return np.asarray(np.clip(noisy, 0, 255).astype(np.uint8))
