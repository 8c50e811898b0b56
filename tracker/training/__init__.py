"""Training.

- `config`: all settings, and the learning rate at every step.
- `loop`: the training loop.
- `batches`: makes batches of pairs.
- `losses`: the losses of both heads. `box_losses`: more box losses, for comparisons.
- `teacher`: learning from a trained network.
- `validation`: the tracker's score during training.
- `quantize`: crops that show how to quantize a network to 8-bit integers.
- `state`, `log`: checkpoints and metrics.
- `sync_batch_norm`: batch norm over several processes.
"""
