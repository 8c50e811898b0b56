"""Mish.

Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2020;
Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 6.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ._common import opmath, strides_of_input, with_backward


def mish(x: torch.Tensor) -> torch.Tensor:
    """Mish activation: x tanh(ln(1 + e^x)), elementwise.

    The tails are exact: inf gives inf, -inf gives -0, NaN gives NaN, and the gradient there is 1, 0 and NaN.

    Args:
        x: tensor of any shape and floating dtype.

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.mish(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.3034,  0.0000,  0.8651])
    """
    wide = opmath(x)
    # At the infinities the formula is inf * 0. Its limits are x above and -0 below, and they are exact beyond 40 and
    # -1000: tanh(ln(1 + e^40)) rounds to 1 and e^-1000 to 0, in float64 too. clamp would give NaN a gradient of 0, so
    # masked_fill is used.
    inner = wide.masked_fill(wide < -1000.0, -1000.0).masked_fill(wide > 40.0, 0.0)
    return torch.where(wide > 40.0, wide, inner * torch.tanh(F.softplus(inner))).to(x.dtype)


def mish_(x: torch.Tensor) -> torch.Tensor:
    """Mish activation in place: x becomes x tanh(ln(1 + e^x)); see `mish`.

    Args:
        x: tensor of any shape, strides and floating dtype; overwritten. Like for every in-place op, it must not be a
            leaf that requires grad.

    Returns:
        `x` itself.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> x = torch.tensor([-1.0, 0.0, 1.0])
        >>> reference.mish_(x) is x
        True
    """
    # The backward saves the clone, because x itself changes.
    return x.copy_(mish(x.clone()))


def _mish_inplace(x: torch.Tensor) -> None:
    mish_(x)


OPS = with_backward(mish, strides_of_input) | {"mish_": _mish_inplace}
