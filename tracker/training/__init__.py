"""Training.

- `config`: all settings, and the learning rate at every step.
- `loop`: the training loop.
- `batches`: pairs to batches.
- `losses`, `box_losses`: the losses of both heads; box losses that other papers compare.
- `teacher`: learning from a trained network.
- `validation`: the tracker's score while it learns.
- `quantize`: crops to measure a network for 8-bit integers.
- `state`, `log`: checkpoints and metrics.
- `sync_batch_norm`: batch norm over several processes.
"""
