"""Shared by the ops when they register with torch: gradients of gradients, autocast and vmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_DEVICES = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_libraries = {device: torch.library.Library("fastops", "IMPL") for device in _DEVICES}  # kept alive with the process


def reference_vjp(function: Callable[..., Tensor], inputs: Sequence[Any], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of ``function(*inputs)``, differentiable again; for ``create_graph=True``, where the fused backward,
    itself without a formula, would cut the graph. One entry per input, None where no gradient is wanted."""
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
    """Under ``torch.autocast``: "lower" casts floating inputs to the autocast dtype, as torch does for convolutions;
    "promote" casts them to the widest among them, as torch does for ops that need equal dtypes; "float32" casts to it,
    as torch does for losses; "first" casts to the dtype of the first, for the parameters of an activation, which keeps
    its dtype."""
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
