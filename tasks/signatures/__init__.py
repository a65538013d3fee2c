"""Signatures: those a model declares, those the user requests, and proposals where neither exists."""
