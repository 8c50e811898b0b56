"""Batched cross-correlation: public functions, fake kernels, gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype
from fastops.ops._layout import empty_native, memory_format
from fastops.ops._register import reference_vjp, register_autocast

_xcorr = torch.ops.fastops.xcorr.default
_xcorr_backward = torch.ops.fastops.xcorr_backward.default
_xcorr_depthwise = torch.ops.fastops.xcorr_depthwise.default
_xcorr_depthwise_backward = torch.ops.fastops.xcorr_depthwise_backward.default


def xcorr(z: Tensor, x: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
    r"""Cross-correlate templates with searches, over all channels, into one score map per pair.

    .. math:: y_b(u, v) = \mathrm{scale} \sum_{c,i,j} z_{n(b)}(c, i, j) \, x_{m(b)}(c, u + i, v + j) + \mathrm{bias}

    Args:
        z: templates [Nz, C, h, w]; float32, float64, float16 or bfloat16 (half types compute in float32).
        x: searches [Nx, C, H, W] with H >= h and W >= w; dtype and device of ``z``.
        scale: factor of the sum (SiamFC: 0.001).
        bias: tensor of one element, or None.

    There are B = max(Nz, Nx) pairs; the smaller batch must divide the larger, and each of its items belongs to
    consecutive pairs: with Nx = S Nz, searches n S ... n S + S - 1 go with template n; with Nz = K Nx, templates
    m K ... m K + K - 1 go with search m.

    Returns:
        [B, 1, H - h + 1, W - w + 1], contiguous, dtype of ``z``.

    Raises:
        RuntimeError: ``xcorr: <argument> must ...`` for other shapes, dtypes or devices.

    Under ``torch.autocast`` inputs are cast to its dtype, as for convolutions.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", 2016, eq. 2.

    Example::

        >>> import torch, fastops
        >>> z, x = torch.ones(1, 2, 3, 3), torch.ones(4, 2, 5, 5)
        >>> fastops.xcorr(z, x).shape, float(fastops.xcorr(z, x)[0, 0, 0, 0])
        (torch.Size([4, 1, 3, 3]), 18.0)
    """
    return _xcorr(z, x, scale, bias)


def xcorr_depthwise(z: Tensor, x: Tensor) -> Tensor:
    r"""Cross-correlate templates with searches, channel by channel.

    .. math:: y_b(c, u, v) = \sum_{i,j} z_{n(b)}(c, i, j) \, x_{m(b)}(c, u + i, v + j)

    Args:
        z: templates [Nz, C, h, w]; float32, float64, float16 or bfloat16 (half types compute in float32).
        x: searches [Nx, C, H, W] with H >= h and W >= w; dtype and device of ``z``.

    Batches pair as in :func:`xcorr`.

    Returns:
        [B, C, H - h + 1, W - w + 1], channels_last where ``x`` is, else contiguous; dtype of ``z``.

    Raises:
        RuntimeError: ``xcorr_depthwise: <argument> must ...`` for other shapes, dtypes or devices.

    Source: Li et al., "SiamRPN++", 2019, section 3.4.

    Example::

        >>> import torch, fastops
        >>> fastops.xcorr_depthwise(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 5, 5)).shape
        torch.Size([1, 2, 3, 3])
    """
    return _xcorr_depthwise(z, x)


# ---- fake kernels: shapes, dtypes and the checks of csrc/common/xcorr.h -------------------------------------


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


def _check_grad(op: str, grad: Tensor, x: Tensor, shape: list[int]) -> None:
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check(list(grad.shape) == shape, f"{op}: grad must have shape {shape}, got {list(grad.shape)}")


@torch.library.register_fake("fastops::xcorr")
def _(z, x, scale=1.0, bias=None):
    pairs, oh, ow = _check("xcorr", z, x)
    if bias is not None:
        check_same_dtype("xcorr", "bias", bias, "x", x)
        check_same_device("xcorr", "bias", bias, "x", x)
        check(bias.numel() == 1, f"xcorr: bias must have one element, got {list(bias.shape)}")
    return z.new_empty(pairs, 1, oh, ow)


@torch.library.register_fake("fastops::xcorr_backward")
def _(grad, z, x, scale):
    pairs, oh, ow = _check("xcorr_backward", z, x)
    _check_grad("xcorr_backward", grad, x, [pairs, 1, oh, ow])
    return empty_native(z), empty_native(x)


@torch.library.register_fake("fastops::xcorr_depthwise")
def _(z, x):
    pairs, oh, ow = _check("xcorr_depthwise", z, x)
    return torch.empty(
        pairs, z.shape[1], oh, ow, dtype=z.dtype, device=z.device, memory_format=memory_format(x)
    )


@torch.library.register_fake("fastops::xcorr_depthwise_backward")
def _(grad, z, x):
    pairs, oh, ow = _check("xcorr_depthwise_backward", z, x)
    _check_grad("xcorr_depthwise_backward", grad, x, [pairs, z.shape[1], oh, ow])
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
torch.library.register_autograd(
    "fastops::xcorr_depthwise", _depthwise_backward, setup_context=_depthwise_setup_context
)
register_autocast("xcorr", "lower")
register_autocast("xcorr_depthwise", "lower")
