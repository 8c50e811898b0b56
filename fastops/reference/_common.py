"""Shared by the reference implementations: the compute type, and the registered ops of a public function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastops._layout import memory_format


def opmath(t: Tensor) -> Tensor:
    """`t` in the dtype that ops compute in: float64 for float64, float32 for all others."""
    return t.float() if torch.finfo(t.dtype).bits < 32 else t


# ---- layouts: an empty tensor for `result`, the result of an op for the input `like` -------------------------


def native(result: Tensor, like: Tensor) -> Tensor:
    """channels_last if `like` is, else contiguous."""
    return torch.empty_like(result, memory_format=memory_format(like))


def strides_of_input(result: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like)


def contiguous(result: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(result, memory_format=torch.contiguous_format)


def laid_out(result: Tensor, planned: Tensor) -> Tensor:
    # Not Tensor.contiguous(memory_format=...): it does not change the strides of dimensions of size 1.
    return result if result.stride() == planned.stride() else planned.copy_(result)


# ---- registered ops ------------------------------------------------------------------------------------------


def with_backward(
    op: Callable[..., Tensor],
    layout: Callable[[Tensor, Tensor], Tensor] = native,
    *,
    result_layout: Callable[[Tensor, Tensor], Tensor] | None = None,
    result_like: int = 0,
    gradients: int | None = None,
) -> dict[str, Callable]:
    """The registered ops `<op>` and `<op>_backward`, with the strides that the fake kernels promise to torch.compile.

    Args:
        op: the public function in plain PyTorch; its arguments are those of the schema.
        layout: makes the empty tensor of each gradient from its input, and of the result from input `result_like`.
        result_layout: the same for the result, if it differs from `layout`.
        result_like: position of the input that decides the layout of the result.
        gradients: the backward returns the gradients of this many first inputs; None means all tensors.
    """

    def forward(*inputs):
        result = op(*inputs)
        return laid_out(result, (result_layout or layout)(result, inputs[result_like]))

    def backward(grad: Tensor, *inputs):
        leaves = [t.detach().requires_grad_() if isinstance(t, Tensor) else t for t in inputs]
        with torch.enable_grad():
            output = op(*leaves)
        leaves = [t for t in leaves[:gradients] if isinstance(t, Tensor)]
        grads = torch.autograd.grad(output, leaves, grad)
        grads = tuple(laid_out(g, layout(g, t)) for g, t in zip(grads, leaves, strict=True))
        return grads[0] if len(grads) == 1 else grads

    return {op.__name__: forward, f"{op.__name__}_backward": backward}
