"""Mish after an affine map or a batch norm of each channel: public functions, fake kernels, gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops._layout import empty_native
from fastops.ops._checks import (
    check,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_same_shape,
    dtype_name,
)
from fastops.ops._register import reference_vjp
from fastops.ops._transforms import in_transform

_affine_mish = torch.ops.fastops.affine_mish.default
_affine_mish_backward = torch.ops.fastops.affine_mish_backward.default
_batch_norm_mish = torch.ops.fastops.batch_norm_mish.default
_batch_norm_mish_backward = torch.ops.fastops.batch_norm_mish_backward.default


def affine_mish(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Scale and shift each channel, then Mish, in one pass.

    $$
    y_{nc} = f(w_c x_{nc} + b_c), \quad f(v) = v \tanh(\ln(1 + e^v))
    $$

    Args:
        x: [N, C, ...], float32, float64, float16 or bfloat16 (half types compute in float32).
        weight: [C], dtype and device of `x`; if `x` has a half type, float32 is allowed too.
        bias: [C], dtype of `weight`.

    Returns:
        Tensor of the shape and dtype of `x`; channels_last if `x` is, else contiguous.

    Raises:
        RuntimeError: `affine_mish: <argument> must ...` for other shapes, dtypes or devices.

    The backward pass computes all three gradients in one pass over `x` and the incoming gradient. Only the inputs are
    saved. Under `torch.autocast` dtypes are kept.

    Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020.

    Examples:

        >>> import torch, fastops
        >>> fastops.affine_mish(torch.ones(1, 2, 1, 1), torch.tensor([1.0, 2.0]), torch.zeros(2)).flatten()
        tensor([0.8651, 1.9440])
    """
    if in_transform():
        return reference.affine_mish(x, weight, bias)
    return _affine_mish(x, weight, bias)


def batch_norm_mish(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""Batch norm, then Mish: `F.mish(F.batch_norm(...))` in two passes over `x`, with two more for the gradients.

    $$
    y_{nc} = f\!\left(w_c \frac{x_{nc} - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + b_c\right),
    \quad f(v) = v \tanh(\ln(1 + e^v))
    $$

    Args:
        x: [N, C, ...], float32, float64, float16 or bfloat16 (half types compute in float32).
        running_mean: [C], any floating dtype, or None. In training it is updated in place, else it is the mean.
        running_var: [C] or None. In training it is updated with the unbiased variance, else it is the variance.
        weight: [C] or None for 1; dtype and device of `x`; if `x` has a half type, float32 is allowed too.
        bias: [C] or None for 0; dtype of `weight`.
        training: compute mean and (biased) variance from `x`, over all dimensions except the channels.
        momentum: the running statistics become (1 - momentum) old + momentum new.
        eps: added to the variance.

    Returns:
        Tensor of the shape and dtype of `x`; channels_last if `x` is, else contiguous.

    Raises:
        RuntimeError: `batch_norm_mish: <argument> must ...` for other shapes, dtypes or devices; in training, for
            only one value per channel; otherwise, for missing statistics.

    The inputs and the statistics [3, C] are saved. The statistics are float64: in float32, a mean of 1000 standard
    deviations would be off by up to 3e-5 standard deviations. Without `training` this is
    [`affine_mish`][fastops.affine_mish]. Under `torch.autocast` dtypes are kept.

    Source: Ioffe and Szegedy, "Batch Normalization", 2015; Misra, "Mish", 2020.

    Examples:

        >>> import torch, fastops
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> fastops.batch_norm_mish(x, None, None, training=True, eps=0.0).flatten()
        tensor([-0.3034,  0.8651])
    """
    if in_transform():
        return reference.batch_norm_mish(x, running_mean, running_var, weight, bias, training, momentum, eps)
    _check_running(x, running_mean, running_var, training)
    if not training:
        opmath = torch.float64 if x.dtype == torch.float64 else torch.float32
        scale = torch.rsqrt(running_var.to(opmath) + eps)
        if weight is not None:
            scale = scale * weight.to(opmath)
        shift = -running_mean.to(opmath) * scale
        return _affine_mish(x, scale, shift if bias is None else shift + bias.to(opmath))
    y, stats = _batch_norm_mish(x, weight, bias, eps)
    if running_mean is not None and x.numel() > 0:
        with torch.no_grad():
            mean, _, variance = stats.unbind()
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(variance.to(running_var.dtype), momentum)
    return y


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check_parameter(op: str, name: str, t: Tensor, x: Tensor) -> None:
    if x.dtype in (torch.float16, torch.bfloat16):
        wanted = f"the dtype of x ({dtype_name(x.dtype)}) or float32"
        check(t.dtype in (x.dtype, torch.float32), f"{op}: {name} must have {wanted}, got {dtype_name(t.dtype)}")
    else:
        check_same_dtype(op, name, t, "x", x)
    check_same_device(op, name, t, "x", x)
    c = x.shape[1]
    check(t.dim() == 1 and t.shape[0] == c, f"{op}: {name} must have shape [C] = [{c}], got {list(t.shape)}")


def _check_affine(op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    check_floating(op, "x", x)
    check(x.dim() >= 2, f"{op}: x must have at least 2 dimensions [N, C, ...], got {list(x.shape)}")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            _check_parameter(op, name, t, x)
    if weight is not None and bias is not None:
        check_same_dtype(op, "bias", bias, "weight", weight)


def _check_grad(op: str, grad: Tensor, x: Tensor) -> None:
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check_same_shape(op, "grad", grad, "x", x)


def _check_affine_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    _check_affine("affine_mish_backward", x, weight, bias)
    _check_grad("affine_mish_backward", grad, x)


def _check_batch_norm(op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 0.0) -> None:
    _check_affine(op, x, weight, bias)
    message = f"{op}: x must have more than one value per channel in training, got {list(x.shape)}"
    check(x.shape[0] * x.shape[2:].numel() != 1, message)


def _check_batch_norm_backward(
    grad: Tensor, x: Tensor, stats: Tensor, weight: Tensor | None, bias: Tensor | None
) -> None:
    op = "batch_norm_mish_backward"
    _check_batch_norm(op, x, weight, bias)
    _check_grad(op, grad, x)
    check(stats.dtype == torch.float64, f"{op}: stats must have dtype float64, got {dtype_name(stats.dtype)}")
    check_same_device(op, "stats", stats, "x", x)
    c = x.shape[1]
    check(stats.shape == (3, c), f"{op}: stats must have shape [3, C] = [3, {c}], got {list(stats.shape)}")


def _check_running(x: Tensor, mean: Tensor | None, variance: Tensor | None, training: bool) -> None:
    """Check the arguments that the kernels do not get."""
    op = "batch_norm_mish"
    check_floating(op, "x", x)
    check(x.dim() >= 2, f"{op}: x must have at least 2 dimensions [N, C, ...], got {list(x.shape)}")
    check((mean is None) == (variance is None), f"{op}: running_mean and running_var must be given together")
    if mean is None or variance is None:
        check(training, f"{op}: running_mean must be a tensor unless training, got None")
        return
    for name, t in (("running_mean", mean), ("running_var", variance)):
        check_floating(op, name, t)
        check_same_device(op, name, t, "x", x)
        c = x.shape[1]
        check(t.dim() == 1 and t.shape[0] == c, f"{op}: {name} must have shape [C] = [{c}], got {list(t.shape)}")


#: The checks of csrc/common/affine_mish.h, by schema.
CHECKS = {
    "affine_mish": partial(_check_affine, "affine_mish"),
    "affine_mish_backward": _check_affine_backward,
    "batch_norm_mish": partial(_check_batch_norm, "batch_norm_mish"),
    "batch_norm_mish_backward": _check_batch_norm_backward,
}


def _parameter_gradients(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Empty gradients of weight and bias. An absent one has a gradient too, in the dtype of the other."""
    c, given = x.shape[1], [t for t in (weight, bias, x) if t is not None]
    return tuple(x.new_empty(c, dtype=(given[0] if t is None else t).dtype) for t in (weight, bias))


@torch.library.register_fake("fastops::affine_mish")
def _(x, weight, bias):
    CHECKS["affine_mish"](x, weight, bias)
    return empty_native(x)


@torch.library.register_fake("fastops::affine_mish_backward")
def _(grad, x, weight, bias):
    CHECKS["affine_mish_backward"](grad, x, weight, bias)
    return empty_native(x), *_parameter_gradients(x, weight, bias)


@torch.library.register_fake("fastops::batch_norm_mish")
def _(x, weight, bias, eps):
    CHECKS["batch_norm_mish"](x, weight, bias)
    return empty_native(x), x.new_empty(3, x.shape[1], dtype=torch.float64)


@torch.library.register_fake("fastops::batch_norm_mish_backward")
def _(grad, x, stats, weight, bias):
    CHECKS["batch_norm_mish_backward"](grad, x, stats, weight, bias)
    return empty_native(x), *_parameter_gradients(x, weight, bias)


# ---- gradients, vmap -----------------------------------------------------------------------------------------


def _affine_setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _affine_backward(ctx, grad):
    inputs = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.affine_mish, inputs, grad)
    return _affine_mish_backward(grad, *inputs)


def _batch_norm_setup_context(ctx, inputs, output) -> None:
    x, weight, bias, ctx.eps = inputs
    _, stats = output
    ctx.mark_non_differentiable(stats)
    ctx.save_for_backward(x, weight, bias, stats)


def _batch_norm_backward(ctx, grad, _):
    x, weight, bias, stats = ctx.saved_tensors
    if torch.is_grad_enabled():
        arguments = (x, None, None, weight, bias, True, 0.0, ctx.eps)
        grads = reference_vjp(reference.batch_norm_mish, arguments, grad)
        return grads[0], grads[3], grads[4], None
    grad_x, grad_weight, grad_bias = _batch_norm_mish_backward(grad, x, stats, weight, bias)
    return grad_x, None if weight is None else grad_weight, None if bias is None else grad_bias, None


torch.library.register_autograd("fastops::affine_mish", _affine_backward, setup_context=_affine_setup_context)
torch.library.register_autograd(
    "fastops::batch_norm_mish", _batch_norm_backward, setup_context=_batch_norm_setup_context
)


@torch.library.register_vmap("fastops::affine_mish")
def _(info, in_dims, x, weight, bias):
    """Turn the mapped dimension into channels, so that each item may have its own parameters."""
    x, weight, bias = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((x, weight, bias), in_dims, strict=True)
    )
    y = _affine_mish(x.movedim(0, 1).flatten(1, 2), weight.flatten(), bias.flatten())
    return y.unflatten(1, x.shape[:1] + x.shape[2:3]), 1
