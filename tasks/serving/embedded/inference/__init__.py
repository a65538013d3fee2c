"""Predict, classify and regress on a loaded servable."""
