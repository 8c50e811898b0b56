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
    r"""`torch.optim.SGD` with gradient centralization. Each step is one kernel over all parameters.

    $$
    \begin{align*}
    d &= g + \lambda \theta, \qquad d \leftarrow d - \operatorname{mean}(d) \text{ of each output channel} \\
    b &\leftarrow \mu b + (1 - \tau) d \quad (b = d \text{ in the first step}) \\
    \theta &\leftarrow \theta - \gamma b, \qquad \text{nesterov: } \theta \leftarrow \theta - \gamma (d + \mu b)
    \end{align*}
    $$

    The weight decay comes before the centralization, as in the code of the method's authors. So the mean of an output
    channel's weights does not change.

    Args:
        params: parameters, named parameters or groups of them, as for any optimizer; or a module.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`. `lr` may be a tensor of one
            element, which is read on the device.
        foreach, fused: accepted for compatibility with torch and ignored. A step is always fused.
        differentiable: must be False.
        conv_only: centralize parameters with more than 2 dimensions only (SGD_GCC). By default, those with more than 1
            dimension are centralized (SGD_GC). Parameters with a single weight per output channel never are, because
            they would not move.
        centralize: False makes a group plain SGD.
        transposed: the weights of transposed convolutions, whose output channel is dimension 1: an iterable of them, a
            mapping from each to its `groups`, or the module that has them. If `params` is a module, its transposed
            convolutions are found without this argument. A group may have its own `transposed`.

    Raises:
        ValueError: `SGDGC: <argument> must ...`.
        RuntimeError: from `step`, for sparse gradients, and for parameters that are not float32, float64, float16 or
            bfloat16 (half types compute in float32; states have the dtype of their parameter).

    The `state_dict` has the format of `torch.optim.SGD`, and each optimizer loads the other's. Learning rate
    schedulers, step hooks and closures work as with torch's optimizers.

    Under `torch.amp.GradScaler` the step divides by the scale, and does nothing if an infinity was found; both happen
    on the device. It leaves `.grad` scaled, so call `scaler.unscale_(optimizer)` before reading or clipping gradients.

    The parameters of `fully_shard` (FSDP2) need no communication, because each process has whole output channels. The
    flat parameters of FSDP1 raise an error. After the first step, which makes the states, a step can be captured in a
    CUDA graph.

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
        """Make one step. `closure` recomputes the loss and its gradients; its loss is returned."""
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
            # The first step sets the buffer to the gradient: it starts from zeros and has no dampening. If the scaler
            # skips the step, the zeros stay and the next step is the first. That matters for dampening only, so only
            # then the host reads the flag.
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
