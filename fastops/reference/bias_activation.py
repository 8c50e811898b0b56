"""Reference implementation of bias_activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ._common import laid_out, native, opmath
from .mish import mish


def bias_activation(
    x: torch.Tensor,
    bias: torch.Tensor,
    activation: str = "none",
    kernel_size: int | Sequence[int] = 1,
    stride: int | Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Bias of each channel, activation, largest value of each window: F.max_pool2d(f(x + bias), kernel_size, stride).

    Half types compute in float32 and are rounded once.

    Args:
        x: [N, C, H, W], any floating dtype.
        bias: [C].
        activation: "none", "relu" or "mish".
        kernel_size: of the window; a number or (height, width).
        stride: from window to window; None is `kernel_size`.
        dtype: of the result; None is that of `x`.

    Returns:
        [N, C, H', W'], H' = (H - kernel_size) // stride + 1.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.bias_activation(torch.ones(1, 2, 1, 1), torch.tensor([0.0, -2.0]), "relu").flatten()
        tensor([1., 0.])
    """
    v = opmath(x) + opmath(bias)[:, None, None]
    v = mish(v) if activation == "mish" else F.relu(v) if activation == "relu" else v
    planes = v.reshape(-1, 1, *v.shape[-2:])  # max_pool2d refuses to have no channels
    y = F.max_pool2d(planes, kernel_size, stride)
    return y.reshape(*x.shape[:-2], *y.shape[-2:]).to(dtype or x.dtype)


def _schema(
    x: torch.Tensor, bias: torch.Tensor, activation: str, kernel_size: list[int], stride: list[int], float_output: bool
) -> torch.Tensor:
    dtype = opmath(x).dtype if float_output else None
    y = bias_activation(x, bias, activation, kernel_size, stride, dtype=dtype)
    return laid_out(y, native(y, x))


OPS = {"bias_activation": _schema}
