"""Squeeze, excitation and scale in Triton.

Tensors [N, C, *spatial] are viewed as [N, C, S] with any strides, so contiguous and channels_last tensors run the same
kernels, with transposed tiles. Sums over S are split into fixed parts and added in a fixed order, so results are
deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastops._layout import empty_native

from ._common import opmath, opmath_dtype, tile

PROGRAMS = 512  # sums over S are split until there are this many programs, a few for each SM of a large GPU


@triton.jit
def _scale_kernel(
    x, logits, shift, y, C, S,
    x_sn, x_sc, x_ss, y_sn, y_sc, y_ss,
    OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """y = x sigmoid(logits) + shift / S; logits and shift (or None) are [N, C]."""
    pid = tl.program_id(0)
    s_blocks, c_blocks = tl.cdiv(S, BLOCK_S), tl.cdiv(C, BLOCK_C)
    n = (pid // s_blocks // c_blocks).to(tl.int64)
    c = (pid // s_blocks % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    s = (pid % s_blocks).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    inside = (c < C)[:, None] & (s < S)[None, :]

    value = tl.load(x + n * x_sn + (c * x_sc)[:, None] + (s * x_ss)[None, :], inside).to(OPMATH)
    value *= tl.sigmoid(tl.load(logits + n * C + c, c < C).to(OPMATH))[:, None]
    if shift is not None:
        value += (tl.load(shift + n * C + c, c < C) / S)[:, None]
    tl.store(y + n * y_sn + (c * y_sc)[:, None] + (s * y_ss)[None, :], value, inside)


@triton.jit
def _sums_kernel(
    x, grad, logits, mean_x, sum_gx, grad_x, NC, C, S, part, parts,
    x_sn, x_sc, x_ss, g_sn, g_sc, g_ss, y_sn, y_sc, y_ss,
    OPMATH: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """One pass over x (and grad) that fills the outputs that are not None.

    They are the parts [parts, N, C] of the mean of x and of the sum of grad x over S, and
    grad_x = grad sigmoid(logits).
    """
    pid = tl.program_id(0)
    c_blocks = tl.cdiv(C, BLOCK_C)
    k = (pid % parts).to(tl.int64)
    n = (pid // parts // c_blocks).to(tl.int64)
    c = (pid // parts % c_blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    out = k * NC + n * C + c

    total_x = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    total_gx = tl.zeros([BLOCK_C, BLOCK_S], OPMATH)
    if grad_x is not None:
        scale = tl.sigmoid(tl.load(logits + n * C + c, c < C).to(OPMATH))[:, None]
    for step in range(0, part, BLOCK_S):
        s = k * part + step + tl.arange(0, BLOCK_S)
        inside = (c < C)[:, None] & (s < S)[None, :]
        v = tl.load(x + n * x_sn + (c * x_sc)[:, None] + (s * x_ss)[None, :], inside, 0).to(OPMATH)
        if mean_x is not None:
            total_x += v
        if grad is not None:
            g = tl.load(grad + n * g_sn + (c * g_sc)[:, None] + (s * g_ss)[None, :], inside, 0).to(OPMATH)
            total_gx += g * v
            if grad_x is not None:
                tl.store(grad_x + n * y_sn + (c * y_sc)[:, None] + (s * y_ss)[None, :], g * scale, inside)
    if mean_x is not None:
        tl.store(mean_x + out, tl.sum(total_x, 1) / S, c < C)
    if grad is not None:
        tl.store(sum_gx + out, tl.sum(total_gx, 1), c < C)


@triton.jit
def _grad_logits_kernel(sum_gx, logits, out, NC, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """out = sum_gx sigmoid'(logits); all [N, C]."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < NC
    logit = tl.load(logits + at, inside).to(OPMATH)
    # sigmoid(-l), not 1 - sigmoid(l), which cancels for large l
    grad = tl.load(sum_gx + at, inside) * tl.sigmoid(logit) * tl.sigmoid(-logit)
    tl.store(out + at, grad, inside)


@triton.jit
def _product_kernel(
    a, b, bias, gate, out, K, J,
    a_sm, a_sj, b_sk, b_sj,
    RELU: tl.constexpr, OPMATH: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """out[m, k] = sum_j a[m, j] b[k, j] + bias[k], then relu, or 0 where gate[m, k] <= 0: the excitation's products.

    They are too small for tl.dot to be faster, and neither TF32 nor autocast can change this kernel's precision.
    """
    k_blocks = tl.cdiv(K, BLOCK_K)
    m = (tl.program_id(0) // k_blocks).to(tl.int64)
    k = (tl.program_id(0) % k_blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_K, BLOCK_J], OPMATH)
    for start in range(0, J, BLOCK_J):
        j = (start + tl.arange(0, BLOCK_J)).to(tl.int64)
        inside = (k < K)[:, None] & (j < J)[None, :]
        b_tile = tl.load(b + (k * b_sk)[:, None] + (j * b_sj)[None, :], inside, 0).to(OPMATH)
        total += b_tile * tl.load(a + m * a_sm + j * a_sj, j < J, 0).to(OPMATH)[None, :]
    value = tl.sum(total, 1)
    if bias is not None:
        value += tl.load(bias + k, k < K).to(OPMATH)
    if RELU:
        value = tl.where(value < 0, 0, value)  # NaN stays NaN
    if gate is not None:
        value = tl.where(tl.load(gate + m * K + k, k < K) <= 0, 0, value)
    tl.store(out + m * K + k, value, k < K)


def _as_ncs(x: torch.Tensor) -> torch.Tensor:
    """x as [N, C, S]: a view if the strides allow it, else a copy. Tensors of `empty_native` always give a view."""
    return x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)


def _tile(x: torch.Tensor) -> tuple[int, int]:
    _, channels, positions = x.shape
    return tile(channels, positions, positions == 1 or x.stride(1) < x.stride(2), widest=1024, size=1024)


def _scaled(
    x: torch.Tensor, logits: torch.Tensor, like: torch.Tensor, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """x sigmoid(logits) + shift / S in the memory format of `like`."""
    y = empty_native(like)
    x, out = _as_ncs(x), _as_ncs(y)
    batch, channels, positions = x.shape
    block_c, block_s = _tile(out)
    grid = (batch * triton.cdiv(channels, block_c) * triton.cdiv(positions, block_s),)
    with torch.cuda.device_of(x):
        _scale_kernel[grid](
            x, logits.contiguous(), shift, out, channels, positions, *x.stride(), *out.stride(),
            OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_S=block_s,
        )  # fmt: skip
    return y


def _sums(
    x: torch.Tensor,
    grad: torch.Tensor | None = None,
    logits: torch.Tensor | None = None,
    grad_x: torch.Tensor | None = None,
    mean: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The mean of x (if requested) and the sum of grad x (if given), [N, C] in opmath. Also fills grad_x, if given."""
    batch, channels, positions = x.shape
    block_c, block_s = _tile(x)
    programs, blocks = batch * triton.cdiv(channels, block_c), triton.cdiv(positions, block_s)
    part = triton.cdiv(blocks, max(1, min(PROGRAMS // programs, blocks // 2))) * block_s
    parts = triton.cdiv(positions, part)

    def partial(wanted: bool) -> torch.Tensor | None:
        return x.new_empty((parts, batch, channels), dtype=opmath_dtype(x)) if wanted else None

    mean_x, sum_gx = partial(mean), partial(grad is not None)
    with torch.cuda.device_of(x):
        _sums_kernel[(programs * parts,)](
            x, grad, logits, mean_x, sum_gx, grad_x, batch * channels, channels, positions, part, parts,
            *x.stride(), *(x if grad is None else grad).stride(), *(x if grad_x is None else grad_x).stride(),
            OPMATH=opmath(x), BLOCK_C=block_c, BLOCK_S=block_s,
        )  # fmt: skip
    return tuple(t if t is None else t[0] if parts == 1 else t.sum(0) for t in (mean_x, sum_gx))


def _grad_logits(sum_gx: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(sum_gx):
        _grad_logits_kernel[(triton.cdiv(sum_gx.numel(), 256),)](
            sum_gx, logits.contiguous(), grad_logits, sum_gx.numel(), OPMATH=opmath(sum_gx), BLOCK=256
        )
    return grad_logits


def _product(
    a: torch.Tensor,
    b: torch.Tensor,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    """a [M, J] times the transpose of b [K, J], with the kernel's epilogues: [M, K] in `dtype`."""
    (m, j), k = a.shape, len(b)
    out = a.new_empty((m, k), dtype=dtype)
    block_k, block_j = tile(k, j, b.stride(0) < b.stride(1), widest=128, size=2048)
    with torch.cuda.device_of(a):
        _product_kernel[(m * triton.cdiv(k, block_k),)](
            a, b, None if bias is None else bias.contiguous(), gate, out, k, j, *a.stride(), *b.stride(),
            RELU=relu, OPMATH=opmath(a), BLOCK_K=block_k, BLOCK_J=block_j,
        )  # fmt: skip
    return out


def se_scale(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return _scaled(x, logits, like=x) if x.numel() else empty_native(x)


def se_scale_backward(grad: torch.Tensor, x: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if x.numel() == 0:
        return empty_native(x), torch.zeros_like(logits, memory_format=torch.contiguous_format)
    grad_x = empty_native(x)
    _, sum_gx = _sums(_as_ncs(x), _as_ncs(grad), logits.contiguous(), _as_ncs(grad_x))
    return grad_x, _grad_logits(sum_gx, logits)


def _excitation(
    z: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor | None, w2: torch.Tensor, b2: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden layer [N, R] and the logits [N, C] from the means z [N, C]."""
    hidden = _product(z, w1, z.dtype, bias=b1, relu=True)
    return hidden, _product(hidden, w2, z.dtype, bias=b2)


def se_attention(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor | None, w2: torch.Tensor, b2: torch.Tensor | None
) -> torch.Tensor:
    if x.numel() == 0:
        return empty_native(x)
    z, _ = _sums(_as_ncs(x), mean=True)
    _, logits = _excitation(z, w1, b1, w2, b2)
    return _scaled(x, logits, like=x)


def se_attention_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    if x.numel() == 0:
        grad_w1, grad_b1 = w1.new_zeros(w1.shape), w1.new_zeros(len(w1))
        grad_w2, grad_b2 = w2.new_zeros(w2.shape), w2.new_zeros(len(w2))
        return empty_native(x), grad_w1, grad_b1, grad_w2, grad_b2
    z, sum_gx = _sums(_as_ncs(x), _as_ncs(grad), mean=True)
    hidden, logits = _excitation(z, w1, b1, w2, b2)
    grad_logits = _grad_logits(sum_gx, logits)  # [N, C]
    grad_hidden = _product(grad_logits, w2.t(), z.dtype, gate=hidden)  # [N, R], before the relu
    grad_z = _product(grad_hidden, w1.t(), z.dtype)  # [N, C]
    grad_x = _scaled(grad, logits, like=x, shift=grad_z)
    return (
        grad_x,
        _product(grad_hidden.t(), z.t(), w1.dtype),
        grad_hidden.sum(0).to(w1.dtype),
        _product(grad_logits.t(), hidden.t(), w2.dtype),
        grad_logits.sum(0).to(w2.dtype),
    )


OPS = {
    "se_scale": se_scale,
    "se_scale_backward": se_scale_backward,
    "se_attention": se_attention,
    "se_attention_backward": se_attention_backward,
}
