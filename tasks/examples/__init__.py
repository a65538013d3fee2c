"""Example models, each a class as a user would write it."""
