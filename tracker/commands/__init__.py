"""The commands of `tracker`, one file each; `tracker/cli.py` lists them.

- `track`, `demo`, `prepare`, `train`, `eval`, `tune`, `bench`, `quantize`, `export`, `serve`, `experiment`, `info`:
  the commands.
- `run_demo`: the steps of `tracker demo`.
- `options`, `checks`, `output`: options, input checks and output that commands share.
"""
