"""Tensors outside TensorFlow: tensor files, types (dtype and shape), and references to outputs."""
