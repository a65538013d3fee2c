"""Everything that speaks TensorFlow Serving: runtimes, the client, and what a smoke test asks."""
