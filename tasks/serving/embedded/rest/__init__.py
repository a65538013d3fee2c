"""The REST API of the embedded server: routes, and conversion between JSON and tensors."""
