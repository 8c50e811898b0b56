"""Makes a pointwise op and its backward in Triton from two formulas."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from ._common import laid_out_like, opmath

BLOCK = 1024  # 4 warps, 8 elements a thread: one 16-byte access in half types, two in float32


@triton.jit
def _forward_kernel(x, y, n, FORMULA: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # no mask, so full-width accesses for any n
        tl.store(y + at, FORMULA(tl.load(x + at).to(OPMATH)))
    else:
        inside = at < n
        tl.store(y + at, FORMULA(tl.load(x + at, inside).to(OPMATH)), inside)


@triton.jit
def _backward_kernel(grad, x, grad_x, n, FORMULA: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        tl.store(grad_x + at, FORMULA(tl.load(grad + at).to(OPMATH), tl.load(x + at).to(OPMATH)))
    else:
        inside = at < n
        g = tl.load(grad + at, inside).to(OPMATH)
        tl.store(grad_x + at, FORMULA(g, tl.load(x + at, inside).to(OPMATH)), inside)


def pointwise_ops(
    name: str, forward_formula: triton.JITFunction, backward_formula: triton.JITFunction
) -> dict[str, Callable[..., torch.Tensor]]:
    """The registered ops `name` and `<name>_backward` from the formulas f(x) and grad f'(x), in opmath."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)  # the strides of x if x is dense, else dense ones
        if n := x.numel():
            with torch.cuda.device_of(x):
                _forward_kernel[(triton.cdiv(n, BLOCK),)](
                    laid_out_like(x, y), y, n, FORMULA=forward_formula, OPMATH=opmath(x), BLOCK=BLOCK
                )
        return y

    def backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        grad_x = torch.empty_like(x)
        if n := x.numel():
            grad, x = laid_out_like(grad, grad_x), laid_out_like(x, grad_x)
            with torch.cuda.device_of(x):
                _backward_kernel[(triton.cdiv(n, BLOCK),)](
                    grad, x, grad_x, n, FORMULA=backward_formula, OPMATH=opmath(x), BLOCK=BLOCK
                )
        return grad_x

    return {name: forward, f"{name}_backward": backward}
