"""Convolution in 8-bit integers, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def quantized_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    input_zero_point: int = 0,
    output_zero_point: int = 0,
    table: Tensor | None = None,
    pool: tuple[int, int] = (1, 1),
    float_output: bool = False,
) -> Tensor:
    """Define `fastops.ops.quantized_conv.quantized_conv2d`: sums in int32, and one rounding at each step.

    Args:
        x: uint8 [N, I, H, W].
        weight: int8 [O, I / groups, kernel height, kernel width].
        scale, bias, and the rest: as in the op.

    Returns:
        uint8, or float32 with `float_output`, [N, O, H', W'].

    Example:
        >>> x = torch.full((1, 2, 3, 3), 255, dtype=torch.uint8)
        >>> weight = torch.full((1, 2, 3, 3), -2, dtype=torch.int8)
        >>> scale, bias = torch.tensor([0.5]), torch.tensor([10], dtype=torch.int32)
        >>> quantized_conv2d(x, weight, scale, bias, float_output=True).item()  # (10 - 18 * 510) / 2
        -4585.0
    """
    sums = _sums(x, weight, stride, padding, groups, input_zero_point)
    values = (sums + bias[:, None, None]).to(torch.float32) * scale[:, None, None]
    if float_output:
        return values
    levels = (values.round() + output_zero_point).clamp(0, 255).to(torch.uint8)
    if table is not None:
        levels = table[levels.long()]
    size, step = pool
    windows = levels.unfold(2, size, step).unfold(3, size, step)  # [N, O, H', W', size, size]
    return windows.amax(dim=(4, 5))


def _sums(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], groups: int, zero: int
) -> Tensor:
    """int32 [N, O, H', W']."""
    rows, columns = padding
    padded = F.pad(x.to(torch.int32), (columns, columns, rows, rows), value=zero)
    height, width = weight.shape[2:]
    patches = padded.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # [N, I, H', W', kh, kw]
    n, _, out_height, out_width = patches.shape[:4]
    patches = (
        patches.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
    )  # [N, g, H'W', K]
    kernels = weight.to(torch.int32).unflatten(0, (groups, -1)).flatten(2).transpose(1, 2)  # [g, K, O / g]
    return (patches @ kernels).transpose(2, 3).reshape(n, len(weight), out_height, out_width)
