"""Batched cross-correlation of templates with searches (Bertinetto et al. 2016, eq. 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ._common import contiguous, opmath, with_backward


def _pairs(z: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both batches in opmath, repeated to the length of the larger. Pair b is z[b // (B/Nz)] and x[b // (B/Nx)]."""
    z, x = opmath(z), opmath(x)
    pairs = max(len(z), len(x))
    z, x = (t if len(t) == pairs else t.repeat_interleave(pairs // len(t), 0) for t in (z, x))
    return z, x


def xcorr(z: torch.Tensor, x: torch.Tensor, scale: float = 1.0, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-correlation: y[b, 0, p, q] = scale sum_{c,i,j} z[b // (B/Nz), c, i, j] x[b // (B/Nx), c, p+i, q+j] + bias.

    There are B = max(Nz, Nx) pairs. One template has several searches (Nz < Nx), or one search several templates
    (Nz > Nx).

    Args:
        z: templates [Nz, C, h, w], any floating dtype.
        x: searches [Nx, C, H, W], H >= h and W >= w; the smaller of Nz and Nx must divide the larger.
        scale: factor on the sum.
        bias: tensor of one element, added last, or None.

    Returns:
        Score maps [B, 1, H - h + 1, W - w + 1] in the dtype of `x`.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", ECCVW 2016.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.xcorr(torch.randn(1, 256, 6, 6), torch.randn(3, 256, 22, 22), scale=1e-3).shape
        torch.Size([3, 1, 17, 17])
    """
    wide_z, wide_x = _pairs(z, x)
    if 0 in wide_x.shape[:2]:  # conv2d does not accept 0 groups
        y = F.conv2d(wide_x, wide_z.sum(0, keepdim=True)).sum(1, keepdim=True)
    else:
        y = F.conv2d(wide_x.flatten(0, 1)[None], wide_z, groups=len(wide_x)).transpose(0, 1)
    y = scale * y
    if bias is not None:
        y = y + bias.to(y.dtype).reshape(())
    return y.to(x.dtype)


def xcorr_depthwise(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Cross-correlation channel by channel: y[b, c, p, q] = sum_{i,j} z[b', c, i, j] x[b", c, p+i, q+j].

    The B = max(Nz, Nx) pairs are those of `xcorr`: b' = b // (B/Nz), b" = b // (B/Nx).

    Args:
        z: templates [Nz, C, h, w], any floating dtype.
        x: searches [Nx, C, H, W], H >= h and W >= w; the smaller of Nz and Nx must divide the larger.

    Returns:
        Score maps [B, C, H - h + 1, W - w + 1] in the dtype of `x`.

    Source: Li et al., "SiamRPN++: Evolution of Siamese Visual Tracking with Very Deep Networks", 2019, section 3.4.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.xcorr_depthwise(torch.randn(1, 8, 6, 6), torch.randn(3, 8, 22, 22)).shape
        torch.Size([3, 8, 17, 17])
    """
    wide_z, wide_x = _pairs(z, x)
    batch, channels = wide_x.shape[:2]
    if batch * channels == 0:  # conv2d does not accept 0 groups
        windows = wide_x.unfold(2, z.shape[2], 1).unfold(3, z.shape[3], 1)  # [B, C, H - h + 1, W - w + 1, h, w]
        y = (windows * wide_z[:, :, None, None]).sum((4, 5))
    else:
        y = F.conv2d(wide_x.flatten(0, 1)[None], wide_z.flatten(0, 1)[:, None], groups=batch * channels)
        y = y.unflatten(1, (batch, channels))[0]
    return y.to(x.dtype)


# The backward returns the gradients of z and x, not of scale and bias.
OPS = with_backward(xcorr, result_layout=contiguous, gradients=2) | with_backward(xcorr_depthwise, result_like=1)
