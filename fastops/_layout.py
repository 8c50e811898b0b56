"""Memory formats of results, as csrc/common/layout.h decides them."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(t: Tensor) -> torch.memory_format:
    """channels_last for a 4-D tensor that is channels_last and not also contiguous, else contiguous."""
    if t.dim() == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def empty_native(t: Tensor) -> Tensor:
    """An uninitialised tensor like ``t`` in :func:`memory_format`."""
    return torch.empty_like(t, memory_format=memory_format(t))
