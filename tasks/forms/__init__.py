"""The forms in which TensorFlow persists a model, one module a form, and their detection by structure."""
