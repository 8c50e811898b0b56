"""Max pooling of Mish in Triton. csrc/math/mish_max_pool2d.h has the derivation.

The backward has two steps. The first computes the winner of each window and its gradient. In the second, each value of
grad_x adds the gradients of the windows that it won, in a fixed order, so the result is deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastops._layout import empty_native, memory_format

from ._common import opmath, opmath_dtype
from .mish import _backward as mish_backward
from .mish import _forward as mish_forward

BLOCK = 256
NOWHERE = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _position(at, C, H, W, CHANNELS_LAST: tl.constexpr):
    """The indices n, c, row and column of positions in a tensor [N, C, H, W], counted in memory order."""
    if CHANNELS_LAST:
        c, at = at % C, at // C
        column, at = at % W, at // W
        row, n = at % H, at // H
    else:
        column, at = at % W, at // W
        row, at = at % H, at // H
        c, n = at % C, at // C
    return n, c, row, column


@triton.jit
def _extremes(
    x, at, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW,
    OPMATH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Smallest and largest value of each window and their first positions in it; for NaN the last position."""
    n, c, u, v = _position(at, C, OH, OW, CHANNELS_LAST)
    top, left = u * SH - PH, v * SW - PW
    low = tl.full([BLOCK], float("inf"), OPMATH)
    high = tl.full([BLOCK], float("-inf"), OPMATH)
    low_at = tl.full([BLOCK], NOWHERE, tl.int32)
    high_at = tl.full([BLOCK], NOWHERE, tl.int32)
    for i in range(KH):
        for j in range(KW):
            row, column = top + i, left + j
            inside = (at < count) & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            value = tl.load(x + n * sn + c * sc + row * sh + column * sw, inside, 0).to(OPMATH)
            falls = inside & ((value < low) | (value != value) | (low_at == NOWHERE))
            rises = inside & ((value > high) | (value != value) | (high_at == NOWHERE))
            low, low_at = tl.where(falls, value, low), tl.where(falls, i * KW + j, low_at)
            high, high_at = tl.where(rises, value, high), tl.where(rises, i * KW + j, high_at)
    return low, high, low_at, high_at


@triton.jit
def _forward_kernel(
    x, y, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW,
    OPMATH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    low, high, low_at, high_at = _extremes(
        x, at, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW, OPMATH, BLOCK, CHANNELS_LAST
    )
    of_low, of_high = mish_forward(low), mish_forward(high)
    tl.store(y + at, tl.where(of_low > of_high, of_low, of_high), at < count)


@triton.jit
def _winners_kernel(
    grad, x, wins, win_at, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW,
    OPMATH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """grad mish'(winner) and the winner's position in the window. grad, wins and win_at have the result's layout."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    low, high, low_at, high_at = _extremes(
        x, at, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW, OPMATH, BLOCK, CHANNELS_LAST
    )
    of_low, of_high = mish_forward(low), mish_forward(high)
    at_low = (of_low > of_high) | ((of_low == of_high) & (low_at < high_at))
    g = tl.load(grad + at, at < count, 0).to(OPMATH)
    tl.store(wins + at, mish_backward(g, tl.where(at_low, low, high)), at < count)
    tl.store(win_at + at, tl.where(at_low, low_at, high_at), at < count)


@triton.jit
def _gather_kernel(
    wins, win_at, grad_x, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, PH, PW,
    OPMATH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """For every position of grad_x the sum over the windows that it won. The strides are those of wins and win_at."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    n, c, row, column = _position(at, C, H, W, CHANNELS_LAST)
    total = tl.zeros([BLOCK], OPMATH)
    for i in range(tl.cdiv(KH, SH)):  # the most windows that contain a row
        for j in range(tl.cdiv(KW, SW)):
            u, v = (row + PH) // SH - i, (column + PW) // SW - j
            down, right = row + PH - u * SH, column + PW - v * SW  # the position in that window
            inside = (at < count) & (u >= 0) & (u < OH) & (down < KH) & (v >= 0) & (v < OW) & (right < KW)
            window = n * sn + c * sc + u * sh + v * sw
            won = tl.load(win_at + window, inside, NOWHERE) == down * KW + right
            total += tl.where(won, tl.load(wins + window, inside, 0), 0)
    tl.store(grad_x + at, total, at < count)


def _as_nchw(t: torch.Tensor) -> torch.Tensor:
    return t if t.dim() == 4 else t[None]


def _launch(kernel, out: torch.Tensor, tensors: tuple, x: torch.Tensor, y: torch.Tensor, strided, window) -> None:
    """Launch with a thread for each value of `out`. `x` and `y` give the sizes, `strided` the strides."""
    (_, channels, height, width), (_, _, out_height, out_width) = x.shape, y.shape
    with torch.cuda.device_of(x):
        kernel[(triton.cdiv(out.numel(), BLOCK),)](
            *tensors, out.numel(), channels, height, width, out_height, out_width, *strided.stride(),
            *(size for pair in window for size in pair),
            OPMATH=opmath(x), BLOCK=BLOCK, CHANNELS_LAST=memory_format(out) == torch.channels_last,
        )  # fmt: skip


def mish_max_pool2d(x: torch.Tensor, kernel_size: list[int], stride: list[int], padding: list[int]) -> torch.Tensor:
    height, width = (
        (size + 2 * p - k) // s + 1 for size, k, s, p in zip(x.shape[-2:], kernel_size, stride, padding, strict=True)
    )
    y = torch.empty((*x.shape[:-2], height, width), dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    if y.numel():
        x, out = _as_nchw(x), _as_nchw(y)
        _launch(_forward_kernel, out, (x, out), x, out, x, (kernel_size, stride, padding))
    return y


def mish_max_pool2d_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: list[int], stride: list[int], padding: list[int]
) -> torch.Tensor:
    grad_x = empty_native(x)
    if x.numel() == 0:
        return grad_x
    window = kernel_size, stride, padding
    x, grad, out = _as_nchw(x), _as_nchw(grad), _as_nchw(grad_x)
    # These have the layout of the forward pass's result.
    plan = {"device": x.device, "memory_format": memory_format(x)}
    grad = torch.empty(grad.shape, dtype=grad.dtype, **plan).copy_(grad)
    wins = torch.empty(grad.shape, dtype=opmath_dtype(x), **plan)
    win_at = torch.empty(grad.shape, dtype=torch.int32, **plan)
    _launch(_winners_kernel, wins, (grad, x, wins, win_at), x, grad, x, window)
    _launch(_gather_kernel, out, (wins, win_at, out), out, grad, wins, window)
    return grad_x


OPS = {"mish_max_pool2d": mish_max_pool2d, "mish_max_pool2d_backward": mish_max_pool2d_backward}
