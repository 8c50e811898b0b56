"""Max pooling of Mish."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .mish import mish


def mish_max_pool2d(
    x: torch.Tensor,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] | None = 2,
    padding: int | tuple[int, int] = 0,
) -> torch.Tensor:
    """Largest Mish of each window: F.max_pool2d(F.mish(x), kernel_size, stride, padding).

    The gradient goes to the first position of a window with its largest Mish. Half types are compared in float32,
    before rounding.

    Args:
        x: [N, C, H, W] or [C, H, W], any floating dtype.
        kernel_size: of the window; a number or (height, width), as the others.
        stride: from window to window; None is `kernel_size`.
        padding: rows and columns around x that are never chosen.

    Returns:
        [N, C, H', W'], H' = (H + 2 padding - kernel_size) // stride + 1, in the dtype of `x`.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Example:
        >>> import torch
        >>> from fastops import reference
        >>> reference.mish_max_pool2d(torch.arange(9.0).reshape(1, 3, 3)).flatten()
        tensor([8.0000])
    """
    wide = x.float() if torch.finfo(x.dtype).bits < 32 else x
    planes = mish(wide).reshape(-1, 1, *x.shape[-2:])  # max_pool2d refuses to have no channels
    y = F.max_pool2d(planes, kernel_size, stride, padding)
    return y.reshape(*x.shape[:-2], *y.shape[-2:]).to(x.dtype)


def _pooled(x: torch.Tensor, kernel_size: list[int], stride: list[int], padding: list[int]) -> torch.Tensor:
    from fastops.ops._layout import memory_format

    y = mish_max_pool2d(x, kernel_size, stride, padding)
    planned = torch.empty_like(y, memory_format=memory_format(x))
    return y if y.stride() == planned.stride() else planned.copy_(y)


def _pooled_backward(
    grad: torch.Tensor, x: torch.Tensor, kernel_size: list[int], stride: list[int], padding: list[int]
) -> torch.Tensor:
    from fastops.ops._layout import empty_native

    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = mish_max_pool2d(leaf, kernel_size, stride, padding)
    (grad_x,) = torch.autograd.grad(y, leaf, grad)
    return empty_native(x).copy_(grad_x)


OPS = {"mish_max_pool2d": _pooled, "mish_max_pool2d_backward": _pooled_backward}
