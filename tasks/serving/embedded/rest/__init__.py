"""The REST API of the embedded server: routes, and JSON to tensors and back."""
