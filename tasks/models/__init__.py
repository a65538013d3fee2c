"""Example models, what a model of one's own must say, and the training of either."""
