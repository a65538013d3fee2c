"""Parity: predictors over every form, and the comparison of their values and outputs."""
