"""A stand-in for `tensorflow_model_server`: same flags, gRPC services, REST API and error texts, in one Python process.

For hosts that have neither Docker nor the real binary. `python -m tasks.serving.embedded` runs it alone;
`server.serve` runs it in a child forked from a process that has imported TensorFlow. Importing any module of this
package imports neither TensorFlow nor `tensorflow_serving.apis` (which imports TensorFlow).

A request passes through `rest.api` or `grpc.services`, `core`, `inference` and `versions.servable`, with
`--enable_batching` also through `batching`. A version passes through `versions`: `aspired` (the versions that should be
served), `manager`, `retry`, `load_version`, `servable`. `local` is the server for a person at a terminal.

Differences from the real server on purpose: it listens on loopback unless `--bind` says otherwise, chooses a port for
0, and refuses a REST body above `--rest_api_max_body_bytes` and JSON nested deeper than 100,000 levels. Not supported: TLS, the session and profiler services, model types
other than SavedModel, batching parameters for one model (`--enable_per_model_batching_parameters`), remote file
systems, tensors of more than 64 dimensions. Neither server has gRPC reflection or compresses its REST answers.
"""
