"""What a smoke test checks: files before a server starts, answers, refusals, latency, life cycle."""
