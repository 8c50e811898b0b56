"""Batched cross-correlation: public functions, fake kernels, gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops._layout import empty_native, memory_format
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype
from fastops.ops._register import reference_vjp, register_autocast
from fastops.ops._transforms import in_transform

_xcorr = torch.ops.fastops.xcorr.default
_xcorr_backward = torch.ops.fastops.xcorr_backward.default
_xcorr_depthwise = torch.ops.fastops.xcorr_depthwise.default
_xcorr_depthwise_backward = torch.ops.fastops.xcorr_depthwise_backward.default


def xcorr(z: Tensor, x: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    r"""Cross-correlate templates with searches, over all channels, into one score map per pair.

    $$
    y_b(u, v) = \mathrm{scale} \sum_{c,i,j} z_{n(b)}(c, i, j) \, x_{m(b)}(c, u + i, v + j) + \mathrm{bias}
    $$

    Args:
        z: templates [Nz, C, h, w]; float32, float64, float16 or bfloat16 (half types compute in float32).
        x: searches [Nx, C, H, W] with H >= h and W >= w; dtype and device of `z`.
        scale: factor of the sum (SiamFC: 0.001).
        bias: tensor of one element, or None.

    There are B = max(Nz, Nx) pairs. The smaller batch must divide the larger, and each of its items belongs to
    consecutive pairs. With Nx = S Nz, template n goes with searches n S ... n S + S - 1. With Nz = K Nx, search m goes
    with templates m K ... m K + K - 1.

    Returns:
        [B, 1, H - h + 1, W - w + 1], contiguous, dtype of `z`.

    Raises:
        RuntimeError: `xcorr: <argument> must ...` for other shapes, dtypes or devices.

    Under `torch.autocast` inputs are cast to the autocast dtype, as for convolutions.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", 2016, eq. 2.

    Examples:

        >>> import torch, fastops
        >>> z, x = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 5, 5)
        >>> fastops.xcorr(z, x).shape, float(fastops.xcorr(z, x)[0, 0, 0, 0])
        (torch.Size([4, 1, 3, 3]), 18.0)
    """
    if in_transform():
        return reference.xcorr(z, x, scale, bias)
    return _xcorr(z, x, scale, bias)


def xcorr_depthwise(z: Tensor, x: Tensor) -> Tensor:
    r"""Cross-correlate templates with searches, channel by channel.

    $$
    y_b(c, u, v) = \sum_{i,j} z_{n(b)}(c, i, j) \, x_{m(b)}(c, u + i, v + j)
    $$

    Args:
        z: templates [Nz, C, h, w]; float32, float64, float16 or bfloat16 (half types compute in float32).
        x: searches [Nx, C, H, W] with H >= h and W >= w; dtype and device of `z`.

    Batches pair as in [`xcorr`][fastops.xcorr].

    Returns:
        [B, C, H - h + 1, W - w + 1], channels_last if `x` is, else contiguous; dtype of `z`.

    Raises:
        RuntimeError: `xcorr_depthwise: <argument> must ...` for other shapes, dtypes or devices.

    Source: Li et al., "SiamRPN++", 2019, section 3.4.

    Examples:

        >>> import torch, fastops
        >>> fastops.xcorr_depthwise(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 5, 5)).shape
        torch.Size([1, 2, 3, 3])
    """
    if in_transform():
        return reference.xcorr_depthwise(z, x)
    return _xcorr_depthwise(z, x)


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check(op: str, z: Tensor, x: Tensor) -> tuple[int, int, int]:
    """The number of pairs and the output's height and width."""
    check_floating(op, "z", z)
    check(z.dim() == 4, f"{op}: z must be 4-D [N, C, h, w], got {list(z.shape)}")
    check(x.dim() == 4, f"{op}: x must be 4-D [N, C, H, W], got {list(x.shape)}")
    check_same_dtype(op, "x", x, "z", z)
    check_same_device(op, "x", x, "z", z)
    (nz, cz, zh, zw), (nx, cx, xh, xw) = z.shape, x.shape
    check(cx == cz, f"{op}: x must have the channels of z ({cz}), got {cx}")
    check(zh > 0 and zw > 0, f"{op}: z must not have an empty template, got {list(z.shape)}")
    check(xh >= zh and xw >= zw, f"{op}: x must be at least as large as z ({zh} x {zw}), got {xh} x {xw}")
    pairs = 0 if nz == 0 or nx == 0 else max(nz, nx)
    check(
        nz == nx if pairs == 0 else pairs % nz == 0 and pairs % nx == 0,
        f"{op}: x must have a batch that divides, or is divided by, that of z ({nz}), got {nx}",
    )
    return pairs, xh - zh + 1, xw - zw + 1


def _check_forward(z: Tensor, x: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> tuple[int, int, int]:
    sizes = _check("xcorr", z, x)
    if bias is not None:
        check_same_dtype("xcorr", "bias", bias, "x", x)
        check_same_device("xcorr", "bias", bias, "x", x)
        check(bias.numel() == 1, f"xcorr: bias must have one element, got {list(bias.shape)}")
    return sizes


def _check_backward(op: str, grad: Tensor, z: Tensor, x: Tensor, scale: float | None = None) -> None:
    pairs, oh, ow = _check(op, z, x)
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    shape = [pairs, z.shape[1] if "depthwise" in op else 1, oh, ow]
    check(list(grad.shape) == shape, f"{op}: grad must have shape {shape}, got {list(grad.shape)}")


#: The checks of csrc/common/xcorr.h, by schema.
CHECKS = {
    "xcorr": _check_forward,
    "xcorr_backward": partial(_check_backward, "xcorr_backward"),
    "xcorr_depthwise": partial(_check, "xcorr_depthwise"),
    "xcorr_depthwise_backward": partial(_check_backward, "xcorr_depthwise_backward"),
}


@torch.library.register_fake("fastops::xcorr")
def _(z, x, scale=1.0, bias=None):
    pairs, oh, ow = CHECKS["xcorr"](z, x, scale, bias)
    return z.new_empty(pairs, 1, oh, ow)


@torch.library.register_fake("fastops::xcorr_backward")
def _(grad, z, x, scale):
    CHECKS["xcorr_backward"](grad, z, x, scale)
    return empty_native(z), empty_native(x)


@torch.library.register_fake("fastops::xcorr_depthwise")
def _(z, x):
    pairs, oh, ow = CHECKS["xcorr_depthwise"](z, x)
    size = (pairs, z.shape[1], oh, ow)
    return torch.empty(size, dtype=z.dtype, device=z.device, memory_format=memory_format(x))


@torch.library.register_fake("fastops::xcorr_depthwise_backward")
def _(grad, z, x):
    CHECKS["xcorr_depthwise_backward"](grad, z, x)
    return empty_native(z), empty_native(x)


# ---- gradients, autocast, vmap -------------------------------------------------------------------------------


def _setup_context(ctx, inputs, output) -> None:
    z, x, ctx.scale, bias = inputs
    ctx.save_for_backward(z, x, bias)


def _backward(ctx, grad):
    z, x, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.xcorr, (z, x, ctx.scale, bias), grad)
    grad_z, grad_x = _xcorr_backward(grad, z, x, ctx.scale)
    grad_bias = None if bias is None else grad.sum(dtype=_opmath(grad)).to(grad.dtype).expand(bias.shape)
    return grad_z, grad_x, None, grad_bias


def _opmath(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _depthwise_setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _depthwise_backward(ctx, grad):
    z, x = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.xcorr_depthwise, (z, x), grad)
    return _xcorr_depthwise_backward(grad, z, x)


torch.library.register_autograd("fastops::xcorr", _backward, setup_context=_setup_context)
torch.library.register_autograd("fastops::xcorr_depthwise", _depthwise_backward, setup_context=_depthwise_setup_context)
register_autocast("xcorr", "lower")
register_autocast("xcorr_depthwise", "lower")


def _vmap(op: Callable[..., Tensor], batch: int, z: Tensor, z_dim: int | None, x: Tensor, x_dim: int | None) -> Tensor:
    """Fold the mapped dimension into the batches. Items stay consecutive, so the pairs stay the same."""
    z = z.expand(batch, *z.shape) if z_dim is None else z.movedim(z_dim, 0)
    x = x.expand(batch, *x.shape) if x_dim is None else x.movedim(x_dim, 0)
    y = op(z.flatten(0, 1), x.flatten(0, 1))
    return y.unflatten(0, (batch, -1))


@torch.library.register_vmap("fastops::xcorr")
def _(info, in_dims, z, x, scale=1.0, bias=None):
    bias_dim = in_dims[3] if len(in_dims) > 3 else None
    y = _vmap(lambda z, x: _xcorr(z, x, scale, None), info.batch_size, z, in_dims[0], x, in_dims[1])
    if bias is not None:
        bias = bias.movedim(bias_dim, 0).reshape(-1, 1, 1, 1, 1) if bias_dim is not None else bias.reshape(())
        y = y + bias
    return y, 0


@torch.library.register_vmap("fastops::xcorr_depthwise")
def _(info, in_dims, z, x):
    return _vmap(_xcorr_depthwise, info.batch_size, z, in_dims[0], x, in_dims[1]), 0
