"""Batched cross-correlation in Triton.

There are B = max(Nz, Nx) pairs. Pair b has template b // z_share and search b // x_share. Strides are arguments, so any
layout runs without a copy. For the gradients, each program computes its outputs from all pairs that contribute to them.
So there are no atomics, and the order of every sum is fixed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastops._layout import empty_native, memory_format

from ._common import opmath, opmath_dtype, tile


@triton.jit
def _block(pid, blocks, BLOCK: tl.constexpr):
    """The indices of block pid % blocks, and the rest of pid."""
    return pid % blocks * BLOCK + tl.arange(0, BLOCK), pid // blocks


@triton.jit
def _correlate_kernel(
    z, x, out, C, h, w, OW, P, z_share, x_share,
    z_sn, z_sc, z_sh, z_sw, x_sn, x_sc, x_sh, x_sw, y_sn, y_sc, y_sp,
    DEPTHWISE: tl.constexpr, OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """out is [B, C, P] if depthwise, else [B, C blocks, P], the sums over each block of channels."""
    p, rest = _block(tl.program_id(0), tl.cdiv(P, BLOCK_P), BLOCK_P)
    c_blocks = tl.cdiv(C, BLOCK_C)
    c, pair = _block(rest, c_blocks, BLOCK_C)
    c, pair = c.to(tl.int64), pair.to(tl.int64)
    inside = (c < C)[:, None] & (p < P)[None, :]

    z_at = z + pair // z_share * z_sn + c * z_sc
    position = (p // OW).to(tl.int64) * x_sh + (p % OW).to(tl.int64) * x_sw
    x_at = x + pair // x_share * x_sn + (c * x_sc)[:, None] + position[None, :]
    total = tl.zeros([BLOCK_C, BLOCK_P], OPMATH)
    for i in range(h):
        for j in range(w):
            tap = tl.load(z_at + i * z_sh + j * z_sw, c < C, 0).to(OPMATH)
            total += tap[:, None] * tl.load(x_at + i * x_sh + j * x_sw, inside, 0).to(OPMATH)
    y_at = out + pair * y_sn + p.to(tl.int64) * y_sp
    if DEPTHWISE:
        tl.store(y_at[None, :] + (c * y_sc)[:, None], total, inside)
    else:
        tl.store(y_at + (rest % c_blocks).to(tl.int64) * y_sc, tl.sum(total, 0), p < P)


@triton.jit
def _finish_kernel(partial, bias, out, n, parts, scale: tl.float64, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """out [n] = scale times the sum of partial [parts, n] over its parts, plus bias."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], OPMATH)
    for _ in range(parts):
        total += tl.load(partial + at, at < n, 0)
        partial += n
    total *= tl.full([], scale, OPMATH)
    if bias is not None:
        total += tl.load(bias).to(OPMATH)
    tl.store(out + at, total, at < n)


@triton.jit
def _grad_x_kernel(
    grad, z, grad_x, C, h, w, OH, OW, H, W, z_share, x_share, scale: tl.float64,
    g_sn, g_sc, g_sh, g_sw, z_sn, z_sc, z_sh, z_sw, y_sn, y_sc, y_sh, y_sw,
    DEPTHWISE: tl.constexpr, OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """grad_x[n, c, y, x] = scale sum z[c, i, j] grad[y-i, x-j], over the pairs of image n and the taps i, j."""
    p, rest = _block(tl.program_id(0), tl.cdiv(H * W, BLOCK_P), BLOCK_P)
    c, n = _block(rest, tl.cdiv(C, BLOCK_C), BLOCK_C)
    c, n = c.to(tl.int64), n.to(tl.int64)
    row, column = p // W, p % W

    total = tl.zeros([BLOCK_C, BLOCK_P], OPMATH)
    for pair in range(n * x_share, (n + 1) * x_share):
        z_at = z + pair // z_share * z_sn + c * z_sc
        for i in range(h):
            for j in range(w):
                r, q = row - i, column - j
                inside = ((p < H * W) & (r >= 0) & (r < OH) & (q >= 0) & (q < OW))[None, :]
                g_at = grad + pair * g_sn + (r.to(tl.int64) * g_sh + q.to(tl.int64) * g_sw)[None, :]
                if DEPTHWISE:
                    g = tl.load(g_at + (c * g_sc)[:, None], inside & (c < C)[:, None], 0)
                else:
                    g = tl.load(g_at, inside, 0)
                tap = tl.load(z_at + i * z_sh + j * z_sw, c < C, 0).to(OPMATH)
                total += tap[:, None] * g.to(OPMATH)
    y_at = grad_x + n * y_sn + (c * y_sc)[:, None] + (row.to(tl.int64) * y_sh + column.to(tl.int64) * y_sw)[None, :]
    tl.store(y_at, total * tl.full([], scale, OPMATH), (c < C)[:, None] & (p < H * W)[None, :])


@triton.jit
def _grad_z_kernel(
    grad, x, grad_z, C, h, w, OW, P, z_share, x_share, scale: tl.float64,
    g_sn, g_sc, g_sh, g_sw, x_sn, x_sc, x_sh, x_sw, y_sn, y_sc, y_sh, y_sw,
    DEPTHWISE: tl.constexpr, OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """grad_z[m, c, i, j] = scale sum grad[p, q] x[c, p+i, q+j], over the pairs of template m and the positions p, q.

    There is one program for each tap and block of channels.
    """
    tap, rest = tl.program_id(0) % (h * w), tl.program_id(0) // (h * w)
    c, m = _block(rest, tl.cdiv(C, BLOCK_C), BLOCK_C)
    c, m = c.to(tl.int64), m.to(tl.int64)
    i, j = (tap // w).to(tl.int64), (tap % w).to(tl.int64)

    total = tl.zeros([BLOCK_C, BLOCK_P], OPMATH)
    for pair in range(m * z_share, (m + 1) * z_share):
        x_at = x + pair // x_share * x_sn + (c * x_sc)[:, None] + i * x_sh + j * x_sw
        for start in range(0, P, BLOCK_P):
            p = start + tl.arange(0, BLOCK_P)
            row, column = (p // OW).to(tl.int64), (p % OW).to(tl.int64)
            inside = (c < C)[:, None] & (p < P)[None, :]
            g_at = grad + pair * g_sn + (row * g_sh + column * g_sw)[None, :]
            if DEPTHWISE:
                g = tl.load(g_at + (c * g_sc)[:, None], inside, 0)
            else:
                g = tl.load(g_at, (p < P)[None, :], 0)
            total += g.to(OPMATH) * tl.load(x_at + (row * x_sh + column * x_sw)[None, :], inside, 0).to(OPMATH)
    y_at = grad_z + m * y_sn + c * y_sc + i * y_sh + j * y_sw
    tl.store(y_at, tl.sum(total, 1) * tl.full([], scale, OPMATH), c < C)


def _shares(z: torch.Tensor, x: torch.Tensor) -> tuple[int, int, int]:
    """The number of pairs B, and the numbers of pairs that share a template and that share a search."""
    pairs = max(len(z), len(x))
    return pairs, pairs // max(len(z), 1), pairs // max(len(x), 1)


def _tile(t: torch.Tensor, positions: int) -> tuple[int, int]:
    return tile(t.shape[1], positions, t.stride(1) < t.stride(3), widest=128, size=2048)


def _correlate(z: torch.Tensor, x: torch.Tensor, depthwise: bool) -> torch.Tensor:
    """[B, C, OH, OW] in the dtype and memory format of x if depthwise.

    Else [C blocks, B, 1, OH, OW] in opmath, which the caller sums.
    """
    pairs, z_share, x_share = _shares(z, x)
    _, channels, h, w = z.shape
    out_h, out_w = x.shape[2] - h + 1, x.shape[3] - w + 1
    block_c, block_p = _tile(x, out_h * out_w)
    c_blocks = triton.cdiv(channels, block_c)
    if depthwise:
        size = (pairs, channels, out_h, out_w)
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
        y = out
    else:
        out = x.new_empty((c_blocks, pairs, 1, out_h, out_w), dtype=opmath_dtype(x))
        y = out.squeeze(2).transpose(0, 1)  # [B, C blocks, OH, OW]
    if out.numel():
        with torch.cuda.device_of(x):
            _correlate_kernel[(pairs * c_blocks * triton.cdiv(out_h * out_w, block_p),)](
                z, x, out, channels, h, w, out_w, out_h * out_w, z_share, x_share,
                *z.stride(), *x.stride(), y.stride(0), y.stride(1), y.stride(3),  # one stride for rows and columns
                DEPTHWISE=depthwise, OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_P=block_p,
            )  # fmt: skip
    return out


def _backward(
    grad: torch.Tensor, z: torch.Tensor, x: torch.Tensor, scale: float, depthwise: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_z, grad_x = empty_native(z), empty_native(x)
    if grad.numel() == 0:
        return grad_z.zero_(), grad_x.zero_()
    _, z_share, x_share = _shares(z, x)
    templates, channels, h, w = z.shape
    images, _, height, width = x.shape
    out_h, out_w = grad.shape[2:]
    with torch.cuda.device_of(x):
        block_c, block_p = _tile(grad_x, height * width)
        _grad_x_kernel[(images * triton.cdiv(channels, block_c) * triton.cdiv(height * width, block_p),)](
            grad, z, grad_x, channels, h, w, out_h, out_w, height, width, z_share, x_share, scale,
            *grad.stride(), *z.stride(), *grad_x.stride(),
            DEPTHWISE=depthwise, OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_P=block_p,
        )  # fmt: skip
        block_c, block_p = _tile(x, out_h * out_w)
        _grad_z_kernel[(templates * triton.cdiv(channels, block_c) * h * w,)](
            grad, x, grad_z, channels, h, w, out_w, out_h * out_w, z_share, x_share, scale,
            *grad.stride(), *x.stride(), *grad_z.stride(),
            DEPTHWISE=depthwise, OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_P=block_p,
        )  # fmt: skip
    return grad_z, grad_x


def xcorr(z: torch.Tensor, x: torch.Tensor, scale: float = 1.0, bias: torch.Tensor | None = None) -> torch.Tensor:
    partial = _correlate(z, x, depthwise=False)
    out = x.new_empty(partial.shape[1:])
    if out.numel():
        with torch.cuda.device_of(x):
            _finish_kernel[(triton.cdiv(out.numel(), 256),)](
                partial, bias, out, out.numel(), len(partial), scale, OPMATH=opmath(x), BLOCK=256
            )
    return out


def xcorr_backward(
    grad: torch.Tensor, z: torch.Tensor, x: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return _backward(grad, z, x, scale, depthwise=False)


def xcorr_depthwise(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return _correlate(z, x, depthwise=True)


def xcorr_depthwise_backward(grad: torch.Tensor, z: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _backward(grad, z, x, 1.0, depthwise=True)


OPS = {
    "xcorr": xcorr,
    "xcorr_backward": xcorr_backward,
    "xcorr_depthwise": xcorr_depthwise,
    "xcorr_depthwise_backward": xcorr_depthwise_backward,
}
