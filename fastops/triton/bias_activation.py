"""Bias, activation and max pooling in Triton; the formulas are in csrc/math/activation.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from fastops._layout import memory_format

from ._common import opmath, opmath_dtype
from .mish import _forward as mish_forward
from .mish_max_pool2d import BLOCK, _extremes, _position


@triton.jit
def _kernel(
    x, bias, y, count, C, H, W, OH, OW, sn, sc, sh, sw, sb, KH, KW, SH, SW,
    ACTIVATION: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    low, high, _, _ = _extremes(
        x, at, count, C, H, W, OH, OW, sn, sc, sh, sw, KH, KW, SH, SW, 0, 0, OPMATH, BLOCK, CHANNELS_LAST
    )
    _, c, _, _ = _position(at, C, OH, OW, CHANNELS_LAST)
    b = tl.load(bias + c * sb, at < count, 0).to(OPMATH)
    low, high = low + b, high + b
    if ACTIVATION == "mish":
        of_low, of_high = mish_forward(low), mish_forward(high)
        high = tl.where(of_low > of_high, of_low, of_high)
    elif ACTIVATION == "relu":
        high = tl.where(high < 0, 0.0, high)  # NaN passes
    tl.store(y + at, high, at < count)


def bias_activation(
    x: torch.Tensor, bias: torch.Tensor, activation: str, kernel_size: list[int], stride: list[int], float_output: bool
) -> torch.Tensor:
    batch, channels, height, width = x.shape
    out_height, out_width = (
        (size - k) // s + 1 for size, k, s in zip((height, width), kernel_size, stride, strict=True)
    )
    y = torch.empty(
        (batch, channels, out_height, out_width), dtype=opmath_dtype(x) if float_output else x.dtype, device=x.device,
        memory_format=memory_format(x),
    )  # fmt: skip
    if y.numel() == 0:
        return y
    with torch.cuda.device_of(x):
        _kernel[(triton.cdiv(y.numel(), BLOCK),)](
            x, bias, y, y.numel(), channels, height, width, out_height, out_width, *x.stride(), *bias.stride(),
            *kernel_size, *stride,
            ACTIVATION=activation, OPMATH=opmath(x), BLOCK=BLOCK,
            CHANNELS_LAST=memory_format(y) == torch.channels_last,
        )  # fmt: skip
    return y


OPS = {"bias_activation": bias_activation}
