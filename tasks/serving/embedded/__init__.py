"""A stand-in for `tensorflow_model_server`: same flags, gRPC services, REST API and error texts, in one Python process.

For hosts that have neither Docker nor the real binary. `python -m tasks.serving.embedded` runs it alone;
`server.serve` runs it in a child forked from a process that has imported TensorFlow. Importing any module of this
package imports neither TensorFlow nor `tensorflow_serving.apis` (which imports TensorFlow).

A request goes `rest` or `grpc_services` → `core` → `inference` or `example_inference` → `servable`, with
`--enable_batching` through `batching` and `batch_scheduler`; a version goes `versions` (what is wanted) → `manager` →
`loading` → `version_loader` → `servable`, `warmup`. `local` is the server for a person at a terminal.

Where it differs from the real server on purpose: it listens on loopback unless `--bind` says otherwise, chooses a port
for 0, refuses a graph with variables whose `variables.index` is missing, a REST body above `--rest_api_max_body_bytes`
and JSON nested deeper than 100,000 levels, and cuts what an error repeats of a request at 1 MiB. What it has not got:
TLS, the session and profiler services, model types other than SavedModel, batching parameters of a model's own
(`--enable_per_model_batching_parameters`), file systems other than the local one, tensors of more than 64 dimensions.
Neither server has gRPC reflection, nor compresses its REST answers.
"""
