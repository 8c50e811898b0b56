"""Modules of Mish after a map of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastops.nn._tracing import is_traced, leaf_call
from fastops.ops.affine_mish import affine_mish, batch_norm_mish


class AffineMish(nn.Module):
    r"""Learned scale and shift of each channel, then Mish: $y_c = f(w_c x_c + b_c)$; see
    [`fastops.affine_mish`][].

    Args:
        channels: C of the input [N, C, ...].

    Parameters are called `weight` [C], starting at 1, and `bias` [C], starting at 0.

    Raises:
        ValueError: `AffineMish: channels must be at least 1 ...`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.AffineMish(32)(torch.ones(2, 32, 7, 7)).shape
        torch.Size([2, 32, 7, 7])
    """

    def __init__(self, channels: int, device=None, dtype=None) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"AffineMish: channels must be at least 1, got {channels}")
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return affine_mish(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"


class _BatchNormMish:
    """The forward of torch's batch norm modules with [`fastops.batch_norm_mish`][] in the place of its function.

    Tools that convert models take the module for a batch norm and would drop its Mish. `qconfig` is what they all ask
    for: `nn.SyncBatchNorm.convert_sync_batchnorm` and torch's quantization.
    """

    @property
    def qconfig(self) -> None:
        name = type(self).__name__
        raise RuntimeError(
            f"{name} must not be converted (to SyncBatchNorm, or for quantization): its Mish would be lost. "
            "Convert the model before fastops.accelerate, or after fastops.restore"
        )

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "qconfig"]  # torch.jit looks at every name in it

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x):
            return leaf_call(self, x)
        self._check_input_dim(x)
        momentum = 0.0 if self.momentum is None else self.momentum
        update = self.training and self.track_running_stats
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        by_batch = self.training or self.running_mean is None
        return batch_norm_mish(
            x,
            self.running_mean if update or not by_batch else None,
            self.running_var if update or not by_batch else None,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
        )


class BatchNormMish1d(_BatchNormMish, nn.BatchNorm1d):
    """`nn.BatchNorm1d`, then Mish, of [N, C] or [N, C, L]; see [`BatchNormMish2d`][fastops.nn.BatchNormMish2d].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish1d(8)(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """


class BatchNormMish2d(_BatchNormMish, nn.BatchNorm2d):
    r"""`nn.BatchNorm2d`, then Mish, of [N, C, H, W], with the arguments, parameters, buffers and state-dict keys of
    `nn.BatchNorm2d`.

    $$
    y_c = f\left(w_c \frac{x_c - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + b_c\right)
    $$

    In training two passes over the input, and two more backward, which keeps nothing of the input's size but the input;
    see [`fastops.batch_norm_mish`][].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish2d(8)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """


class BatchNormMish3d(_BatchNormMish, nn.BatchNorm3d):
    """`nn.BatchNorm3d`, then Mish, of [N, C, D, H, W]; see [`BatchNormMish2d`][fastops.nn.BatchNormMish2d].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish3d(8)(torch.randn(2, 8, 3, 5, 5)).shape
        torch.Size([2, 8, 3, 5, 5])
    """
