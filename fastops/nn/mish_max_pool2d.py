"""Module for max pooling of Mish."""

from __future__ import annotations

from torch import Tensor, nn

from fastops.ops.mish_max_pool2d import mish_max_pool2d


class MishMaxPool2d(nn.Module):
    r"""Mish, then `nn.MaxPool2d`: $y = \max_p f(x_p)$ over windows; see [`fastops.mish_max_pool2d`][].

    Args:
        kernel_size: size of the window in pixels, a number or (height, width), like the other two.
        stride: distance between windows; None means `kernel_size`.
        padding: rows and columns around the input, which are never the maximum.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.MishMaxPool2d(3, 2)(torch.randn(2, 8, 9, 9)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.stride = kernel_size if stride is None else stride

    def forward(self, x: Tensor) -> Tensor:
        return mish_max_pool2d(x, self.kernel_size, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
