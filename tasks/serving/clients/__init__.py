"""Clients of a model server, one module a protocol."""
