"""A box head corrected by the first frame, whose box is known.

What a target is differs from one user to the next: a head or a whole animal, a rider with or without the horse. The box
head learned what the boxes of its training data bound. Its answer for the first frame tells how the user's box differs
from that. All later answers are corrected by the same ratios.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tracker.geometry import STRIDE
from tracker.network.box_head import boxes_of

RADIUS = 1.5 * STRIDE  # of the Gaussian around the middle, by which the cells' answers are averaged, in pixels
LARGEST = 2.5  # ratio of sides, and its inverse: beyond it the head's answer says nothing
FARTHEST = 0.25  # distance of the centres, in sides


def calibration(ltrb: Tensor, width: float, height: float) -> Tensor:
    r"""The linear map of distances that makes the head's answer for the first frame the known box.

    With the sides W and H that the head answers, the centre's distance from the middle (X, Y), and the known sides w
    and h, later sides are multiplied by w / W and h / H, and later centres are moved by -X and -Y times the ratio of
    the later side to W and H.

    Args:
        ltrb: distances [1, 4, h, w] of the first frame, in pixels of the search crop, whose middle is the target's.
        width, height: known sides of the target in the same pixels.

    Returns:
        float32 [4, 4]: multiplied by l, t, r, b it gives the corrected ones.

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
    """Distances [K, 4, h, w], corrected by the matrices [K, 4, 4] of their targets."""
    return torch.matmul(matrices.to(ltrb.dtype), ltrb.flatten(2)).view_as(ltrb)
