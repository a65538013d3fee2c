"""The forms in which TensorFlow persists a model, one module a form, and the proof that they compute the same."""
