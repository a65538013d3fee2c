"""Inspection of a model's files for `tfship inspect`; nothing is executed."""
