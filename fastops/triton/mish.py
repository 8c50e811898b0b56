"""Mish in Triton: x t / (t + 2) with t = e^x (e^x + 2). csrc/math/mish.h has the derivation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ._common import laid_out_like, opmath

BLOCK = 1024  # 4 warps, 8 elements a thread: one 16-byte access in half types, two in float32

# Below LOW e^x is exactly 0, and above HIGH t / (t + 2) is exactly 1, in float64 too. e^(2 HIGH) still fits float32.
LOW = tl.constexpr(-1000.0)
HIGH = tl.constexpr(40.0)


@triton.jit
def _terms(x):
    # Comparisons keep NaN; minimum and maximum do not. The bounded x is also the factor x of the formulas, so inf * 0
    # becomes the limit at the infinities.
    bounded = tl.where(x < LOW, LOW, x)
    bounded = tl.where(x > HIGH, HIGH, bounded)
    e = tl.exp(bounded)
    return bounded, e, e * (e + 2)


@triton.jit
def _forward(x):
    bounded, e, t = _terms(x)
    return tl.where(x > HIGH, x, bounded * (t / (t + 2)))


@triton.jit
def _backward(grad, x):
    bounded, e, t = _terms(x)
    inverse = 1 / (t + 2)
    return grad * (inverse * (t + bounded * (4 * e * (e + 1)) * inverse))


@triton.jit
def _mish_kernel(x, y, n, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # no mask, so full-width accesses for any n
        tl.store(y + at, _forward(tl.load(x + at).to(OPMATH)))
    else:
        inside = at < n
        tl.store(y + at, _forward(tl.load(x + at, inside).to(OPMATH)), inside)


@triton.jit
def _mish_backward_kernel(grad, x, grad_x, n, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:
        g = tl.load(grad + at).to(OPMATH)
        tl.store(grad_x + at, _backward(g, tl.load(x + at).to(OPMATH)))
    else:
        inside = at < n
        g = tl.load(grad + at, inside).to(OPMATH)
        tl.store(grad_x + at, _backward(g, tl.load(x + at, inside).to(OPMATH)), inside)


def _launch(x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.cuda.device_of(x):
        _mish_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, y, x.numel(), OPMATH=opmath(x), BLOCK=BLOCK)


def mish(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)  # the strides of x if x is dense, else dense ones
    if x.numel():
        _launch(laid_out_like(x, y), y)
    return y


def mish_(x: torch.Tensor) -> None:
    if x.numel() == 0:
        return
    if x.stride() == torch.empty_like(x, device="meta").stride():
        _launch(x, x)
    else:
        x.copy_(mish(x))


def mish_backward(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    grad_x = torch.empty_like(x)
    if x.numel():
        grad, x = laid_out_like(grad, grad_x), laid_out_like(x, grad_x)
        with torch.cuda.device_of(x):
            _mish_backward_kernel[(triton.cdiv(x.numel(), BLOCK),)](
                grad, x, grad_x, x.numel(), OPMATH=opmath(x), BLOCK=BLOCK
            )
    return grad_x


OPS = {"mish": mish, "mish_": mish_, "mish_backward": mish_backward}
