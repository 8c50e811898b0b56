"""Memory formats of results, by the rules of csrc/common/layout.h."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(t: Tensor) -> torch.memory_format:
    """channels_last if `t` is 4-D and channels_last but not contiguous, else contiguous."""
    if t.dim() == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def empty_native(t: Tensor) -> Tensor:
    """An uninitialised tensor like `t` in [`memory_format`][fastops.memory_format]."""
    return torch.empty_like(t, memory_format=memory_format(t))
