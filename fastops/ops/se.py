"""Squeeze-and-excitation: public functions, fake kernels, gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops._layout import empty_native
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype, check_same_shape
from fastops.ops._register import reference_vjp, register_autocast, to_front
from fastops.ops._transforms import in_transform

_se_scale = torch.ops.fastops.se_scale.default
_se_scale_backward = torch.ops.fastops.se_scale_backward.default
_se_attention = torch.ops.fastops.se_attention.default
_se_attention_backward = torch.ops.fastops.se_attention_backward.default


def se_scale(x: Tensor, logits: Tensor) -> Tensor:
    r"""Scale each channel by the sigmoid of its logit, in one pass.

    $$
    y_{nc} = x_{nc} \, \sigma(l_{nc})
    $$

    Args:
        x: [N, C, ...], float32, float64, float16 or bfloat16 (half types compute in float32).
        logits: [N, C], dtype and device of `x`.

    Returns:
        Tensor of the shape and dtype of `x`, channels_last where `x` is, else contiguous.

    Raises:
        RuntimeError: `se_scale: <argument> must ...` for other shapes, dtypes or devices.

    The backward gives both gradients in one pass over `x` and the incoming gradient.
    Under `torch.autocast` both inputs are cast to the larger of their dtypes.

    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018, eq. 4.

    Examples:

        >>> import torch, fastops
        >>> fastops.se_scale(torch.ones(2, 3, 4, 4), torch.zeros(2, 3)).mean()
        tensor(0.5000)
    """
    if in_transform():
        return reference.se_scale(x, logits)
    return _se_scale(x, logits)


def se_attention(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    r"""A whole squeeze-and-excitation block (channel attention) in two passes over `x`.

    $$
    z_c = \frac{1}{HW} \sum_{hw} x_{chw}, \quad
    s = \sigma(W_2 \, \mathrm{ReLU}(W_1 z + b_1) + b_2), \quad
    y_c = s_c \, x_c
    $$

    Args:
        x: [N, C, ...] with at least one spatial dimension; float32, float64, float16 or bfloat16 (half types compute
            in float32).
        w1: [R, C], R the width of the hidden layer. All weights have the dtype and device of `x`.
        b1: [R] or None.
        w2: [C, R].
        b2: [C] or None.

    Returns:
        Tensor of the shape and dtype of `x`, channels_last where `x` is, else contiguous.

    Raises:
        RuntimeError: `se_attention: <argument> must ...` for other shapes, dtypes or devices.

    Only the inputs are saved. The backward pass recomputes the means in the pass over `x` that the gradient of the
    scale needs anyway, and the hidden layer from the means. Under `torch.autocast` inputs are cast to the autocast
    dtype.

    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018; Zhang and Wang, "Object tracking in siamese network with
    attention mechanism and Mish function", eq. 7-9.

    Examples:

        >>> import torch, fastops
        >>> x, w1, w2 = torch.ones(1, 4, 2, 2), torch.zeros(2, 4), torch.zeros(4, 2)
        >>> fastops.se_attention(x, w1, None, w2, None).mean()
        tensor(0.5000)
    """
    if in_transform():
        return reference.se_attention(x, w1, b1, w2, b2)
    return _se_attention(x, w1, b1, w2, b2)


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check_scale(op: str, x: Tensor, logits: Tensor) -> None:
    check_floating(op, "x", x)
    check(x.dim() >= 2, f"{op}: x must have at least 2 dimensions [N, C, ...], got {list(x.shape)}")
    check_same_dtype(op, "logits", logits, "x", x)
    check_same_device(op, "logits", logits, "x", x)
    check(
        logits.dim() == 2 and logits.shape == x.shape[:2],
        f"{op}: logits must have shape [N, C] = {list(x.shape[:2])}, got {list(logits.shape)}",
    )


def _check_attention(op: str, x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> None:
    check_floating(op, "x", x)
    check(x.dim() >= 3, f"{op}: x must have at least 3 dimensions [N, C, ...], got {list(x.shape)}")
    check(w1.dim() == 2, f"{op}: w1 must have shape [R, C], got {list(w1.shape)}")
    r, c = w1.shape[0], x.shape[1]
    rules = (("w1", w1, "[R, C]", [r, c]), ("w2", w2, "[C, R]", [c, r]), ("b1", b1, "[R]", [r]), ("b2", b2, "[C]", [c]))
    for name, t, names, shape in rules:
        if t is None:
            continue
        check_same_dtype(op, name, t, "x", x)
        check_same_device(op, name, t, "x", x)
        check(list(t.shape) == shape, f"{op}: {name} must have shape {names} = {shape}, got {list(t.shape)}")


def _with_grad(check_inputs: Callable[..., None], op: str, grad: Tensor, x: Tensor, *others: Tensor | None) -> None:
    check_inputs(op, x, *others)
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check_same_shape(op, "grad", grad, "x", x)


#: The checks of csrc/common/se.h, by schema.
CHECKS = {
    "se_scale": partial(_check_scale, "se_scale"),
    "se_scale_backward": partial(_with_grad, _check_scale, "se_scale_backward"),
    "se_attention": partial(_check_attention, "se_attention"),
    "se_attention_backward": partial(_with_grad, _check_attention, "se_attention_backward"),
}


@torch.library.register_fake("fastops::se_scale")
def _(x, logits):
    CHECKS["se_scale"](x, logits)
    return empty_native(x)


@torch.library.register_fake("fastops::se_scale_backward")
def _(grad, x, logits):
    CHECKS["se_scale_backward"](grad, x, logits)
    return empty_native(x), torch.empty_like(logits, memory_format=torch.contiguous_format)


@torch.library.register_fake("fastops::se_attention")
def _(x, w1, b1, w2, b2):
    CHECKS["se_attention"](x, w1, b1, w2, b2)
    return empty_native(x)


@torch.library.register_fake("fastops::se_attention_backward")
def _(grad, x, w1, b1, w2, b2):
    CHECKS["se_attention_backward"](grad, x, w1, b1, w2, b2)
    r, c = w1.shape
    return empty_native(x), x.new_empty(r, c), x.new_empty(r), x.new_empty(c, r), x.new_empty(c)


# ---- gradients, autocast, vmap -------------------------------------------------------------------------------


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _scale_backward(ctx, grad):
    x, logits = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.se_scale, (x, logits), grad)
    return _se_scale_backward(grad, x, logits)


def _attention_backward(ctx, grad):
    inputs = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.se_attention, inputs, grad)
    grads = _se_attention_backward(grad, *inputs)
    return tuple(None if t is None else g for g, t in zip(grads, inputs, strict=True))


torch.library.register_autograd("fastops::se_scale", _scale_backward, setup_context=_save_inputs)
torch.library.register_autograd("fastops::se_attention", _attention_backward, setup_context=_save_inputs)
register_autocast("se_scale", "promote")
register_autocast("se_attention", "lower")


@torch.library.register_vmap("fastops::se_scale")
def _(info, in_dims, x, logits):
    x, logits = to_front(x, in_dims[0], info.batch_size), to_front(logits, in_dims[1], info.batch_size)
    y = _se_scale(x.flatten(0, 1), logits.flatten(0, 1))
    return y.unflatten(0, x.shape[:2]), 0


@torch.library.register_vmap("fastops::se_attention")
def _(info, in_dims, x, *weights):
    if in_dims[0] is not None and all(dim is None for dim in in_dims[1:]):
        x = x.movedim(in_dims[0], 0)
        return _se_attention(x.flatten(0, 1), *weights).unflatten(0, x.shape[:2]), 0
    # Each item has its own weights, so each item takes one call.
    inputs = zip((x, *weights), in_dims, strict=True)
    mapped = [None if t is None else to_front(t, dim, info.batch_size) for t, dim in inputs]
    calls = [_se_attention(*(None if t is None else t[i] for t in mapped)) for i in range(info.batch_size)]
    return torch.stack(calls), 0
