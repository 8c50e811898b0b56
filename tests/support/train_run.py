"""`tracker train` in its own process, killed (-9) at a given point: python train_run.py POINT N ARGUMENTS...

The points are "step" (gradients are computed, weights are half updated), "write" (half of a checkpoint is in its
temporary file), "rename" (all of it is, before the rename) and "nowhere". The process is killed the N-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from fastops.optim import SGDGC
from tracker.cli import main


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(target: Any, name: str, nth: int, act: Callable[..., None]) -> None:
    """Call `act` with the arguments of the `nth` call of target.name, before it."""
    original, calls = getattr(target, name), 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth:
            act(*args)
        return original(*args, **kwargs)

    setattr(target, name, wrapper)


def half_a_step(optimizer: torch.optim.Optimizer) -> None:
    parameters = optimizer.param_groups[0]["params"]
    with torch.no_grad():
        for p in parameters[: len(parameters) // 2]:
            p.sub_(p.grad)
    kill()


def half_a_write(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    kill()


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, nth, *arguments = sys.argv[1:]
    if place == "step":
        before(SGDGC, "step", int(nth), half_a_step)
    elif place == "write":
        before(os, "fsync", int(nth), half_a_write)
    elif place == "rename":
        before(os, "replace", int(nth), lambda *paths: kill())
    sys.exit(main(arguments))
