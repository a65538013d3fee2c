"""Clients of a model server, one module for each protocol."""
