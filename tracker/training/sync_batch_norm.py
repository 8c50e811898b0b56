"""Batch norm over the batches of all processes. It also runs on CPUs, where torch.nn.SyncBatchNorm does not."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastops.nn import in_class


class _Statistics(torch.autograd.Function):
    """Mean and biased variance of each channel of x [N, C, H, W] over all processes.

    All processes must have the same number of values.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        size = dist.get_world_size()
        # The squared differences of the means are small, so this loses no digits. E[x^2] - E[x]^2 over x would.
        parts = torch.stack([mean, var])
        gathered = [torch.empty_like(parts) for _ in range(size)]
        dist.all_gather(gathered, parts)
        means, variances = torch.stack(gathered, 1)  # [size, C] each
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, mean)
        ctx.count = x.numel() // x.shape[1] * size
        return mean, var

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        grads = torch.stack([grad_mean, grad_var])
        dist.all_reduce(grads)  # the losses of all processes depend on these statistics
        # d mean / dx = 1 / n, d var / dx = 2 (x - mean) / n
        slope = 2 * grads[1] / ctx.count
        shift = grads[0] / ctx.count - slope * mean
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, slope[:, None, None].to(x.dtype))


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics in training come from the batches of all processes.

    All processes must have the same number of values per channel. In eval mode, and without `torch.distributed`, it is
    the same as `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        mean, var = _Statistics.apply(x)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))


def synchronised(model: nn.Module) -> AbstractContextManager[None]:
    """For a `with` block, make every `nn.BatchNorm2d` of the model a [`SyncBatchNorm2d`][].

    The modules stay the same objects, with the same parameters.
    """
    return in_class(model, nn.BatchNorm2d, SyncBatchNorm2d)
