"""Mish after an affine map or a batch norm (Ioffe & Szegedy 2015) of each channel."""

from __future__ import annotations

import torch

from fastops._layout import empty_native

from ._common import opmath, with_backward
from .mish import mish


def _per_channel(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return t.reshape((-1,) + (1,) * (x.dim() - 2))


def affine_mish(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Scale, shift and Mish by channel: y[n, c, ...] = mish(weight[c] x[n, c, ...] + bias[c]).

    Args:
        x: [N, C, *spatial], at least 2 dims, any floating dtype.
        weight: [C], of the dtype of `x` or wider.
        bias: [C].

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", BMVC 2020.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.affine_mish(torch.ones(1, 2, 1, 1), torch.ones(2), torch.zeros(2)).flatten()
        tensor([0.8651, 0.8651])
    """
    wide = opmath(x)
    return mish(wide * _per_channel(opmath(weight), x) + _per_channel(opmath(bias), x)).to(x.dtype)


def _normalized(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Batch norm in training, in the opmath of x, with the mean and variance [C] over all values of a channel."""
    wide = opmath(x)
    dims = [0, *range(2, x.dim())]
    mean = wide.mean(dims)
    centered = wide - _per_channel(mean, x)
    variance = centered.square().mean(dims)
    v = centered * _per_channel(torch.rsqrt(variance + eps), x)
    if weight is not None:
        v = v * _per_channel(opmath(weight), x)
    if bias is not None:
        v = v + _per_channel(opmath(bias), x)
    return v, mean, variance


def batch_norm_mish(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Batch norm, then Mish: mish(F.batch_norm(x, ...)), with the arguments of `torch.nn.functional.batch_norm`.

    Args:
        x: [N, C, *spatial], at least 2 dims, any floating dtype.
        running_mean: [C] or None; read in eval mode, updated in training.
        running_var: [C] or None, the unbiased variance.
        weight: [C] or None.
        bias: [C] or None.
        training: normalise by the statistics of `x`, with the biased variance, instead of the running statistics.
        momentum: weight of the new statistics in the running statistics.
        eps: added to the variance.

    Returns:
        Tensor of the shape and dtype of `x`.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, algorithm 1 and 2.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> reference.batch_norm_mish(x, None, None, training=True, eps=0.0).flatten()
        tensor([-0.3034,  0.8651])
    """
    if not training:
        scale = torch.rsqrt(opmath(running_var) + eps)
        scale = scale if weight is None else scale * opmath(weight)
        shift = -opmath(running_mean) * scale
        return affine_mish(x, scale, shift if bias is None else shift + opmath(bias))
    v, mean, variance = _normalized(x, weight, bias, eps)
    count = x.numel() // max(x.shape[1], 1)
    if running_mean is not None and count > 0:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
    return mish(v).to(x.dtype)


def _train(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The schema batch_norm_mish: the result and its statistics [3, C]."""
    if x.numel() == 0:
        return empty_native(x), x.new_zeros(3, x.shape[1], dtype=torch.float64)
    v, mean, variance = _normalized(x, weight, bias, eps)
    count = x.numel() // x.shape[1]
    mean, variance = mean.double(), variance.double()
    unbiased = variance * (count / (count - 1))
    return empty_native(x).copy_(mish(v)), torch.stack((mean, torch.rsqrt(variance + eps), unbiased))


def _train_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    stats: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The schema batch_norm_mish_backward. It returns gradients of weight and bias even if they are None."""
    like = next((t for t in (weight, bias) if t is not None), x)
    wide = opmath(x)
    mean, inverse_std, _ = (_per_channel(t, x) for t in stats)
    x_hat = ((wide - mean) * inverse_std).to(wide.dtype)
    scale = 1.0 if weight is None else _per_channel(opmath(weight), x)
    v = (x_hat * scale + (0.0 if bias is None else _per_channel(opmath(bias), x))).requires_grad_()
    with torch.enable_grad():
        y = mish(v)
    (inner,) = torch.autograd.grad(y, v, grad.to(y.dtype))
    dims, count = [0, *range(2, x.dim())], max(x.numel() // max(x.shape[1], 1), 1)
    grad_bias, grad_weight = inner.sum(dims), (inner * x_hat).sum(dims)
    means = _per_channel(grad_bias / count, x) + x_hat * _per_channel(grad_weight / count, x)
    grad_x = scale * inverse_std * (inner - means)
    return empty_native(x).copy_(grad_x), grad_weight.to(like.dtype), grad_bias.to(like.dtype)


OPS = with_backward(affine_mish) | {"batch_norm_mish": _train, "batch_norm_mish_backward": _train_backward}
