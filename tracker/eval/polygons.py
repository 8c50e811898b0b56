"""Overlap of polygons, for VOT's ground truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def polygon_overlap(pred: ArrayLike, target: ArrayLike, size: tuple[float, float] | None = None) -> np.ndarray:
    """Intersection over union of polygons: float64 [N], or one number for two single polygons.

    overlap = |A ∩ B| / |A ∪ B|, exact up to rounding (a sweep over horizontal slabs, without pixels). A point is inside
    a polygon if a ray from it crosses an odd number of edges (even-odd rule). So the direction of the corners does not
    matter, polygons may be concave, and both triangles of a quadrilateral that crosses itself count. Polygons without
    an area have overlap 0. A coordinate that is not finite gives NaN.

    Args:
        pred: [N, 4] boxes x, y, w, h or [N, 2 K] corners x1, y1, x2, y2, ... in pixels; [4] or [2 K] for one.
        target: the same, with any number of corners.
        size: width and height of the image. Only the parts of both in [0, width] x [0, height] count.

    Raises:
        ValueError: if the shapes do not fit or the size is not above 0.

    Source: Kristan et al., A Novel Performance Evaluation Methodology for Single-Target Trackers.

    Example:
        >>> diamond = [1, 0, 2, 1, 1, 2, 0, 1]
        >>> float(polygon_overlap(diamond, [0, 0, 2, 2]))
        0.5
    """
    from fastops import host

    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    overlaps = host.polygon_overlap(_corners(pred), _corners(target), size)
    return overlaps[0] if pred.ndim == target.ndim == 1 else overlaps


def box_corners(boxes: ArrayLike) -> np.ndarray:
    """The corners x1, y1 .. x4, y4 of boxes x, y, w, h: [..., 8] of [..., 4].

    Example:
        >>> box_corners([0, 0, 2, 1]).tolist()
        [0.0, 0.0, 2.0, 0.0, 2.0, 1.0, 0.0, 1.0]
    """
    x, y, w, h = np.moveaxis(np.asarray(boxes, np.float64), -1, 0)
    return np.stack([x, y, x + w, y, x + w, y + h, x, y + h], axis=-1)


def corners_box(corners: ArrayLike) -> np.ndarray:
    """The box that a tracker starts with on a quadrilateral: [..., 4] of [..., 8].

    Its centre is the mean of the corners. Its aspect ratio is that of the smallest upright box around them. The sides
    of that box are scaled by the square root of an area ratio: the product of the quadrilateral's first two sides,
    divided by the area of the box. They are then extended by 1, because the last pixel counts. This is the rule of the
    got10k toolkit and of SiamFC's code.

    Example:
        >>> corners_box([0, 0, 4, 0, 4, 2, 0, 2]).tolist()
        [-0.5, -0.5, 5.0, 3.0]
    """
    points = np.asarray(corners, np.float64).reshape(*np.shape(corners)[:-1], 4, 2)
    center, around = points.mean(axis=-2), np.ptp(points, axis=-2)
    sides = np.linalg.norm(points[..., :2, :] - points[..., 1:3, :], axis=-1)
    size = np.sqrt(sides.prod(axis=-1, keepdims=True) / around.prod(axis=-1, keepdims=True)) * around + 1
    return np.concatenate([center - size / 2, size], axis=-1)


def _corners(regions: np.ndarray) -> np.ndarray:
    regions = regions[None] if regions.ndim == 1 else regions
    return box_corners(regions) if regions.ndim == 2 and regions.shape[1] == 4 else regions
