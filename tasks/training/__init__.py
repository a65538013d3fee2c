"""Training of a user's model: graph mode, object mode, several workers, continued from a checkpoint, fine-tuned."""
