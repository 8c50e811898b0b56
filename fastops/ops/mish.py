"""Mish: public functions, fake kernels, gradients."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._checks import check, check_floating
from fastops.ops._pointwise import register_pointwise
from fastops.ops._transforms import exports_onnx, in_transform

_mish = torch.ops.fastops.mish.default
_mish_inplace = torch.ops.fastops.mish_.default


def mish(x: Tensor) -> Tensor:
    r"""Mish activation, elementwise, in one pass with one exponential.

    $$
    f(x) = x \tanh(\ln(1 + e^x)) = x \frac{t}{t + 2}, \quad t = e^x (e^x + 2)
    $$

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).

    Returns:
        Tensor of the shape, dtype and memory layout of `x`. `f(inf) = inf`, `f(-inf) = -0`, NaN stays NaN.

    Raises:
        RuntimeError: `mish: x must have dtype ...` for any other dtype.

    Mish is differentiable any number of times. Only `x` is saved, and the backward pass recomputes the rest.

    Works under `torch.compile(fullgraph=True)`, `torch.autocast` (the dtype stays) and `torch.vmap`. Like every op
    here, it runs the code of [`fastops.reference`][] in forward mode and under `torch.func.grad`.

    Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020.

    Examples:

        >>> import torch, fastops
        >>> fastops.mish(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.3034,  0.0000,  1.9440])
    """
    if in_transform():
        return reference.mish(x)
    return _mish(x)


def mish_(x: Tensor) -> Tensor:
    r"""In-place [`mish`][fastops.mish]: overwrites `x` with `mish(x)` and returns it.

    $$
    x \leftarrow x \tanh(\ln(1 + e^x))
    $$

    Args:
        x: tensor of any shape, also a strided view; float32, float64, float16 or bfloat16.

    Returns:
        `x` itself.

    Raises:
        RuntimeError: `mish_: x must have dtype ...`, also for an expanded tensor, whose elements share memory. A leaf
            that requires grad raises torch's own error.

    It is made for inference. If gradients are recorded, the backward pass needs the input, so a copy is made and this
    is no faster than [`mish`][fastops.mish].

    Source: Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020.

    Examples:

        >>> import torch, fastops
        >>> x = torch.tensor([-1.0, 0.0, 2.0])
        >>> fastops.mish_(x) is x
        True
    """
    if exports_onnx():
        return torch.nn.functional.mish(x, inplace=True)  # both exporters know this in-place operation
    if in_transform():
        return reference.mish_(x)
    if not torch.jit.is_tracing() and not x.is_contiguous():
        shared = any(side > 1 and stride == 0 for side, stride in zip(x.shape, x.stride(), strict=True))
        check(not shared, f"mish_: x must have memory for each element (clone it first), got {list(x.shape)} expanded")
    # torch.jit would drop an op without a result from its trace.
    if torch.is_grad_enabled() and x.requires_grad or torch.jit.is_tracing():
        check_floating("mish_", "x", x)
        return x.copy_(_mish(x.clone()))
    _mish_inplace(x)
    torch.autograd.graph.increment_version(x)  # so that a graph that needs the old values raises an error
    return x


# ---- registration --------------------------------------------------------------------------------------------

#: The checks of csrc/cpu/mish.cpp, by schema.
CHECKS = register_pointwise("mish", reference.mish) | {"mish_": partial(check_floating, "mish_", "x")}


@torch.library.register_fake("fastops::mish_")
def _(x: Tensor) -> None:
    CHECKS["mish_"](x)
