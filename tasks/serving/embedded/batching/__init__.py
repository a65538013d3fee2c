"""Batching of the embedded server: the shared batch scheduler and the batching session."""
