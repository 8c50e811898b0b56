"""Balanced logistic loss of score maps.

Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", 2016;
Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 2-4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ._common import contiguous, opmath, with_backward


def balanced_logistic_loss(
    responses: torch.Tensor,
    radius: float = 16.0,
    stride: float = 8.0,
    reduction: str = "mean",
    centers: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logistic loss of each score map, sum_u w[u] ln(1 + exp(-y[u] v[u])), and its mean or sum over the maps.

    A cell u has the label y[u] = +1 if stride |u - c| <= radius, where c is the centre, and -1 otherwise. Its weight is
    0.5 / (number of cells with that label), so both labels have the same weight. A label without cells adds nothing.

    Args:
        responses: score maps v, [..., H, W], any floating dtype.
        radius: in pixels; cells up to this distance from the centre are positives.
        stride: pixels per cell of the map.
        reduction: "none" (one loss per map, [...]), "mean" or "sum".
        centers: [N, 2], row and column of the target in each of the N maps, in cells. The default is the middle.

    Returns:
        The loss in the dtype of `responses`.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", ECCVW 2016, eq. 3-5.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.balanced_logistic_loss(torch.zeros(8, 1, 17, 17))  # ln 2
        tensor(0.6931)
    """
    v = opmath(responses)
    height, width = v.shape[-2:]
    row, column = (height - 1) / 2, (width - 1) / 2
    if centers is not None:
        row, column = centers.double().view(*v.shape[:-2], 2, 1).unbind(-2)  # [..., 1] each
    down, across = (torch.arange(n, dtype=torch.float64, device=v.device) for n in (height, width))
    squared = ((down - row) ** 2)[..., :, None] + ((across - column) ** 2)[..., None, :]  # [..., H, W], or [H, W]
    positive = squared <= (radius / stride) ** 2
    count = positive.sum((-2, -1), keepdim=True, dtype=v.dtype)
    weight = torch.where(positive, 0.5 / count, 0.5 / (height * width - count))
    # Beyond its threshold softplus is the identity. With a threshold of 40 this is exact to rounding, in float64 too.
    losses = (weight * F.softplus(torch.where(positive, -v, v), threshold=40.0)).sum((-2, -1))
    if reduction != "none":
        losses = losses.mean() if reduction == "mean" else losses.sum()
    return losses.to(responses.dtype)


# centers has no gradient.
OPS = with_backward(balanced_logistic_loss, contiguous, gradients=1)
