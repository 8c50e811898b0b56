"""Corrects a box head by the first frame, whose box is known.

Users draw boxes differently: around a head or a whole animal, around a rider with or without the horse. The box head
has learned the boxes of its training data. Its box for the first frame shows how the user's box differs from those. All
later boxes are corrected by the same ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracker.geometry import STRIDE
from tracker.network.box_head import boxes_of

RADIUS = 1.5 * STRIDE  # of the Gaussian around the middle that weighs the cells' boxes, in pixels
LARGEST = 2.5  # largest ratio of sides, and its inverse; beyond it the head's box is not used
FARTHEST = 0.25  # largest distance of the centres, in sides


def calibration(ltrb: Tensor, width: float, height: float) -> Tensor:
    r"""Compute the linear map of distances that turns the head's box for the first frame into the known box.

    Let W and H be the sides of the head's box, (X, Y) its centre relative to the middle, and w and h the known sides.
    Later sides are multiplied by w / W and h / H. Later centres are moved by -X and -Y, times the ratio of the later
    side to W and H.

    Args:
        ltrb: distances [1, 4, h, w] for the first frame, in pixels of the search crop. The target is in its middle.
        width, height: known sides of the target in the same pixels.

    Returns:
        float32 [4, 4], the matrix that maps l, t, r, b to corrected distances.

    Example:
        >>> ltrb = torch.full((1, 4, 17, 17), 40.0)  # near the middle a box of 80 x 80
        >>> corrected = calibration(ltrb, 60.0, 80.0) @ torch.tensor([40.0, 40.0, 40.0, 40.0])
        >>> [round(value) for value in corrected.tolist()]
        [30, 40, 30, 40]
    """
    boxes = boxes_of(ltrb.float())[0]  # [H, W, 4]
    y, x = (STRIDE * (torch.arange(n, device=ltrb.device) - (n - 1) / 2) for n in boxes.shape[:2])
    weight = torch.exp(-(y[:, None].square() + x.square()) / RADIUS**2)
    x1, y1, x2, y2 = ((weight[..., None] * boxes).sum((0, 1)) / weight.sum()).tolist()
    matrix = torch.zeros(4, 4, dtype=torch.float32, device="cpu")
    for axis, (low, high, side) in enumerate(((x1, x2, width), (y1, y2, height))):
        answered = max(high - low, 1e-3)
        ratio = min(max(side / answered, 1 / LARGEST), LARGEST)
        offset = min(max((low + high) / 2 / answered, -FARTHEST), FARTHEST)
        near, far = (1 + ratio) / 2, (ratio - 1) / 2
        matrix[axis, axis], matrix[axis, axis + 2] = near + offset, far + offset
        matrix[axis + 2, axis], matrix[axis + 2, axis + 2] = far - offset, near - offset
    return matrix


def calibrated(ltrb: Tensor, matrices: Tensor) -> Tensor:
    """The distances [K, 4, h, w], corrected by the matrices [K, 4, 4] of their targets."""
    return torch.matmul(matrices.to(ltrb.dtype), ltrb.flatten(2)).view_as(ltrb)
