"""Channel attention modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastops.ops.se import se_attention, se_scale


class SEScale(nn.Module):
    r"""Scale channels by the sigmoid of their logits: $y_c = x_c \, \sigma(l_c)$; see [`fastops.se_scale`][].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.SEScale()(torch.ones(1, 3, 4, 4), torch.zeros(1, 3)).shape
        torch.Size([1, 3, 4, 4])
    """

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return se_scale(x, logits)


class SEAttention(nn.Module):
    r"""Squeeze-and-excitation block $y_c = x_c \, \sigma(W_2 \mathrm{ReLU}(W_1 z + b_1) + b_2)_c$, z the mean.

    Args:
        channels: C of the input [N, C, ...].
        reduction: the hidden layer has max(C // reduction, 1) units.
        bias: learn b1 and b2.

    The parameters are `w1` [R, C], `b1` [R], `w2` [C, R] and `b2` [C]. They are initialised like those of `nn.Linear`.

    Raises:
        ValueError: `SEAttention: <argument> must ...`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.SEAttention(32)(torch.ones(2, 32, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    def __init__(self, channels: int, reduction: int = 16, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"SEAttention: channels must be at least 1, got {channels}")
        if reduction < 1:
            raise ValueError(f"SEAttention: reduction must be at least 1, got {reduction}")
        hidden = max(channels // reduction, 1)
        self.channels, self.reduction = channels, reduction
        options = {"device": device, "dtype": dtype}
        self.w1 = nn.Parameter(torch.empty(hidden, channels, **options))
        self.b1 = nn.Parameter(torch.empty(hidden, **options)) if bias else None
        self.w2 = nn.Parameter(torch.empty(channels, hidden, **options))
        self.b2 = nn.Parameter(torch.empty(channels, **options)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from the uniform distribution within 1/sqrt(fan in), like `nn.Linear`."""
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return se_attention(x, self.w1, self.b1, self.w2, self.b2)

    def extra_repr(self) -> str:
        return f"{self.channels}, reduction={self.reduction}, bias={self.b1 is not None}"
