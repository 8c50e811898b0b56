"""Adaptive activations: public functions, fake kernels, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype, check_same_shape
from fastops.ops._register import reference_vjp, register_autocast, to_front
from fastops.ops._transforms import in_transform

_adaptive_sigmoid = torch.ops.fastops.adaptive_sigmoid.default
_adaptive_tanh = torch.ops.fastops.adaptive_tanh.default
_adaptive_relu = torch.ops.fastops.adaptive_relu.default


def adaptive_sigmoid(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    r"""Sigmoid between two learnable linear maps, in one pass.

    $$
    y = b \, \sigma(a x + c) + d
    $$

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).
        a, b, c, d: one element each (per layer), or [C] each (per channel: dimension 1 of `x`, which then has at
            least two); all of one shape, and of the dtype and device of `x`. a = b = 1, c = d = 0 is the sigmoid.

    Returns:
        Tensor of the shape, dtype and memory layout of `x`.

    Raises:
        RuntimeError: `adaptive_sigmoid: <argument> must ...` for other shapes, dtypes or devices.

    The backward pass computes all five gradients in one pass over `x` and the incoming gradient. It sums in a fixed
    order, so repeated runs are equal bit for bit. Only the inputs are saved. Under `torch.autocast` the parameters are
    cast to the dtype of `x`.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 10.

    Examples:

        >>> import torch, fastops
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> fastops.adaptive_sigmoid(torch.tensor([-1.0, 0.0, 1.0]), one, 2 * one, zero, zero)
        tensor([0.5379, 1.0000, 1.4621])
    """
    if in_transform():
        return reference.adaptive_sigmoid(x, a, b, c, d)
    return _adaptive_sigmoid(x, a, b, c, d)


def adaptive_tanh(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    r"""Tanh between two learnable linear maps, in one pass.

    $$
    y = b \tanh(a x + c) + d
    $$

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).
        a, b, c, d: one element each (per layer), or [C] each (per channel: dimension 1 of `x`, which then has at
            least two); all of one shape, and of the dtype and device of `x`. a = b = 1, c = d = 0 is tanh.

    Returns:
        Tensor of the shape, dtype and memory layout of `x`.

    Raises:
        RuntimeError: `adaptive_tanh: <argument> must ...` for other shapes, dtypes or devices.

    Gradients and autocast behave as in [`adaptive_sigmoid`][fastops.adaptive_sigmoid]. `torch.atanh` is a different
    function, the inverse of tanh.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 11.

    Examples:

        >>> import torch, fastops
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> fastops.adaptive_tanh(torch.tensor([-1.0, 0.0, 1.0]), one, 2 * one, zero, zero)
        tensor([-1.5232,  0.0000,  1.5232])
    """
    if in_transform():
        return reference.adaptive_tanh(x, a, b, c, d)
    return _adaptive_tanh(x, a, b, c, d)


def adaptive_relu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    r"""The larger of two learnable lines, in one pass.

    $$
    y = \max(a x + c, \; b x + d)
    $$

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).
        a, b, c, d: one element each (per layer), or [C] each (per channel: dimension 1 of `x`, which then has at
            least two); all of one shape, and of the dtype and device of `x`. a = 1, b = c = d = 0 is ReLU. With
            b = 0.25 it is PReLU at its initial slope.

    Returns:
        Tensor of the shape, dtype and memory layout of `x`. NaN gives NaN, as in `torch.maximum`.

    Raises:
        RuntimeError: `adaptive_relu: <argument> must ...` for other shapes, dtypes or devices.

    Where both lines are equal, the first one, a x + c, gets all of the gradient. (`torch.maximum` halves it, and
    `torch.relu` gives 0.) Otherwise two lines that start equal would stay equal for ever. All else about gradients and
    autocast is as in [`fastops.adaptive_sigmoid`][].

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 12. The AReLU of Chen
    et al. (2020) is a different activation, which is based on attention.

    Examples:

        >>> import torch, fastops
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> fastops.adaptive_relu(torch.tensor([-1.0, 0.0, 1.0]), one, 0.25 * one, zero, zero)
        tensor([-0.2500,  0.0000,  1.0000])
    """
    if in_transform():
        return reference.adaptive_relu(x, a, b, c, d)
    return _adaptive_relu(x, a, b, c, d)


# ---- checks, fake kernels, gradients, autocast, vmap: one of each for the three ops --------------------------


def _check(op: str, x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> None:
    check_floating(op, "x", x)
    check_same_dtype(op, "a", a, "x", x)
    check_same_device(op, "a", a, "x", x)
    if x.dim() < 2:
        expected, fits = "one element where x has fewer than 2 dimensions", a.numel() == 1
    else:
        channels = x.shape[1]
        expected, fits = f"one element or shape [C] = [{channels}]", a.numel() == 1 or list(a.shape) == [channels]
    check(fits, f"{op}: a must have {expected}, got {list(a.shape)}")
    for name, t in (("b", b), ("c", c), ("d", d)):
        check_same_dtype(op, name, t, "x", x)
        check_same_device(op, name, t, "x", x)
        check_same_shape(op, name, t, "a", a)


def _check_backward(op: str, grad: Tensor, x: Tensor, *parameters: Tensor) -> None:
    _check(op, x, *parameters)
    check_same_dtype(op, "grad", grad, "x", x)
    check_same_device(op, "grad", grad, "x", x)
    check_same_shape(op, "grad", grad, "x", x)


#: The checks of csrc/common/adaptive.h, by schema.
CHECKS = {}


def _save_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _vmap(op: Callable[..., Tensor], info, in_dims: tuple, x: Tensor, *parameters: Tensor) -> tuple[Tensor, int]:
    size = info.batch_size
    x = to_front(x, in_dims[0], size)
    if all(dim is None for dim in in_dims[1:]):
        if parameters[0].numel() == 1:
            return op(x, *parameters), 0
        return op(x.flatten(0, 1), *parameters).unflatten(0, x.shape[:2]), 0
    # Each item of the batch has its own set of parameters, so the batch becomes channels.
    parameters = [to_front(t, dim, size) for t, dim in zip(parameters, in_dims[1:], strict=True)]
    per_layer = parameters[0].numel() == size
    flat = [t.reshape(-1) for t in parameters]
    if per_layer:
        return op(x.reshape(1, size, math.prod(x.shape[1:])), *flat).reshape(x.shape), 0
    x = x.movedim(0, 1)  # [N, size, C, ...]
    return op(x.flatten(1, 2), *flat).unflatten(1, x.shape[1:3]), 1


def _register(name: str) -> None:
    op = getattr(torch.ops.fastops, name).default
    backward_op = getattr(torch.ops.fastops, f"{name}_backward").default
    CHECKS[name] = partial(_check, name)
    CHECKS[f"{name}_backward"] = partial(_check_backward, f"{name}_backward")

    @torch.library.register_fake(f"fastops::{name}")
    def _(x, a, b, c, d):
        CHECKS[name](x, a, b, c, d)
        return torch.empty_like(x)

    @torch.library.register_fake(f"fastops::{name}_backward")
    def _(grad, *inputs):
        CHECKS[f"{name}_backward"](grad, *inputs)
        return tuple(torch.empty_like(t) for t in inputs)

    def backward(ctx, grad):
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return reference_vjp(getattr(reference, name), inputs, grad)
        return backward_op(grad, *inputs)

    torch.library.register_autograd(f"fastops::{name}", backward, setup_context=_save_inputs)
    torch.library.register_vmap(f"fastops::{name}", partial(_vmap, op))
    register_autocast(name, "first")


for _name in ("adaptive_sigmoid", "adaptive_tanh", "adaptive_relu"):
    _register(_name)
