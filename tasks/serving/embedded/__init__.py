"""A stand-in for `tensorflow_model_server`: same flags, gRPC services, REST API and error texts, in one Python process.

For hosts that have neither Docker nor the real binary. `python -m tasks.serving.embedded` runs it alone;
`server.serve` runs it in a child forked from a process that has imported TensorFlow. Importing any module of this
package imports neither TensorFlow nor `tensorflow_serving.apis` (which imports TensorFlow).

A request goes `rest` or `grpc_services` → `core` → `inference` or `example_inference` → `servable`; a version goes
`versions` (what is wanted) → `manager` → `loading` → `servable`, `warmup`.

Where it differs from the real server on purpose: it listens on loopback unless `--bind` says otherwise, chooses a port
for 0, and refuses a graph with variables whose `variables.index` is missing. What it has not got: batching, TLS, the
session and profiler services, model types other than SavedModel, file systems other than the local one, tensors of more
than 64 dimensions.
"""
