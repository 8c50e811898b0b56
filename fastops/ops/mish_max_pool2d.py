"""Max pooling of Mish: public function, fake kernels, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops._layout import empty_native, memory_format
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype
from fastops.ops._register import reference_vjp
from fastops.ops._transforms import in_transform

_mish_max_pool2d = torch.ops.fastops.mish_max_pool2d.default
_mish_max_pool2d_backward = torch.ops.fastops.mish_max_pool2d_backward.default


def mish_max_pool2d(
    x: Tensor,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] | None = 2,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    r"""Mish, then the maximum of each window: `F.max_pool2d(F.mish(x), ...)` with two evaluations of Mish per window.

    $$
    y = \max_p f(x_p) = \max(f(\min_p x_p), f(\max_p x_p)), \quad f(v) = v \tanh(\ln(1 + e^v))
    $$

    The second form holds because $f$ falls up to -1.1924606 and rises from there on.

    Args:
        x: [N, C, H, W] or [C, H, W], float32, float64, float16 or bfloat16 (half types compute in float32).
        kernel_size: size of the window in pixels, a number or (height, width), like the other two.
        stride: distance between windows; None means `kernel_size`.
        padding: rows and columns around `x`, which are never the maximum; at most half of `kernel_size`.

    Returns:
        [N, C, H', W'] or [C, H', W'], H' = (H + 2 padding - kernel_size) // stride + 1, in the dtype of `x`;
        channels_last if `x` is, else contiguous. A window with a NaN gives NaN.

    Raises:
        RuntimeError: `mish_max_pool2d: <argument> must ...` for other shapes, dtypes, devices or sizes.

    The gradient goes to the window's first position (in row-major order) with the largest Mish. Only `x` is saved. Mish
    is compared before it is rounded to a half type. Eager PyTorch compares rounded values, so where they are equal its
    gradient may go to a different position. Under `torch.autocast` dtypes are kept.

    Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020.

    Examples:

        >>> import torch, fastops
        >>> fastops.mish_max_pool2d(torch.arange(25.0).reshape(1, 1, 5, 5))
        tensor([[[[12., 14.],
                  [22., 24.]]]])
    """
    if in_transform():
        return reference.mish_max_pool2d(x, kernel_size, stride, padding)
    kernel_size = _pair(kernel_size)
    return _mish_max_pool2d(x, kernel_size, kernel_size if stride is None else _pair(stride), _pair(padding))


def _pair(value: int | Sequence[int]) -> list[int]:
    """(height, width). A single number, alone or in a sequence, stands for both, as in torch."""
    if isinstance(value, int):
        return [value, value]
    return list(value) * 2 if len(value) == 1 else list(value)


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check(op: str, x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int]) -> tuple[int, ...]:
    """The shape of the result."""
    check_floating(op, "x", x)
    check(x.dim() in (3, 4), f"{op}: x must be [N, C, H, W] or [C, H, W], got {list(x.shape)}")
    two = "must be two numbers of at least 1"
    check(len(kernel_size) == 2 and min(kernel_size) >= 1, f"{op}: kernel_size {two}, got {list(kernel_size)}")
    (kh, kw), (height, width) = kernel_size, x.shape[-2:]
    check(kh < 2**30 // kw, f"{op}: kernel_size must have fewer than 2^30 values, got {list(kernel_size)}")
    check(len(stride) == 2 and min(stride) >= 1, f"{op}: stride {two}, got {list(stride)}")
    check(
        len(padding) == 2 and 0 <= padding[0] <= kh // 2 and 0 <= padding[1] <= kw // 2,
        f"{op}: padding must be two numbers from 0 to half of kernel_size, got {list(padding)}",
    )
    rest_h, rest_w = height + 2 * padding[0] - kh, width + 2 * padding[1] - kw
    check(
        height > 0 and width > 0 and rest_h >= 0 and rest_w >= 0,
        f"{op}: x must hold a window of {kh} x {kw} with its padding, got {list(x.shape)}",
    )
    return *x.shape[:-2], rest_h // stride[0] + 1, rest_w // stride[1] + 1


def _check_backward(grad: Tensor, x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int]) -> None:
    op = "mish_max_pool2d_backward"
    shape = _check(op, x, kernel_size, stride, padding)
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check(grad.shape == shape, f"{op}: grad must have shape {list(shape)}, got {list(grad.shape)}")


#: The checks of csrc/common/mish_max_pool2d.h, by schema.
CHECKS = {"mish_max_pool2d": partial(_check, "mish_max_pool2d"), "mish_max_pool2d_backward": _check_backward}


@torch.library.register_fake("fastops::mish_max_pool2d")
def _(x, kernel_size, stride, padding):
    shape = CHECKS["mish_max_pool2d"](x, kernel_size, stride, padding)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


@torch.library.register_fake("fastops::mish_max_pool2d_backward")
def _(grad, x, kernel_size, stride, padding):
    CHECKS["mish_max_pool2d_backward"](grad, x, kernel_size, stride, padding)
    return empty_native(x)


# ---- gradient, vmap ------------------------------------------------------------------------------------------


def _setup_context(ctx, inputs, output) -> None:
    x, *ctx.window = inputs
    ctx.save_for_backward(x)


def _backward(ctx, grad):
    (x,) = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.mish_max_pool2d, (x, *ctx.window), grad)
    return _mish_max_pool2d_backward(grad, x, *ctx.window), None, None, None


torch.library.register_autograd("fastops::mish_max_pool2d", _backward, setup_context=_setup_context)


@torch.library.register_vmap("fastops::mish_max_pool2d")
def _(info, in_dims, x, kernel_size, stride, padding):
    x = x.movedim(in_dims[0], 0)
    if x.dim() == 4:  # of items [C, H, W]
        return _mish_max_pool2d(x, kernel_size, stride, padding), 0
    return _mish_max_pool2d(x.flatten(0, 1), kernel_size, stride, padding).unflatten(0, x.shape[:2]), 0
