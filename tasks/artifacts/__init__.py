"""Committed directories with manifests: bytes on disk. No TensorFlow, no Prefect."""
