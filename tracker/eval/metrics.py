"""Measures of boxes: overlap, centre errors, success and precision curves (one-pass evaluation, OTB protocol)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SUCCESS_THRESHOLDS = np.linspace(0, 1, 21)  # overlap
PRECISION_THRESHOLDS = np.arange(0, 51)  # pixels; the score is the value at 20
NORMALIZED_THRESHOLDS = np.arange(0, 51) / 100  # fractions of the target's sides; the score is the value at .2


def _pair(pred: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pred, target = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    for label, boxes in (("pred", pred), ("target", target)):
        if boxes.ndim == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"{label} must be [..., 4] boxes x, y, w, h, got shape {boxes.shape}")
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one shape, got {pred.shape} and {target.shape}")
    return pred, target


def iou(pred: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Intersection over union of boxes x, y, w, h: float64 [...] of two [..., 4].

    Widths are plain differences of coordinates (no "+ 1"). Boxes without an area have overlap 0. A NaN coordinate gives
    NaN. Rounding never makes an overlap larger than 1, because a success curve would count that.

    Raises:
        ValueError: when the shapes differ or do not end in 4.

    Example:
        >>> float(iou([0, 0, 2, 2], [1, 0, 2, 2]))
        0.3333333333333333
    """
    pred, target = _pair(pred, target)
    low = np.maximum(pred[..., :2], target[..., :2])
    high = np.minimum(pred[..., :2] + pred[..., 2:], target[..., :2] + target[..., 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=-1)
    union = np.prod(pred[..., 2:], axis=-1) + np.prod(target[..., 2:], axis=-1) - intersection
    return np.minimum(intersection / np.where(union == 0, 1.0, union), 1.0)


def center_error(pred: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Distance in pixels between the centres, x + (w - 1) / 2 and y + (h - 1) / 2, of boxes [..., 4].

    Raises:
        ValueError: when the shapes differ or do not end in 4.

    Example:
        >>> float(center_error([0, 0, 2, 2], [3, 4, 2, 2]))
        5.0
    """
    pred, target = _pair(pred, target)
    centers = [boxes[..., :2] + (boxes[..., 2:] - 1) / 2 for boxes in (pred, target)]
    return np.linalg.norm(centers[0] - centers[1], axis=-1)


def normalized_center_error(pred: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Like `center_error`, with the differences along x and y divided by the target's width and height.

    It is NaN if the target has no area.

    Source: Müller et al., TrackingNet: A Large-Scale Dataset and Benchmark for Object Tracking in the Wild.

    Raises:
        ValueError: when the shapes differ or do not end in 4.

    Example:
        >>> float(normalized_center_error([3, 2, 10, 10], [0, 0, 10, 5]))
        0.9486832980505138
    """
    pred, target = _pair(pred, target)
    sides = np.where((target[..., 2:] > 0).all(axis=-1, keepdims=True), target[..., 2:], np.nan)
    centers = [boxes[..., :2] + (boxes[..., 2:] - 1) / 2 for boxes in (pred, target)]
    return np.linalg.norm((centers[0] - centers[1]) / sides, axis=-1)


def above(values: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Fraction of the values [N] that are strictly above each threshold [K]: float64 [K]. NaN is a miss.

    Raises:
        ValueError: when there are no values.

    Example:
        >>> above([0.2, 0.5, float("nan"), 0.9], [0.0, 0.5]).tolist()
        [0.75, 0.25]
    """
    return _curve(values, thresholds, at_most=False)


def at_most(values: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Fraction of the values [N] that are at most each threshold [K]: float64 [K]. NaN is a miss.

    Raises:
        ValueError: when there are no values.

    Example:
        >>> at_most([1, 20, float("nan"), 30], [0, 20]).tolist()
        [0.0, 0.5]
    """
    return _curve(values, thresholds, at_most=True)


def _curve(values: ArrayLike, thresholds: ArrayLike, at_most: bool) -> np.ndarray:
    from fastops import host  # imported here: overlaps must work without the compiled library

    return host.threshold_curve(values, thresholds, at_most)


def _frames(pred: ArrayLike, target: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pred, target = _pair(pred, target)
    if pred.ndim != 2 or len(pred) == 0:
        raise ValueError(f"pred must be [frames, 4] with at least one frame, got shape {pred.shape}")
    return pred, target


def success_curve(pred: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Fraction of the frames whose overlap is strictly above each of the 21 thresholds 0, .05 .. 1: float64 [21].

    Source: Wu et al., Online Object Tracking: A Benchmark.

    Raises:
        ValueError: when the boxes are not two arrays [frames, 4] of one shape.

    Example:
        >>> float(success_curve([[0, 0, 9, 9]], [[0, 0, 9, 9]])[19])
        1.0
    """
    return above(iou(*_frames(pred, target)), SUCCESS_THRESHOLDS)


def success_auc(pred: ArrayLike, target: ArrayLike) -> float:
    """Mean of `success_curve`: the OPE score of a sequence.

    Because of the strict comparison, a perfect tracker has 20/21.

    Example:
        >>> round(success_auc([[0, 0, 9, 9]], [[0, 0, 9, 9]]) * 21)
        20
    """
    return float(success_curve(pred, target).mean())


def precision_curve(pred: ArrayLike, target: ArrayLike) -> np.ndarray:
    """Fraction of the frames whose centre error is at most each of the 51 thresholds 0, 1 .. 50 px: float64 [51].

    Source: Wu et al., Online Object Tracking: A Benchmark.

    Raises:
        ValueError: when the boxes are not two arrays [frames, 4] of one shape.

    Example:
        >>> precision_curve([[0, 0, 2, 2]], [[3, 4, 2, 2]])[[4, 5]].tolist()
        [0.0, 1.0]
    """
    return at_most(center_error(*_frames(pred, target)), PRECISION_THRESHOLDS)


def precision_score(pred: ArrayLike, target: ArrayLike) -> float:
    """`precision_curve` at 20 px.

    Example:
        >>> precision_score([[0, 0, 2, 2]], [[3, 4, 2, 2]])
        1.0
    """
    return float(precision_curve(pred, target)[20])
