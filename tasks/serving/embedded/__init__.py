"""A stand-in for `tensorflow_model_server`: same flags, gRPC services, REST API and error texts, in one Python process.

For hosts that have neither Docker nor the real binary. `python -m tasks.serving.embedded` runs it alone;
`server.serve` runs it in a child forked from a process that has imported TensorFlow. Importing any module of this
package imports neither TensorFlow nor `tensorflow_serving.apis` (which imports TensorFlow).
"""
