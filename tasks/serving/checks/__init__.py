"""Checks of a smoke test: files before a server starts, answers, refusals, latency, life cycle."""
