"""Comparison of saved models with each other: pair outputs, compare, locate the first divergence, predict."""
