"""Gradient centralization: the public function, and fake kernels and checks for it and the optimizer steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fastops._channels import Transposed, channel_number, check_sharding, local, transposed_groups
from fastops.ops._checks import FLOATING, check, check_same_device, check_same_shape, dtype_name

_centralize = torch.ops.fastops.centralize_.default


def centralize_gradients_(
    params: nn.Module | Tensor | Iterable[Tensor], conv_only: bool = False, transposed: Transposed = ()
) -> None:
    r"""Centralize the gradients of all parameters in place, in one kernel launch or one parallel region.

    $$
    \nabla_{w_i} \leftarrow \nabla_{w_i} - \frac{1}{M} \sum_{j=1}^{M} \nabla_{w_{i,j}}
    $$

    Here $w_i$ are the $M$ weights of output channel $i$.

    Args:
        params: parameters, one parameter, or a module; their `.grad` is changed. Skipped are parameters without a
            gradient, with one dimension (biases, normalisation), or with a single weight per output channel, such as
            a layer scale [C, 1, 1]. The dtype is float32, float64, float16 or bfloat16 (half types compute in
            float32). Any layout is allowed, and one call may mix dtypes and devices.
        conv_only: skip parameters with two dimensions (fully connected layers) too.
        transposed: the weights of transposed convolutions, whose output channel is dimension 1: an iterable of them, a
            mapping from each to its `groups`, or the module that has them. If `params` is a module, its transposed
            convolutions are found without this argument.

    Raises:
        RuntimeError: for sparse gradients, for flat parameters of FSDP1 and for `DTensor`s that are not sharded by
            output channel; `centralize_: tensors[i] must have dtype ...` for any other dtype.

    It works with any optimizer: call it between `backward` and `step`, or register it once as a hook. Gradients scaled
    by a `GradScaler` may be centralized before or after `unscale_`.

    Parameters of `fully_shard` (FSDP2) are centralized without communication, because each process has whole output
    channels. The flat parameters of FSDP1 raise an error.

    [`fastops.optim.SGDGC`][] and [`fastops.optim.AdamWGC`][] centralize inside their step, which saves a pass over the
    gradients. SGDGC centralizes after it adds the weight decay.

    Source: Yong et al., "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", ECCV 2020,
    eq. 1.

    Examples:

        >>> import torch, fastops
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ConvTranspose2d(8, 3, 3))
        >>> optimizer = torch.optim.RMSprop(model.parameters())
        >>> hook = optimizer.register_step_pre_hook(lambda *_: fastops.centralize_gradients_(model))
        >>> model(torch.randn(1, 3, 8, 8)).square().sum().backward()
        >>> optimizer.step()
        >>> model[0].weight.grad.mean((1, 2, 3)).abs().max() < 1e-3
        tensor(True)
    """
    groups = transposed_groups(transposed)
    if isinstance(params, nn.Module):
        params, groups = params.parameters(), {**transposed_groups(params), **groups}
    batches: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[int]]] = {}
    for p in [params] if isinstance(params, Tensor) else params:
        grad = p.grad
        if grad is None:
            continue
        channels = channel_number(p, conv_only, groups)
        check_sharding("centralize_gradients_", p, grad, channels)
        if channels < 0:
            continue
        grad = local(grad)
        check_dense("centralize_gradients_", grad)
        tensors, numbers = batches.setdefault((grad.device, grad.dtype), ([], []))
        tensors.append(grad)
        numbers.append(channels)
    with torch.no_grad():
        for tensors, numbers in batches.values():
            _centralize(tensors, numbers)
            torch.autograd.graph.increment_version(tensors)  # so that a graph that needs the old values raises an error


def check_dense(op: str, grad: Tensor) -> None:
    """Refuse sparse gradients."""
    check(
        grad.layout == torch.strided,
        f"{op}: gradients must be dense, got {grad.layout} of shape {list(grad.shape)}",
    )


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check_lists(op: str, like_name: str, channels: Sequence[int], **lists: Sequence[Tensor]) -> None:
    """Check that all lists match the list `like_name`, and that the tensors of that list match its first tensor."""
    like = lists[like_name]
    for name, tensors in lists.items():
        check(
            len(tensors) == len(like),
            f"{op}: {name} must have as many tensors as {like_name} ({len(like)}), got {len(tensors)}",
        )
    check(
        len(channels) == len(like),
        f"{op}: channels must have a number for each of {like_name} ({len(like)}), got {len(channels)}",
    )
    least = -1 if len(lists) > 1 else 0
    for i, (t, number) in enumerate(zip(like, channels, strict=True)):
        check(
            t.dtype in FLOATING,
            f"{op}: {like_name}[{i}] must have dtype float32, float64, float16 or bfloat16, got {dtype_name(t.dtype)}",
        )
        for name, tensors in lists.items():
            other, j = tensors[i], 0 if name == like_name else i
            expected = like[j]
            check(
                other.dtype == expected.dtype,
                f"{op}: {name}[{i}] must have the dtype of {like_name}[{j}] ({dtype_name(expected.dtype)}), "
                f"got {dtype_name(other.dtype)}",
            )
            check_same_device(op, f"{name}[{i}]", other, f"{like_name}[{j}]", expected)
            if name != like_name:
                check_same_shape(op, f"{name}[{i}]", other, f"{like_name}[{j}]", expected)
        check(number >= least, f"{op}: channels[{i}] must be at least {least}, got {number}")
        if number < 0:
            continue
        check(
            t.dim() >= 2,
            f"{op}: {like_name}[{i}] must have at least 2 dimensions to be centralized, got {list(t.shape)}",
        )
        check(
            number == 0 or t.shape[0] % number == 0,
            f"{op}: channels[{i}] must divide the input channels ({t.shape[0]}), got {number}",
        )


def _check_scalars(op: str, params: Sequence[Tensor], lr_tensor, grad_scale, found_inf) -> None:
    for name, t in (("lr_tensor", lr_tensor), ("grad_scale", grad_scale), ("found_inf", found_inf)):
        if t is None or not params:
            continue
        double = " or float64" if name == "lr_tensor" else ""
        check(
            t.dtype == torch.float32 or (bool(double) and t.dtype == torch.float64),
            f"{op}: {name} must have dtype float32{double}, got {dtype_name(t.dtype)}",
        )
        check(t.numel() == 1, f"{op}: {name} must have one element, got {list(t.shape)}")
        check_same_device(op, name, t, "params[0]", params[0])


def _check_centralize(tensors, channels) -> None:
    _check_lists("centralize_", "tensors", channels, tensors=tensors)


def _check_sgd(
    params, grads, momentum_buffers, channels, lr, momentum, dampening, weight_decay, nesterov, maximize,
    lr_tensor=None, grad_scale=None, found_inf=None,
) -> None:  # fmt: skip
    buffers = {"momentum_buffers": momentum_buffers} if momentum else {}
    _check_lists("sgd_gc_step_", "params", channels, grads=grads, params=params, **buffers)
    _check_scalars("sgd_gc_step_", params, lr_tensor, grad_scale, found_inf)


def _check_adamw(
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, channels, lr, beta1, beta2, eps, weight_decay,
    maximize, lr_tensor=None, grad_scale=None, found_inf=None,
) -> None:  # fmt: skip
    op = "adamw_gc_step_"
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if max_exp_avg_sqs:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    _check_lists(op, "params", channels, grads=grads, params=params, **states)
    _check_scalars(op, params, lr_tensor, grad_scale, found_inf)
    check(
        len(steps) == len(params), f"{op}: steps must have as many tensors as params ({len(params)}), got {len(steps)}"
    )
    for i, step in enumerate(steps):
        check(
            step.dtype == torch.float32 and step.numel() == 1,
            f"{op}: steps[{i}] must be one float32, got {dtype_name(step.dtype)} {list(step.shape)}",
        )
        check_same_device(op, f"steps[{i}]", step, f"params[{i}]", params[i])


#: The checks of csrc/common/centralize.h, by schema.
CHECKS = {"centralize_": _check_centralize, "sgd_gc_step_": _check_sgd, "adamw_gc_step_": _check_adamw}


@torch.library.register_fake("fastops::centralize_")
def _(tensors, channels) -> None:
    _check_centralize(tensors, channels)


@torch.library.register_fake("fastops::sgd_gc_step_")
def _(*args, **kwargs) -> None:
    _check_sgd(*args, **kwargs)


@torch.library.register_fake("fastops::adamw_gc_step_")
def _(*args, **kwargs) -> None:
    _check_adamw(*args, **kwargs)
