"""Training: the loop, its settings, batches, losses, state and log."""
