"""Training.

- `config`: all settings, and the learning rate at every step.
- `loop`: the training loop.
- `batches`: pairs to batches.
- `losses`: the losses of both heads.
- `teacher`: learning from a trained network.
- `validation`: the tracker's score while it learns.
- `state`, `log`: checkpoints and metrics.
- `sync_batch_norm`: batch norm over several processes.
"""
