"""Modules that apply Mish after an affine map or a batch norm of each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastops.nn._tracing import is_traced, leaf_call
from fastops.ops.affine_mish import affine_mish, batch_norm_mish


class AffineMish(nn.Module):
    r"""Learned scale and shift of each channel, then Mish; see [`fastops.affine_mish`][].

    $$
    y_c = f(w_c x_c + b_c), \quad f(v) = v \tanh(\ln(1 + e^v))
    $$

    Args:
        channels: C of the input [N, C, ...].

    The parameters are `weight` [C], which starts at 1, and `bias` [C], which starts at 0.

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
    """The forward of torch's batch norm modules, with [`fastops.batch_norm_mish`][] in place of `F.batch_norm`.

    Tools that convert models would treat the module as a batch norm and drop its Mish. All of them
    (`nn.SyncBatchNorm.convert_sync_batchnorm`, torch's quantization) read `qconfig`, so reading it raises an error.
    """

    @property
    def qconfig(self) -> None:
        name = type(self).__name__
        raise RuntimeError(
            f"{name} must not be converted (to SyncBatchNorm, or for quantization): its Mish would be lost. "
            "Convert the model before fastops.accelerate, or after fastops.restore"
        )

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name != "qconfig"]  # torch.jit reads every listed attribute

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
    """`nn.BatchNorm1d`, then Mish, for [N, C] or [N, C, L]; see [`BatchNormMish2d`][fastops.nn.BatchNormMish2d].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish1d(8)(torch.randn(4, 8)).shape
        torch.Size([4, 8])
    """


class BatchNormMish2d(_BatchNormMish, nn.BatchNorm2d):
    r"""`nn.BatchNorm2d`, then Mish, for [N, C, H, W]; see [`fastops.batch_norm_mish`][].

    $$
    y_c = f\left(w_c \frac{x_c - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + b_c\right)
    $$

    Arguments, parameters, buffers and state-dict keys are those of `nn.BatchNorm2d`. Training takes two passes over the
    input, and two more for the gradients. Of the large tensors only the input is saved.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish2d(8)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """


class BatchNormMish3d(_BatchNormMish, nn.BatchNorm3d):
    """`nn.BatchNorm3d`, then Mish, for [N, C, D, H, W]; see [`BatchNormMish2d`][fastops.nn.BatchNormMish2d].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BatchNormMish3d(8)(torch.randn(2, 8, 3, 5, 5)).shape
        torch.Size([2, 8, 3, 5, 5])
    """
