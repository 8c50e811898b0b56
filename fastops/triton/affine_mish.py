"""Mish after an affine map or a batch norm of each channel in Triton. csrc/math/affine_mish.h has the derivation.

Tensors [N, C, *spatial] are viewed as [N, C, S] with any strides, so contiguous and channels_last tensors run the same
kernels, with transposed tiles. Sums over N and S are split into fixed parts and added in a fixed order, so results are
deterministic.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from fastops._layout import empty_native

from ._common import opmath, opmath_dtype, tile
from .mish import _backward as mish_backward
from .mish import _forward as mish_forward

PROGRAMS = 512  # sums over S are split until there are this many programs, a few for each SM of a large GPU


@triton.jit
def _coefficient(values, c, inside, OPMATH: tl.constexpr):
    return tl.load(values + c, inside, 0).to(OPMATH)[:, None]


@triton.jit
def _map_kernel(
    grad, x, out, center, scale, shift, slope, offset, C, S,
    g_sn, g_sc, g_ss, x_sn, x_sc, x_ss, o_sn, o_sc, o_ss,
    OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """out = mish(v), v = scale (x - center) + shift. With grad: scale grad mish'(v) + slope (x - center) + offset."""
    pid = tl.program_id(0)
    s_blocks, c_blocks = tl.cdiv(S, BLOCK_S), tl.cdiv(C, BLOCK_C)
    n = (pid // s_blocks // c_blocks).to(tl.int64)
    c = (pid // s_blocks % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = (pid % s_blocks).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = (c < C)[:, None] & (s < S)[None, :]

    value = tl.load(x + n * x_sn + (c * x_sc)[:, None] + (s * x_ss)[None, :], inside, 0).to(OPMATH)
    if center is not None:
        value -= _coefficient(center, c, c < C, OPMATH)
    factor = _coefficient(scale, c, c < C, OPMATH)
    v = value * factor + _coefficient(shift, c, c < C, OPMATH)
    if grad is None:
        result = mish_forward(v)
    else:
        g = tl.load(grad + n * g_sn + (c * g_sc)[:, None] + (s * g_ss)[None, :], inside, 0).to(OPMATH)
        change = _coefficient(slope, c, c < C, OPMATH) * value + _coefficient(offset, c, c < C, OPMATH)
        result = factor * mish_backward(g, v) + change
    tl.store(out + n * o_sn + (c * o_sc)[:, None] + (s * o_ss)[None, :], result, inside)


@triton.jit
def _sums_kernel(
    grad, x, grad_x, center, scale, shift, sum_g, sum_gx, NC, C, S, part, parts,
    g_sn, g_sc, g_ss, x_sn, x_sc, x_ss, o_sn, o_sc, o_ss,
    OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Parts [parts, N, C] of the sums of g' = grad mish'(v) and of g' (x - center); grad_x = scale g' if not None."""
    pid = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    k = (pid % parts).to(tl.int64)
    n = (pid // parts // c_blocks).to(tl.int64)
    c = (pid // parts % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    factor = _coefficient(scale, c, c < C, OPMATH)
    summand = _coefficient(shift, c, c < C, OPMATH)

    total_g = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    total_gx = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    for step in range(0, part, BLOCK_S):
        s = k * part + step + tl.arange(0, BLOCK_S)
        inside = (c < C)[:, None] & (s < S)[None, :]
        value = tl.load(x + n * x_sn + (c * x_sc)[:, None] + (s * x_ss)[None, :], inside, 0).to(OPMATH)
        if center is not None:
            value -= _coefficient(center, c, c < C, OPMATH)
        g = tl.load(grad + n * g_sn + (c * g_sc)[:, None] + (s * g_ss)[None, :], inside, 0).to(OPMATH)
        inner = tl.where(inside, mish_backward(g, value * factor + summand), 0)
        total_g += inner
        total_gx += tl.where(inside, inner * value, 0)
        if grad_x is not None:
            tl.store(grad_x + n * o_sn + (c * o_sc)[:, None] + (s * o_ss)[None, :], factor * inner, inside)
    out = k * NC + n * C + c
    tl.store(sum_g + out, tl.sum(total_g, 1), c < C)
    tl.store(sum_gx + out, tl.sum(total_gx, 1), c < C)


@triton.jit
def _moments_kernel(
    x, means, squares, NC, C, S, part, parts, x_sn, x_sc, x_ss,
    OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Parts [parts, N, C] of the mean, and of the sum of squared differences from the part's mean, in float64."""
    pid = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    k = (pid % parts).to(tl.int64)
    n = (pid // parts // c_blocks).to(tl.int64)
    c = (pid // parts % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean = tl.zeros([BLOCK_C], tl.float64)
    total = tl.zeros([BLOCK_C], tl.float64)
    for step in range(0, part, BLOCK_S):
        s = k * part + step + tl.arange(0, BLOCK_S)
        inside = (c < C)[:, None] & (s < S)[None, :]
        value = tl.load(x + n * x_sn + (c * x_sc)[:, None] + (s * x_ss)[None, :], inside, 0).to(OPMATH)
        # Take the rounded mean of the tile first. Its correction and the squared differences from it are then sums of
        # small numbers, so neither a large mean nor an outlier costs digits.
        count = tl.maximum(tl.minimum(S - k * part - step, BLOCK_S), 0).to(tl.float64)
        each = (1 / tl.maximum(count, 1)).to(OPMATH)
        center = tl.sum(value * each, 1)
        d = tl.where(inside, value - center[:, None], 0)
        rest = tl.sum(d, 1).to(tl.float64) / tl.maximum(count, 1)
        local = tl.sum(d * d, 1).to(tl.float64) - count * rest * rest
        apart = center.to(tl.float64) + rest - mean
        share = count / tl.maximum(step + count, 1)
        total += local + apart * apart * step * share
        mean += apart * share
    out = k * NC + n * C + c
    tl.store(means + out, mean, c < C)
    tl.store(squares + out, total, c < C)


def _as_ncs(x: torch.Tensor) -> torch.Tensor:
    """x as [N, C, S]: a view if the strides allow it, else a copy. Tensors of `empty_native` always give a view."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


def _tile(x: torch.Tensor) -> tuple[int, int]:
    _, channels, positions = x.shape
    return tile(channels, positions, positions == 1 or x.stride(1) < x.stride(2), widest=1024, size=1024)


class _Maps(NamedTuple):
    """The coefficients of each channel, contiguous [C]."""

    center: torch.Tensor | None
    scale: torch.Tensor
    shift: torch.Tensor


def _mapped(
    x: torch.Tensor,
    maps: _Maps,
    grad: torch.Tensor | None = None,
    slope: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
) -> torch.Tensor:
    result = empty_native(x)
    x, out = _as_ncs(x), _as_ncs(result)
    grad = None if grad is None else _as_ncs(grad)
    batch, channels, positions = x.shape
    block_c, block_s = _tile(out)
    grid = (batch * triton.cdiv(channels, block_c) * triton.cdiv(positions, block_s),)
    with torch.cuda.device_of(x):
        _map_kernel[grid](
            grad, x, out, *maps, slope, offset, channels, positions,
            *(x if grad is None else grad).stride(), *x.stride(), *out.stride(),
            OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_S=block_s,
        )  # fmt: skip
    return result


class _Parts:
    """The split of the positions of x [N, C, S] for sums: `parts` parts with `part` positions each."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x
        batch, channels, positions = x.shape
        self.block_c, self.block_s = _tile(x)
        self.programs, blocks = batch * triton.cdiv(channels, self.block_c), triton.cdiv(positions, self.block_s)
        self.part = triton.cdiv(blocks, max(1, min(PROGRAMS // self.programs, blocks // 2))) * self.block_s
        self.parts = triton.cdiv(positions, self.part)

    def empty(self, dtype: torch.dtype) -> torch.Tensor:
        return self.x.new_empty((self.parts, *self.x.shape[:2]), dtype=dtype)


def _sums(
    grad: torch.Tensor, x: torch.Tensor, maps: _Maps, grad_x: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of g' and g' (x - center), [C] in float64. Also fills grad_x, if given."""
    grad, x = _as_ncs(grad), _as_ncs(x)
    out = None if grad_x is None else _as_ncs(grad_x)
    batch, channels, positions = x.shape
    split = _Parts(x)
    sum_g, sum_gx = split.empty(opmath_dtype(x)), split.empty(opmath_dtype(x))
    with torch.cuda.device_of(x):
        _sums_kernel[(split.programs * split.parts,)](
            grad, x, out, *maps, sum_g, sum_gx, batch * channels, channels, positions, split.part, split.parts,
            *grad.stride(), *x.stride(), *(x if out is None else out).stride(),
            OPMATH=opmath(x), BLOCK_C=split.block_c, BLOCK_S=split.block_s,
        )  # fmt: skip
    return sum_g.sum((0, 1), dtype=torch.float64), sum_gx.sum((0, 1), dtype=torch.float64)


def affine_mish(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if x.numel() == 0:
        return empty_native(x)
    return _mapped(x, _Maps(None, weight.contiguous(), bias.contiguous()))


def affine_mish_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_x = empty_native(x)
    if x.numel() == 0:
        return grad_x, weight.new_zeros(weight.shape), bias.new_zeros(bias.shape)
    sum_g, sum_gx = _sums(grad, x, _Maps(None, weight.contiguous(), bias.contiguous()), grad_x)
    return grad_x, sum_gx.to(weight.dtype), sum_g.to(bias.dtype)


def _batch_norm_maps(
    x: torch.Tensor, stats: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> _Maps:
    mean, inverse_std, _ = stats
    scale = inverse_std if weight is None else inverse_std * weight
    center = mean.to(opmath_dtype(x))
    rest = scale * (mean - center)
    shift = -torch.where(rest.isfinite(), rest, 0.0)  # no shift for an infinite weight
    shift = shift if bias is None else shift + bias
    return _Maps(center, scale.to(center.dtype), shift.to(center.dtype))


def batch_norm_mish(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if x.numel() == 0:
        return empty_native(x), x.new_zeros(3, x.shape[1], dtype=torch.float64)
    values = _as_ncs(x)
    batch, channels, positions = values.shape
    split = _Parts(values)
    means, squares = split.empty(torch.float64), split.empty(torch.float64)
    with torch.cuda.device_of(x):
        _moments_kernel[(split.programs * split.parts,)](
            values, means, squares, batch * channels, channels, positions, split.part, split.parts, *values.stride(),
            OPMATH=opmath(x), BLOCK_C=split.block_c, BLOCK_S=split.block_s,
        )  # fmt: skip
    starts = torch.arange(split.parts, device=x.device, dtype=torch.float64) * split.part
    counts = (positions - starts).clamp(max=split.part)[:, None, None]
    total = batch * positions
    mean = (counts * means).sum((0, 1)) / total
    # Rounding may make the variance of a constant channel negative.
    differences = (squares + counts * (means - mean).square()).sum((0, 1)).clamp(min=0)
    stats = torch.stack((mean, torch.rsqrt(differences / total + eps), differences / (total - 1)))
    return _mapped(x, _batch_norm_maps(x, stats, weight, bias)), stats


def batch_norm_mish_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    stats: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    like = next((t for t in (weight, bias) if t is not None), x)
    if x.numel() == 0:
        return empty_native(x), like.new_zeros(x.shape[1]), like.new_zeros(x.shape[1])
    maps = _batch_norm_maps(x, stats, weight, bias)
    sum_g, sum_gx = _sums(grad, x, maps, None)
    mean, inverse_std, _ = stats
    rest, scale = mean - maps.center, inverse_std if weight is None else inverse_std * weight
    count = x.numel() // x.shape[1]
    grad_weight = inverse_std * (sum_gx - rest * sum_g)
    slope = -scale * inverse_std * grad_weight / count
    offset = -scale * sum_g / count - slope * rest
    grad_x = _mapped(x, maps, grad, slope.to(maps.center.dtype), offset.to(maps.center.dtype))
    return grad_x, grad_weight.to(like.dtype), sum_g.to(like.dtype)


OPS = {
    "affine_mish": affine_mish,
    "affine_mish_backward": affine_mish_backward,
    "batch_norm_mish": batch_norm_mish,
    "batch_norm_mish_backward": batch_norm_mish_backward,
}
