"""Mish (Misra 2020; channel-attention SiamFC paper, eq. 6)."""

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

    Example:
        >>> import torch
        >>> from fastops import reference
        >>> reference.mish(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.3034,  0.0000,  0.8651])
    """
    wide = opmath(x)
    # At the infinities the formula is inf * 0 and its limits, x above and -0 below, are exact well before: tanh(ln(1 +
    # e^40)) rounds to 1 and e^-1000 to 0, in float64 too. masked_fill, because clamp gives NaN the gradient 0.
    inner = wide.masked_fill(wide < -1000.0, -1000.0).masked_fill(wide > 40.0, 0.0)
    return torch.where(wide > 40.0, wide, inner * torch.tanh(F.softplus(inner))).to(x.dtype)


def mish_(x: torch.Tensor) -> torch.Tensor:
    """Mish activation in place: x becomes x tanh(ln(1 + e^x)); see `mish`.

    Args:
        x: tensor of any shape, strides and floating dtype; overwritten. As for every in-place op, it must not be a
            leaf that requires grad.

    Returns:
        `x` itself.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Example:
        >>> import torch
        >>> from fastops import reference
        >>> x = torch.tensor([-1.0, 0.0, 1.0])
        >>> reference.mish_(x) is x
        True
    """
    # The clone is what backward saves: x itself is about to change.
    return x.copy_(mish(x.clone()))


def _mish_inplace(x: torch.Tensor) -> None:
    mish_(x)


OPS = with_backward(mish, strides_of_input) | {"mish_": _mish_inplace}
