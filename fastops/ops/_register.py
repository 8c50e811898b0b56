"""Shared by the ops when they register with torch: gradients of gradients, autocast and vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_libraries = {device: torch.library.Library("fastops", "IMPL") for device in _DEVICES}  # kept alive with the process


def reference_vjp(function: Callable[..., Tensor], inputs: Sequence[Any], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of `function(*inputs)` that can be differentiated again, for `create_graph=True`.

    The fused backward has no gradient formula, so it would cut the graph. The result has one entry per input: None if
    the input needs no gradient.
    """
    with torch.enable_grad():
        output = function(*inputs)
        wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
        grads = iter(torch.autograd.grad(output, wanted, grad, create_graph=True, allow_unused=True))
    return tuple(next(grads) if isinstance(t, Tensor) and t.requires_grad else None for t in inputs)


def to_front(t: Tensor, dim: int | None, size: int) -> Tensor:
    """For a vmap rule: `t` with its mapped dimension first, or repeated `size` times where it is not mapped."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _eligible(t: Any, device: str) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point() and t.device.type == device and t.dtype != torch.float64


def register_autocast(name: str, policy: str) -> None:
    """Register how the op casts its floating inputs under `torch.autocast`.

    - "lower": to the autocast dtype, as torch does for convolutions.
    - "promote": to the widest dtype among them, as torch does for ops that need equal dtypes.
    - "float32": to float32, as torch does for losses.
    - "first": to the dtype of the first input. An activation keeps its dtype, and its parameters follow.
    """
    op = getattr(torch.ops.fastops, name).default
    for device, key in _DEVICES.items():

        def kernel(*args: Any, device: str = device) -> Any:
            if policy == "lower":
                dtype = torch.get_autocast_dtype(device)
            elif policy == "float32":
                dtype = torch.float32
            elif policy == "first":
                dtype = args[0].dtype
            else:
                dtype = torch.float16
                for t in args:
                    if _eligible(t, device):
                        dtype = t.dtype if dtype is torch.float16 else torch.promote_types(dtype, t.dtype)
            cast = [t.to(dtype) if _eligible(t, device) else t for t in args]
            with torch.autocast(device, enabled=False):
                return op(*cast)

        _libraries[device].impl(name, kernel, key)
