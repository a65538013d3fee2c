"""What `tfship inspect` lists of a model's files; nothing is executed."""
