"""Adoption of a source model: open it, flatten it to one graph and one checkpoint, and leave a training run."""
