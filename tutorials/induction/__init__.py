"""A small transformer that learns induction, with checkpoints along its training."""
