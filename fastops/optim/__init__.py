"""Optimizers with gradient centralization. Each step is one kernel for the whole list of parameters."""

from fastops.optim.adamw import AdamWGC
from fastops.optim.sgd import SGDGC

__all__ = ["AdamWGC", "SGDGC"]
