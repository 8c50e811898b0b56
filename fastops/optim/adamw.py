"""AdamW with gradient centralization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from fastops._channels import Transposed, local
from fastops.optim._base import CentralizedOptimizer, by_device_and_dtype

_step = torch.ops.fastops.adamw_gc_step_.default


class AdamWGC(CentralizedOptimizer):
    r"""`torch.optim.AdamW` with gradient centralization. Each step is one kernel over all parameters.

    $$
    \begin{align*}
    d &= g - \operatorname{mean}(g) \text{ of each output channel} \\
    m &\leftarrow \beta_1 m + (1 - \beta_1) d, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) d^2 \\
    \theta &\leftarrow (1 - \gamma \lambda) \theta
    - \gamma \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
    \end{align*}
    $$

    The weight decay is decoupled, so it is not centralized.

    Args:
        params: parameters, named parameters or groups of them, as for any optimizer; or a module.
        lr, betas, eps, weight_decay, amsgrad, maximize: as in `torch.optim.AdamW`. `lr` may be a tensor of one
            element, which is read on the device.
        foreach, fused: accepted for compatibility with torch and ignored. A step is always fused.
        differentiable: must be False.
        conv_only: centralize parameters with more than 2 dimensions only. By default, those with more than 1 dimension
            are centralized. Parameters with a single weight per output channel never are, because they would not move.
        centralize: False makes a group plain AdamW.
        transposed: the weights of transposed convolutions, whose output channel is dimension 1: an iterable of them, a
            mapping from each to its `groups`, or the module that has them. If `params` is a module, its transposed
            convolutions are found without this argument. A group may have its own `transposed`.

    Raises:
        ValueError: `AdamWGC: <argument> must ...`.
        RuntimeError: from `step`, for sparse gradients, and for parameters that are not float32, float64, float16 or
            bfloat16 (half types compute in float32; states have the dtype of their parameter, step counts float32).

    The `state_dict` has the format of `torch.optim.AdamW`, and each optimizer loads the other's. The step counts are on
    the device of their parameter, as with torch's `fused=True`. Learning rate schedulers, step hooks, closures, CUDA
    graphs and `torch.amp.GradScaler` work as in [`SGDGC`][fastops.optim.SGDGC].

    Source: Yong et al., "Gradient Centralization", ECCV 2020, algorithm 2; Loshchilov & Hutter, "Decoupled Weight Decay
    Regularization", ICLR 2019, algorithm 2.

    Examples:

        >>> import torch, fastops
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ConvTranspose2d(8, 3, 3))
        >>> optimizer = fastops.optim.AdamWGC(model, lr=1e-3)
        >>> model(torch.randn(1, 3, 8, 8)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model[0].weight]["step"]
        tensor(1.)
    """

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
        conv_only: bool = False,
        centralize: bool = True,
        transposed: Transposed = (),
    ) -> None:
        for i, beta in enumerate(betas):
            self._check(f"betas[{i}]", beta, below=1)
        self._check("eps", eps)
        super().__init__(
            params,
            transposed,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "differentiable": differentiable,
                "conv_only": conv_only,
                "centralize": centralize,
            },
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for p, values in self.state.items():
            if "step" in values:  # torch's is on the CPU unless fused, and float64 if that is the default dtype
                values["step"] = torch.as_tensor(values["step"], dtype=torch.float32, device=p.device)

    def _state(self, p: Tensor, amsgrad: bool) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if amsgrad else 2]:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step. `closure` recomputes the loss and its gradients; its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for (device, *_), batch in by_device_and_dtype(self._with_gradients(group)).items():
                self._step_batch(group, device, batch)
        return loss

    def _step_batch(self, group: dict[str, Any], device: torch.device, batch: list) -> None:
        params, channels = map(list, zip(*batch, strict=True))
        states = [self._state(p, group["amsgrad"]) for p in params]
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")
        lists = {name: [state[name] for state in states] for name in names if name in states[0]}
        beta1, beta2 = group["betas"]
        _step(
            [local(p) for p in params],
            [local(p.grad) for p in params],
            [local(t) for t in lists["exp_avg"]],
            [local(t) for t in lists["exp_avg_sq"]],
            [local(t) for t in lists["max_exp_avg_sq"]] if group["amsgrad"] else [],
            lists["step"],
            channels,
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
            **self._scalars(group, device),
        )
        torch.autograd.graph.increment_version([*params, *(t for tensors in lists.values() for t in tensors)])
