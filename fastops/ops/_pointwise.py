"""Registration of a pointwise op: checks, fake kernels, gradients and the vmap rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastops.ops._checks import check_floating, check_same_device, check_same_dtype, check_same_shape
from fastops.ops._register import reference_vjp


def _check_backward(op: str, grad: Tensor, x: Tensor) -> None:
    check_floating(op, "x", x)
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check_same_shape(op, "grad", grad, "x", x)


def _save_input(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def register_pointwise(name: str, reference: Callable[[Tensor], Tensor]) -> dict[str, Callable[..., None]]:
    """Register `name` and `<name>_backward` with torch, and return their argument checks, the entries of CHECKS.

    The results have the strides of `x` if it is dense. The forward pass saves `x` only. The gradient of the backward
    pass comes from `reference`.
    """
    op = getattr(torch.ops.fastops, name).default
    backward_op = getattr(torch.ops.fastops, f"{name}_backward").default
    check = partial(check_floating, name, "x")
    check_backward = partial(_check_backward, f"{name}_backward")

    @torch.library.register_fake(f"fastops::{name}")
    def _(x: Tensor) -> Tensor:
        check(x)
        return torch.empty_like(x)

    @torch.library.register_fake(f"fastops::{name}_backward")
    def _(grad: Tensor, x: Tensor) -> Tensor:
        check_backward(grad, x)
        return torch.empty_like(x)

    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return reference_vjp(reference, (x,), grad)[0]
        return backward_op(grad, x)

    torch.library.register_autograd(f"fastops::{name}", backward, setup_context=_save_input)

    @torch.library.register_vmap(f"fastops::{name}")
    def _(info, in_dims, x):
        return op(x), in_dims[0]

    return {name: check, f"{name}_backward": check_backward}
