"""Max pooling and ReLU in one pass, for inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastops.ops._checks import check
from fastops.ops.mish_max_pool2d import _check

_relu_max_pool2d = torch.ops.fastops.relu_max_pool2d.default


def relu_max_pool2d(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Max pooling without padding, then ReLU.

    $$
    y = \\max(0, \\max_{\\text{window}} x)
    $$

    On the CPU in channels_last this runs the loop of [`fastops.mish_max_pool2d`][]. torch's max pooling also writes the
    indices of the maxima, which take twice as many bytes as the result. (Three images 123 x 123 x 96 take 0.8 ms there
    and 0.4 ms here.) Other inputs use torch's max pooling. The op is for inference: it has no gradient.

    Args:
        x: [N, C, H, W], float32, float64, float16 or bfloat16.
        kernel_size, stride: size of the windows and distance between them, in pixels, in both directions.

    Returns:
        [N, C, (H - kernel_size) / stride + 1, (W - kernel_size) / stride + 1] in the memory format of `x`.

    Raises:
        RuntimeError: `relu_max_pool2d: <argument> must ...` for other shapes and dtypes.

    Examples:

        >>> import torch
        >>> from fastops.ops.relu_max_pool2d import relu_max_pool2d
        >>> relu_max_pool2d(torch.arange(-5.0, 4.0).view(1, 1, 3, 3), 3, 2)
        tensor([[[[3.]]]])
    """
    if x.device.type == "cpu" and _is_channels_last(x):
        return _relu_max_pool2d(x, [kernel_size] * 2, [stride] * 2, [0, 0])
    return F.max_pool2d(x, kernel_size, stride).relu_()


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


@torch.library.register_fake("fastops::relu_max_pool2d")
def _(x, kernel_size, stride, padding):
    shape = _check("relu_max_pool2d", x, kernel_size, stride, padding)
    check(_is_channels_last(x), "relu_max_pool2d: x must be channels_last")
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
