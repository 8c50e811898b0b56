"""The common base of SGDGC and AdamWGC: which parameters are centralized, and the arguments of a fused step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from fastops._channels import Transposed, channel_number, check_sharding, transposed_groups
from fastops.ops.centralize import check_dense

_FALSE_WHERE_MISSING = ("maximize", "nesterov", "amsgrad")


class CentralizedOptimizer(Optimizer):
    """Base of the optimizers. `centralize` and `conv_only` of a group decide which of its gradients are centralized."""

    # GradScaler then leaves the scale and the check for infinities to the step, which reads both on the device.
    _step_supports_amp_scaling = True

    def __init__(self, params: ParamsT | nn.Module, transposed: Transposed, defaults: dict[str, Any]) -> None:
        if defaults.pop("differentiable"):
            raise ValueError(f"{type(self).__name__}: differentiable must be False, got True: a step is no graph")
        self._check("lr", defaults["lr"])
        self._check("weight_decay", defaults["weight_decay"])
        groups = transposed_groups(transposed)
        if isinstance(params, nn.Module):
            params, groups = params.parameters(), {**transposed_groups(params), **groups}
        super().__init__(params, {**defaults, "transposed": groups})

    def _check(self, name: str, value: float | Tensor, below: float = float("inf")) -> None:
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{type(self).__name__}: {name} must have one element, got {list(value.shape)}")
        if not 0 <= value < below:
            limit = "" if below == float("inf") else f" and below {below:g}"
            raise ValueError(f"{type(self).__name__}: {name} must be at least 0{limit}, got {value}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Like torch's. A group may also name its weights of transposed convolutions (`transposed`)."""
        groups = transposed_groups(param_group.pop("transposed", ()))
        super().add_param_group(param_group)
        # Not kept in the group, because a state_dict cannot hold parameters.
        del self.param_groups[-1]["transposed"]
        self.defaults["transposed"].update(groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Add the settings that a loaded group does not have.

        States of older versions of torch have no `maximize`, `nesterov` or `amsgrad`. They become False, as in torch's
        optimizers. Settings that only this optimizer has, such as `centralize`, keep their values.
        """
        own = getattr(self, "param_groups", [])
        super().__setstate__(state)
        for index, group in enumerate(self.param_groups):
            before = own[index] if index < len(own) else self.defaults
            for name in self.defaults.keys() - {"transposed"}:
                group.setdefault(name, False if name in _FALSE_WHERE_MISSING else before.get(name, self.defaults[name]))

    def _with_gradients(self, group: dict[str, Any]) -> Iterator[tuple[Tensor, int]]:
        """The parameters to update, each with its number of `fastops._channels`."""
        transposed = self.defaults["transposed"]
        for p in group["params"]:
            if p.grad is None:
                continue
            check_dense(type(self).__name__, p.grad)
            channel = channel_number(p, group["conv_only"], transposed) if group["centralize"] else -1
            if group["centralize"]:
                check_sharding(type(self).__name__, p, p.grad, channel)
            yield p, channel

    def _scalars(self, group: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """The learning rate, the gradient scale and the infinity flag, as arguments of the ops."""
        lr, tensor = group["lr"], None
        if isinstance(lr, Tensor):
            if lr.device.type == "cpu" != device.type:  # reading it does not wait for a device
                lr = lr.item()
            else:
                dtype = torch.float64 if lr.dtype == torch.float64 else torch.float32
                lr, tensor = 0.0, lr.detach().to(device, dtype, non_blocking=True)
        scalars = {"lr": lr, "lr_tensor": tensor}
        for name in ("grad_scale", "found_inf"):  # set by GradScaler around a step
            value = getattr(self, name, None)
            scalars[name] = None if value is None else value.to(device, torch.float32, non_blocking=True)
        return scalars


def by_device_and_dtype(
    items: Iterable[tuple[Tensor, int]], kind: Callable[[Tensor], Any] = lambda p: None
) -> dict[tuple, list[tuple[Tensor, int]]]:
    """The parameters and numbers for each call of an op. One call has one device, dtype and `kind`."""
    batches: dict[tuple, list[tuple[Tensor, int]]] = {}
    for p, channels in items:
        batches.setdefault((p.device, p.dtype, kind(p)), []).append((p, channels))
    return batches
