"""SGD with gradient centralization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from fastops._channels import Transposed, local
from fastops.optim._base import CentralizedOptimizer, by_device_and_dtype

_step = torch.ops.fastops.sgd_gc_step_.default


class SGDGC(CentralizedOptimizer):
    r"""`torch.optim.SGD` with gradient centralization, each step one kernel over all parameters.

    $$
    \begin{align*}
    d &= g + \lambda \theta, \qquad d \leftarrow d - \operatorname{mean}(d) \text{ of each output channel} \\
    b &\leftarrow \mu b + (1 - \tau) d \quad (b = d \text{ in the first step}) \\
    \theta &\leftarrow \theta - \gamma b, \qquad \text{nesterov: } \theta \leftarrow \theta - \gamma (d + \mu b)
    \end{align*}
    $$

    The weight decay comes before the centralization, as in the optimizer of the method's authors; so the mean of an
    output channel's weights stays what it was at the start.

    Args:
        params: parameters, named parameters or groups of them, as for any optimizer; or a module.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as `torch.optim.SGD`. `lr` may be a tensor of one
            element; it is read on the device.
        foreach, fused: accepted and ignored, so that code that sets them for torch's runs: a step is always fused.
        differentiable: must be False.
        conv_only: centralize parameters of more than 2 dimensions only (SGD_GCC), not those of more than 1 (SGD_GC).
            Parameters of a single weight per output channel are never centralized: they would not move.
        centralize: False makes a group plain SGD.
        transposed: the weights of transposed convolutions, whose output channel is dim 1: an iterable of them, a
            mapping from each to its `groups`, or the module that has them. A module given as `params` is looked
            through by itself. A group may have its own.

    Raises:
        ValueError: `SGDGC: <argument> must ...`.
        RuntimeError: from `step`, for sparse gradients, and for parameters that are not float32, float64, float16 or
            bfloat16 (half types compute in float32; states have the dtype of their parameter).

    `state_dict` is that of `torch.optim.SGD`; either loads the other's. Learning rate schedulers, step hooks and
    closures work as with torch's. Under `torch.amp.GradScaler` the step divides by the scale and skips itself where
    an infinity was found, on the device; it leaves `.grad` scaled, so call `scaler.unscale_(optimizer)` before
    reading or clipping gradients. The parameters of `fully_shard` (FSDP2) need no communication, each process having
    whole output channels; the flat ones of FSDP1 are refused. A step can be captured in a CUDA graph once the states
    exist (after the first step).

    Source: Yong et al., "Gradient Centralization", ECCV 2020, algorithm 1; Zhang and Wang, "Object
    tracking in siamese network with attention mechanism and Mish function", eq. 10-11.

    Examples:

        >>> import torch, fastops
        >>> model = torch.nn.Conv2d(3, 8, 3)
        >>> optimizer = fastops.optim.SGDGC(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)
        >>> schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        >>> before = model.weight.mean((1, 2, 3))
        >>> model(torch.randn(1, 3, 8, 8)).square().mean().backward()
        >>> optimizer.step()
        >>> schedule.step()
        >>> torch.allclose(model.weight.mean((1, 2, 3)), before, atol=1e-6)
        True
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
        conv_only: bool = False,
        centralize: bool = True,
        transposed: Transposed = (),
    ) -> None:
        self._check("momentum", momentum)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("SGDGC: nesterov must come with a momentum and without dampening")
        super().__init__(
            params,
            transposed,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "differentiable": differentiable,
                "conv_only": conv_only,
                "centralize": centralize,
            },
        )

    def _is_first_step(self, p: Tensor) -> bool:
        return self.state[p].get("momentum_buffer") is None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure` recomputes the loss and its gradients, and the loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            kind = self._is_first_step if group["momentum"] != 0 else lambda p: False
            for (device, _, first), batch in by_device_and_dtype(self._with_gradients(group), kind).items():
                self._step_batch(group, device, first, batch)
        return loss

    def _step_batch(self, group: dict[str, Any], device: torch.device, first: bool, batch: list) -> None:
        params, channels = map(list, zip(*batch, strict=True))
        scalars = self._scalars(group, device)
        dampening, buffers = group["dampening"], []
        if first:
            # From a buffer of zeros and without dampening it becomes the gradient. A step that the scaler skips leaves
            # the zeros; that the next one is then the first matters only to dampening, so only there it is asked.
            found_inf = scalars["found_inf"]
            if dampening != 0 and found_inf is not None and found_inf.item():
                return
            dampening = 0
            for p in params:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        if group["momentum"] != 0:
            buffers = [self.state[p]["momentum_buffer"] for p in params]
        _step(
            [local(p) for p in params],
            [local(p.grad) for p in params],
            [local(buffer) for buffer in buffers],
            channels,
            momentum=group["momentum"],
            dampening=dampening,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            **scalars,
        )
        torch.autograd.graph.increment_version([*params, *buffers])
