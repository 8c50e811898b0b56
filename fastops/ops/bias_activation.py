"""Bias, activation and max pooling after a convolution: public function, fake kernel, gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastops import reference
from fastops._layout import memory_format
from fastops.ops import mish_max_pool2d as pooling
from fastops.ops._checks import check, check_same_device, dtype_name
from fastops.ops._register import reference_vjp, to_front
from fastops.ops._transforms import in_transform

_bias_activation = torch.ops.fastops.bias_activation.default

ACTIVATIONS = ("none", "relu", "mish")


def bias_activation(
    x: Tensor,
    bias: Tensor,
    activation: str = "none",
    kernel_size: int | Sequence[int] = 1,
    stride: int | Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Add a bias to each channel, apply an activation and take the maximum of each window, in one pass.

    $$
    y_{nc} = \max_{p \in \text{window}} f(x_{ncp} + b_c), \quad f(v) = v,\ \max(0, v) \text{ or } v \tanh(\ln(1 + e^v))
    $$

    It is for what follows a convolution without a bias: torch adds the bias, applies the activation, pools and changes
    the dtype in a kernel each. The activation is evaluated once a window, Mish twice.

    Args:
        x: [N, C, H, W], float32, float64, float16 or bfloat16 (half types compute in float32). channels_last runs
            without a copy.
        bias: [C], dtype and device of `x`; beside a half type float32 too.
        activation: "none", "relu" or "mish".
        kernel_size: of the window, a number or (height, width); 1 is no pooling.
        stride: from window to window; None is `kernel_size`.
        dtype: of the result: None or the dtype of `x`, or float32 beside a half type, rounded once either way.

    Returns:
        [N, C, H', W'], H' = (H - kernel_size) // stride + 1, channels_last where `x` is, else contiguous. A window with
        a NaN gives NaN.

    Raises:
        RuntimeError: `bias_activation: <argument> must ...` for other shapes, dtypes, devices or sizes.

    For inference: its gradient is that of the reference implementation, in plain PyTorch. Under `torch.autocast` dtypes
    are kept.

    Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020.

    Examples:

        >>> import torch, fastops
        >>> x = torch.arange(-4.0, 5.0).view(1, 1, 3, 3)
        >>> fastops.bias_activation(x, torch.tensor([0.5]), "relu", 2, 1)
        tensor([[[[0.5000, 1.5000],
                  [3.5000, 4.5000]]]])
    """
    if in_transform():
        return reference.bias_activation(x, bias, activation, kernel_size, stride, dtype=dtype)
    if dtype is not None and dtype != x.dtype:
        half = x.dtype in (torch.float16, torch.bfloat16)
        wanted = f"{dtype_name(x.dtype)}, the dtype of x{', or float32' if half else ''}"
        check(half and dtype == torch.float32, f"bias_activation: dtype must be {wanted}, got {dtype_name(dtype)}")
    kernel_size = pooling._pair(kernel_size)
    stride = kernel_size if stride is None else pooling._pair(stride)
    return _bias_activation(x, bias, activation, kernel_size, stride, dtype not in (None, x.dtype))


# ---- fake kernel and checks ----------------------------------------------------------------------------------


def _check(
    x: Tensor, bias: Tensor, activation: str, kernel_size: list[int], stride: list[int], float_output: bool
) -> tuple[int, ...]:
    """The shape of the result."""
    op = "bias_activation"
    check(x.dim() == 4, f"{op}: x must be [N, C, H, W], got {list(x.shape)}")
    shape = pooling._check(op, x, kernel_size, stride, [0, 0])
    if x.dtype in (torch.float16, torch.bfloat16):
        check(
            bias.dtype in (x.dtype, torch.float32),
            f"{op}: bias must have the dtype of x ({dtype_name(x.dtype)}) or float32, got {dtype_name(bias.dtype)}",
        )
    else:
        check(
            bias.dtype == x.dtype,
            f"{op}: bias must have the dtype of x ({dtype_name(x.dtype)}), got {dtype_name(bias.dtype)}",
        )
    check_same_device(op, "bias", bias, "x", x)
    check(bias.shape == (x.shape[1],), f"{op}: bias must have shape [C] = [{x.shape[1]}], got {list(bias.shape)}")
    check(activation in ACTIVATIONS, f"{op}: activation must be none, relu or mish, got {activation}")
    return shape


#: The checks of csrc/common/bias_activation.h, by schema.
CHECKS = {"bias_activation": _check}


@torch.library.register_fake("fastops::bias_activation")
def _(x, bias, activation, kernel_size, stride, float_output):
    shape = _check(x, bias, activation, kernel_size, stride, float_output)
    dtype = torch.float32 if float_output and x.dtype != torch.float64 else x.dtype
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))


# ---- gradient, vmap ------------------------------------------------------------------------------------------


def _setup_context(ctx, inputs, output) -> None:
    x, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, bias)


def _backward(ctx, grad):
    activation, kernel_size, stride, float_output = ctx.settings
    x, bias = ctx.saved_tensors
    dtype = grad.dtype if float_output else None
    grads = reference_vjp(
        lambda *tensors: reference.bias_activation(*tensors, activation, kernel_size, stride, dtype=dtype),
        (x, bias),
        grad,
    )
    if not torch.is_grad_enabled():  # nothing will differentiate them again
        grads = tuple(None if t is None else t.detach() for t in grads)
    return *grads, None, None, None, None


torch.library.register_autograd("fastops::bias_activation", _backward, setup_context=_setup_context)


@torch.library.register_vmap("fastops::bias_activation")
def _(info, in_dims, x, bias, *settings):
    size = info.batch_size
    x = to_front(x, in_dims[0], size)
    if in_dims[1] is None:
        return _bias_activation(x.flatten(0, 1), bias, *settings).unflatten(0, x.shape[:2]), 0
    channels = x.movedim(0, 1).flatten(1, 2)  # [N, B C, H, W]
    result = _bias_activation(channels, to_front(bias, in_dims[1], size).flatten(), *settings)
    return result.unflatten(1, (size, x.shape[2])), 1
