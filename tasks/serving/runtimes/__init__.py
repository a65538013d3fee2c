"""Serving runtimes, one protocol over all: docker, binary, embedded."""
