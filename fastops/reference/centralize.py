"""Gradient centralization and optimizer steps with it.

Yong et al., "Gradient Centralization", 2020, eq. 1;
Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 10-11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastops._channels import Transposed, channel_number, transposed_groups

from ._common import opmath


def _centralized(grad: Tensor, channels: int) -> Tensor:
    """`grad` minus the mean of each output channel. `fastops._channels` explains `channels`."""
    if channels < 0 or grad.numel() == 0:
        return grad
    if channels == 0:
        return grad - grad.mean(tuple(range(1, grad.dim())), keepdim=True)
    grouped = grad.unflatten(0, (channels, -1))  # [groups, inputs of a group, outputs of a group, *kernel]
    return (grouped - grouped.mean((1, *range(3, grouped.dim())), keepdim=True)).flatten(0, 1)


def centralize_gradients_(
    params: nn.Module | Tensor | Iterable[Tensor], conv_only: bool = False, transposed: Transposed = ()
) -> None:
    """Gradient centralization in place: grad -= mean of grad over all dimensions except the output channel.

    Args:
        params: parameters, or a module. Skipped are parameters without a gradient, with one dimension, or with one
            weight per output channel.
        conv_only: skip parameters with two dimensions too.
        transposed: weights of transposed convolutions, whose output channel is dimension 1: an iterable of them, a
            mapping to their groups, or the module that has them. If `params` is a module, they are found without it.

    Source: Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", ECCV 2020.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> weight = torch.zeros(2, 3, requires_grad=True)
        >>> weight.grad = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
        >>> reference.centralize_gradients_([weight])
        >>> weight.grad
        tensor([[-2., -1.,  3.],
                [-1., -1.,  2.]])
    """
    groups = transposed_groups(transposed)
    if isinstance(params, nn.Module):
        params, groups = params.parameters(), {**transposed_groups(params), **groups}
    with torch.no_grad():
        for p in [params] if isinstance(params, Tensor) else params:
            if p.grad is not None:
                _centralize_([p.grad], [channel_number(p, conv_only, groups)])


# ---- the schemas ---------------------------------------------------------------------------------------------


def _centralize_(tensors: Sequence[Tensor], channels: Sequence[int]) -> None:
    for t, number in zip(tensors, channels, strict=True):
        t.copy_(_centralized(opmath(t), number))


def _step_direction(grad: Tensor, maximize: bool, grad_scale: Tensor | None) -> Tensor:
    grad = opmath(grad) if grad_scale is None else opmath(grad) / grad_scale.reshape(())
    return -grad if maximize else grad


def _assign(t: Tensor, value: Tensor, found_inf: Tensor | None) -> None:
    t.copy_(value if found_inf is None else torch.where(found_inf.reshape(()) != 0, t, value.to(t.dtype)))


def _sgd_gc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    channels: Sequence[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Weight decay, centralization, then momentum and update as in torch.optim.SGD."""
    rate = lr if lr_tensor is None else lr_tensor.reshape(())
    for i, p in enumerate(params):
        d = _step_direction(grads[i], maximize, grad_scale)
        if weight_decay:
            d = d + weight_decay * opmath(p)
        d = _centralized(d, channels[i])
        if momentum:
            b = momentum * opmath(momentum_buffers[i]) + (1 - dampening) * d
            d = d + momentum * b if nesterov else b
            _assign(momentum_buffers[i], b, found_inf)
        _assign(p, opmath(p) - rate * d, found_inf)


def _adamw_gc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    channels: Sequence[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Count the step, centralize, then update as in torch.optim.AdamW."""
    rate = lr if lr_tensor is None else lr_tensor.reshape(())
    for i, p in enumerate(params):
        _assign(steps[i], steps[i] + 1, found_inf)
        d = _centralized(_step_direction(grads[i], maximize, grad_scale), channels[i])
        m = torch.lerp(opmath(exp_avgs[i]), d, 1 - beta1)
        v = beta2 * opmath(exp_avg_sqs[i]) + (1 - beta2) * d * d
        _assign(exp_avgs[i], m, found_inf)
        _assign(exp_avg_sqs[i], v, found_inf)
        if max_exp_avg_sqs:
            v = torch.maximum(opmath(max_exp_avg_sqs[i]), v)
            _assign(max_exp_avg_sqs[i], v, found_inf)
        step = steps[i].double()
        root = (1 - beta2**step).sqrt().to(v.dtype)
        size = (rate / (1 - beta1**step)).to(v.dtype)
        _assign(p, (1 - rate * weight_decay) * opmath(p) - size * m / (v.sqrt() / root + eps), found_inf)


OPS = {"centralize_": _centralize_, "sgd_gc_step_": _sgd_gc_step_, "adamw_gc_step_": _adamw_gc_step_}
