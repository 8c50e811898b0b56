"""Adaptive activations (Hu et al., "Adaptively Customizing Activation Functions for Various Layers", eq. 10-12)."""

from __future__ import annotations

import torch

from ._common import opmath, strides_of_input, with_backward


def _broadcast(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
    """All inputs in opmath. The parameters get a shape that broadcasts: one value, or [C, 1, ...]."""
    shape = () if parameters[0].numel() == 1 else (-1, *(1,) * (x.dim() - 2))
    return [opmath(x), *(opmath(p.reshape(shape)) for p in parameters)]


def adaptive_sigmoid(
    x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
) -> torch.Tensor:
    """Adaptive sigmoid: b sigmoid(a x + c) + d.

    Args:
        x: tensor of any shape and floating dtype.
        a, b, c, d: one element each, or [C] for the channels of x [N, C, ...].

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 10.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> reference.adaptive_sigmoid(torch.tensor([-1.0, 0.0, 1.0]), one, one, zero, zero)
        tensor([0.2689, 0.5000, 0.7311])
    """
    wide, a, b, c, d = _broadcast(x, a, b, c, d)
    return (b * torch.sigmoid(a * wide + c) + d).to(x.dtype)


def adaptive_tanh(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Adaptive tanh: b tanh(a x + c) + d.

    Args:
        x: tensor of any shape and floating dtype.
        a, b, c, d: one element each, or [C] for the channels of x [N, C, ...].

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 11.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> reference.adaptive_tanh(torch.tensor([-1.0, 0.0, 1.0]), one, one, zero, zero)
        tensor([-0.7616,  0.0000,  0.7616])
    """
    wide, a, b, c, d = _broadcast(x, a, b, c, d)
    return (b * torch.tanh(a * wide + c) + d).to(x.dtype)


def adaptive_relu(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """Adaptive ReLU, the larger of two lines: max(a x + c, b x + d).

    Where both lines are equal, the first one gets the gradient.

    Args:
        x: tensor of any shape and floating dtype.
        a, b, c, d: one element each, or [C] for the channels of x [N, C, ...].

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Hu et al., "Adaptively Customizing Activation Functions for Various Layers", 2021, eq. 12.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> reference.adaptive_relu(torch.tensor([-1.0, 0.0, 1.0]), one, zero, zero, zero)
        tensor([0., 0., 1.])
    """
    wide, a, b, c, d = _broadcast(x, a, b, c, d)
    u, v = a * wide + c, b * wide + d
    return torch.where((u >= v) | u.isnan(), u, v).to(x.dtype)


OPS = {
    name: op
    for function in (adaptive_sigmoid, adaptive_tanh, adaptive_relu)
    for name, op in with_backward(function, strides_of_input).items()
}
