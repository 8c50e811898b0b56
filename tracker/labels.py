"""Labels of SiamFC's score maps and the balanced logistic loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_labels(
    size: int = 17, stride: int = 8, radius: float = 16.0, *, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Labels y and weights of a score map: y[u] = +1 if stride * |u - c| <= radius, else -1, c the centre.

    The weights are .5 / (number of positives) and .5 / (number of negatives), so both classes count the same however
    few the positives are, and the weights add up to 1.

    Args:
        size: side of the score map.
        stride: pixels of the search image per step of the score map.
        radius: distance in pixels up to which a place counts as the target.

    Returns:
        labels and weights, float32 [size, size] each.

    Raises:
        ValueError: when the radius leaves no positive or no negative place.

    Source: paper 000 eq. 4.

    Example:
        >>> labels, weights = logistic_labels()
        >>> int((labels > 0).sum()), round(float(weights.sum()), 6)
        (13, 1.0)
    """
    axis = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    positive = stride * torch.hypot(axis[:, None], axis[None, :]) <= radius
    count = int(positive.sum())
    if not 0 < count < size * size:
        raise ValueError(
            f"logistic_labels: radius must leave positives and negatives on the {size}x{size} map, got {radius}"
        )
    weights = torch.where(positive, 0.5 / count, 0.5 / (size * size - count))
    return torch.where(positive, 1.0, -1.0), weights


def balanced_logistic_loss(responses: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over the batch of sum_u weights[u] * log(1 + exp(-y[u] v[u])), without overflow for any v.

    Args:
        responses: score maps v, [N, 1, S, S], any float dtype (half types are computed in float32).
        labels, weights: [S, S] as `logistic_labels` gives them.

    Source: paper 000 eq. 2-3, with 1/|D| replaced by the balancing weights.

    Example:
        >>> labels, weights = logistic_labels()
        >>> float(balanced_logistic_loss(torch.zeros(2, 1, 17, 17), labels, weights))  # ln 2
        0.6931471824645996
    """
    values = responses.float() if responses.dtype in (torch.float16, torch.bfloat16) else responses
    return (weights * F.softplus(-labels * values)).sum(dim=(-2, -1)).mean()
