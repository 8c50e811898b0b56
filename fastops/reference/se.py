"""Squeeze and excitation.

Hu et al., "Squeeze-and-Excitation Networks", 2018;
Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 7-9.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ._common import opmath, with_backward


def _scale(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(logits).reshape(x.shape[:2] + (1,) * (x.dim() - 2))


def se_scale(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Channel scaling: y[n, c, ...] = x[n, c, ...] sigmoid(logits[n, c]).

    Args:
        x: [N, C, *spatial], at least 2 dims, any floating dtype.
        logits: [N, C].

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, eq. 4.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.se_scale(torch.ones(1, 2, 1, 1), torch.zeros(1, 2)).flatten()
        tensor([0.5000, 0.5000])
    """
    return _scale(opmath(x), opmath(logits)).to(x.dtype)


def se_attention(
    x: torch.Tensor, w1: torch.Tensor, b1: torch.Tensor | None, w2: torch.Tensor, b2: torch.Tensor | None
) -> torch.Tensor:
    """Channel attention: squeeze z = mean of x over space, excite s = sigmoid(W2 relu(W1 z + b1) + b2), scale y = x s.

    Args:
        x: [N, C, *spatial], at least 3 dims, any floating dtype.
        w1: [R, C], the reducing weights.
        b1: [R] or None.
        w2: [C, R], the expanding weights.
        b2: [C] or None.

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, eq. 2-4.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> x, w1, w2 = torch.randn(2, 8, 5, 5), torch.randn(4, 8), torch.randn(8, 4)
        >>> reference.se_attention(x, w1, None, w2, None).shape
        torch.Size([2, 8, 5, 5])
    """
    wide = opmath(x)
    w1, b1, w2, b2 = (None if t is None else opmath(t) for t in (w1, b1, w2, b2))
    z = wide.mean(tuple(range(2, x.dim())))  # [N, C]
    logits = F.linear(F.relu(F.linear(z, w1, b1)), w2, b2)  # [N, C]
    return _scale(wide, logits).to(x.dtype)


def _attention_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    w1: torch.Tensor,
    b1: torch.Tensor | None,
    w2: torch.Tensor,
    b2: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """The schema se_attention_backward. It returns gradients of the biases even if they are None."""
    b1 = x.new_zeros(w1.shape[0]) if b1 is None else b1
    b2 = x.new_zeros(w2.shape[0]) if b2 is None else b2
    return _ATTENTION["se_attention_backward"](grad, x, w1, b1, w2, b2)


_ATTENTION = with_backward(se_attention)
OPS = with_backward(se_scale) | _ATTENTION | {"se_attention_backward": _attention_backward}
