"""The baseline: record what the live model answers, read it back, and prove a form against it."""
