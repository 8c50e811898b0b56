"""Max pooling of Mish."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ._common import opmath, with_backward
from .mish import mish


def mish_max_pool2d(
    x: torch.Tensor,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] | None = 2,
    padding: int | tuple[int, int] = 0,
) -> torch.Tensor:
    """Largest Mish of each window: F.max_pool2d(F.mish(x), kernel_size, stride, padding).

    The gradient goes to the window's first position with the largest Mish. Half types are compared in float32, before
    rounding.

    Args:
        x: [N, C, H, W] or [C, H, W], any floating dtype.
        kernel_size: size of the window in pixels, a number or (height, width), like the other two.
        stride: distance between windows; None means `kernel_size`.
        padding: rows and columns around x, which are never the maximum.

    Returns:
        [N, C, H', W'], H' = (H + 2 padding - kernel_size) // stride + 1, in the dtype of `x`.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.mish_max_pool2d(torch.arange(9.0).reshape(1, 3, 3)).flatten()
        tensor([8.0000])
    """
    wide = opmath(x)
    planes = mish(wide).reshape(-1, 1, *x.shape[-2:])  # max_pool2d does not accept 0 channels
    y = F.max_pool2d(planes, kernel_size, stride, padding)
    return y.reshape(*x.shape[:-2], *y.shape[-2:]).to(x.dtype)


OPS = with_backward(mish_max_pool2d)
