"""Adaptive activations in Triton. The formulas are those of csrc/math/adaptive.h.

Dense tensors are viewed as [N, C, S] with strides. So contiguous and channels_last tensors, other permutations, and
parameters per layer (N = C = 1) run the same kernels. The tiles are transposed if channels have the smallest stride.
Sums are split into fixed parts and added in a fixed order, so results are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from ._common import laid_out_like, opmath, opmath_dtype, tile

PROGRAMS = 512  # sums over S are split until there are this many programs, a few for each SM of a large GPU


@triton.jit
def _sigmoid(u):
    """sigma(u) and sigma'(u)."""
    e = tl.exp(tl.where(u < 0, u, -u))  # NaN stays NaN
    inverse = 1 / (1 + e)
    return tl.where(u < 0, e, 1) * inverse, e * inverse * inverse


@triton.jit
def _tanh(u):
    """tanh(u) and tanh'(u).

    Where 1 - e^-2|u| would cancel, tanh(u) is a convergent of Lambert's continued fraction, with a relative error below
    1e-17.
    """
    size = tl.where(u < 0, -u, u)
    e = tl.exp(-2 * size)
    inverse = 1 / (1 + e)
    far = (1 - e) * inverse
    near = tl.where(size < 0.4, u, 0)
    s = near * near
    near *= (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + s * 28)))
    return tl.where(size < 0.4, near, tl.where(u < 0, -far, far)), 4 * e * inverse * inverse


@triton.jit
def _activation(u, KIND: tl.constexpr):
    if KIND == "sigmoid":
        value, slope = _sigmoid(u)
    else:
        value, slope = _tanh(u)
    return value, slope


@triton.jit
def _forward(x, a, b, c, d, KIND: tl.constexpr):
    u = a * x + c
    if KIND == "relu":
        v = b * x + d
        y = tl.where((u >= v) | (u != u), u, v)  # NaN wins, as in torch.maximum
    else:
        value, _ = _activation(u, KIND)
        y = b * value + d
    return y


@triton.jit
def _backward(grad, x, a, b, c, d, KIND: tl.constexpr):
    """The gradient of x, and the terms of the sums for a, b, c and d.

    Except for relu, the caller multiplies the terms for a and c by b.
    """
    u = a * x + c
    if KIND == "relu":
        v = b * x + d
        first = (u >= v) | (u != u)
        of_c, of_d = tl.where(first, grad, 0), tl.where(first, 0, grad)
        grad_x = of_c * a + of_d * b
        of_b = of_d * x
    else:
        value, slope = _activation(u, KIND)
        of_c, of_d = grad * slope, grad
        grad_x = of_c * b * a
        of_b = grad * value
    return grad_x, of_c * x, of_b, of_c, of_d


@triton.jit
def _parameters(a, b, c, d, channel, C, OPMATH: tl.constexpr):
    """The parameters of a block of channels, as columns."""
    return (
        tl.load(a + channel, channel < C, 0).to(OPMATH)[:, None],
        tl.load(b + channel, channel < C, 0).to(OPMATH)[:, None],
        tl.load(c + channel, channel < C, 0).to(OPMATH)[:, None],
        tl.load(d + channel, channel < C, 0).to(OPMATH)[:, None],
    )


@triton.jit
def _adaptive_kernel(
    x, a, b, c, d, y, C, S, stride_n, stride_c, stride_s,
    KIND: tl.constexpr, OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    s_blocks, c_blocks = tl.cdiv(S, BLOCK_S), tl.cdiv(C, BLOCK_C)
    n = (pid // s_blocks // c_blocks).to(tl.int64)
    channel = (pid // s_blocks % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = (pid % s_blocks).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = (channel < C)[:, None] & (s < S)[None, :]
    at = n * stride_n + (channel * stride_c)[:, None] + (s * stride_s)[None, :]

    pa, pb, pc, pd = _parameters(a, b, c, d, channel, C, OPMATH)
    tl.store(y + at, _forward(tl.load(x + at, inside, 0).to(OPMATH), pa, pb, pc, pd, KIND), inside)


@triton.jit
def _adaptive_backward_kernel(
    grad, x, a, b, c, d, grad_x, sums, N, C, S, part, parts, stride_n, stride_c, stride_s,
    KIND: tl.constexpr, OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """grad_x, and the sums [4, N * parts, C] over each part of S."""
    pid = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    k = (pid % parts).to(tl.int64)
    n = (pid // parts // c_blocks).to(tl.int64)
    channel = (pid // parts % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)

    pa, pb, pc, pd = _parameters(a, b, c, d, channel, C, OPMATH)
    sum_a = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    sum_b = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    sum_c = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    sum_d = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    for step in range(0, part, BLOCK_S):
        s = k * part + step + tl.arange(0, BLOCK_S)
        inside = (channel < C)[:, None] & (s < S)[None, :]
        at = n * stride_n + (channel * stride_c)[:, None] + (s * stride_s)[None, :]
        g = tl.load(grad + at, inside, 0).to(OPMATH)
        value, of_a, of_b, of_c, of_d = _backward(g, tl.load(x + at, inside, 0).to(OPMATH), pa, pb, pc, pd, KIND)
        tl.store(grad_x + at, value, inside)
        # Outside the tensor grad is 0, but 0 times an infinite or NaN parameter is not 0.
        sum_a += tl.where(inside, of_a, 0)
        sum_b += tl.where(inside, of_b, 0)
        sum_c += tl.where(inside, of_c, 0)
        sum_d += of_d
    row = n * parts + k
    tl.store(sums + row * C + channel, tl.sum(sum_a, 1), channel < C)
    tl.store(sums + (row + N * parts) * C + channel, tl.sum(sum_b, 1), channel < C)
    tl.store(sums + (row + 2 * N * parts) * C + channel, tl.sum(sum_c, 1), channel < C)
    tl.store(sums + (row + 3 * N * parts) * C + channel, tl.sum(sum_d, 1), channel < C)


def _sizes_and_strides(x: torch.Tensor, a: torch.Tensor) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """N, C, S and their strides, for a dense x that is not empty."""
    if a.numel() == 1:
        return (1, 1, x.numel()), (0, 0, 1)
    channels, inner = x.shape[1], x.stride(1)
    outer = x.numel() // (channels * inner)
    if inner == 1:
        return (1, channels, outer), (0, 1, channels)
    return (outer, channels, inner), (channels * inner, inner, 1)


def _run(kind: str, x: torch.Tensor, parameters: tuple[torch.Tensor, ...]) -> torch.Tensor:
    y = torch.empty_like(x)  # the strides of x if x is dense, else dense ones
    if x.numel() == 0:
        return y
    x = laid_out_like(x, y)
    (n, channels, positions), strides = _sizes_and_strides(x, parameters[0])
    block_c, block_s = tile(channels, positions, strides[1] == 1, widest=1024, size=1024)
    with torch.cuda.device_of(x):
        _adaptive_kernel[(n * triton.cdiv(channels, block_c) * triton.cdiv(positions, block_s),)](
            x, *(t.contiguous() for t in parameters), y, channels, positions, *strides,
            KIND=kind, OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_S=block_s,
        )  # fmt: skip
    return y


def _run_backward(
    kind: str, grad: torch.Tensor, x: torch.Tensor, parameters: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x, *(torch.zeros_like(t) for t in parameters)
    grad, x = laid_out_like(grad, grad_x), laid_out_like(x, grad_x)
    (n, channels, positions), strides = _sizes_and_strides(x, parameters[0])
    block_c, block_s = tile(channels, positions, strides[1] == 1, widest=1024, size=1024)
    programs, blocks = n * triton.cdiv(channels, block_c), triton.cdiv(positions, block_s)
    part = triton.cdiv(blocks, max(1, min(PROGRAMS // programs, blocks // 2))) * block_s
    parts = triton.cdiv(positions, part)
    sums = x.new_empty((4, n * parts, channels), dtype=opmath_dtype(x))
    with torch.cuda.device_of(x):
        _adaptive_backward_kernel[(programs * parts,)](
            grad, x, *(t.contiguous() for t in parameters), grad_x, sums, n, channels, positions, part, parts, *strides,
            KIND=kind, OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_S=block_s,
        )  # fmt: skip
    totals = sums.sum(1)  # [4, C]
    if kind != "relu":
        totals[::2] *= parameters[1].reshape(-1)
    return grad_x, *(
        torch.empty_like(t).copy_(total.view(t.shape)) for t, total in zip(parameters, totals, strict=True)
    )


def _ops(kind: str) -> dict[str, Callable]:
    def forward(x, a, b, c, d):
        return _run(kind, x, (a, b, c, d))

    def backward(grad, x, a, b, c, d):
        return _run_backward(kind, grad, x, (a, b, c, d))

    return {f"adaptive_{kind}": forward, f"adaptive_{kind}_backward": backward}


OPS = _ops("sigmoid") | _ops("tanh") | _ops("relu")
