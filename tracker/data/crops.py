"""Training crops: the square around a target, with SiamFC's search region and a margin for augmentation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

import fastops
from tracker.data.sequence import Sequence
from tracker.geometry import EXEMPLAR, region_side
from tracker.io.images import read_reduced

#: Side of a crop. It has the scale of the instance crop, so (287 - 255) / 2 = 16 px are left for shifts.
CROP_SIZE = 287
#: Smallest usable side of a target, in pixels of the frame.
MIN_SIDE = 8.0


def usable_frames(sequence: Sequence, min_side: float = MIN_SIDE) -> np.ndarray:
    """Numbers of the frames to train on, ascending: the target is present and its sides are at least `min_side`."""
    with np.errstate(invalid="ignore"):
        large = sequence.boxes[:, 2:].min(axis=1, initial=math.inf) >= min_side
    return np.flatnonzero(large & ~sequence.absent)


def crop_side(box: np.ndarray, size: int = CROP_SIZE) -> float:
    """Side, in pixels of the frame, of the square that becomes a crop of `size`: s_z size / 127.

    s_z, `tracker.geometry.region_side`, is the side of SiamFC's exemplar.
    """
    return float(region_side(float(box[2]), float(box[3]))) * size / EXEMPLAR


def crop_target(image: np.ndarray, box: np.ndarray, size: int = CROP_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Crop the square around a target, filled with the image's mean colour outside the image.

    The side and corner of the square are whole pixels of the image. So the target's centre is within half a pixel of
    the crop's centre. The returned box is exact.

    Args:
        image: RGB uint8 [H, W, 3].
        box: x, y, w, h in pixels of the image, 0-based.
        size: side of the crop, S.

    Returns:
        The crop, uint8 [S, S, 3], and the box in its pixels, float32 [4].
    """
    x, y, w, h = (float(v) for v in box)
    side = max(1, round(crop_side(box, size)))
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    inside = left >= 0 and top >= 0 and left + side <= image.shape[1] and top + side <= image.shape[0]
    colour = (0, 0, 0) if inside else [round(level) for level in cv2.mean(image)[:3]]
    # (left + (side - 1) / 2, side) is the region that the op's rounding leaves as it is.
    region = torch.tensor([[left + (side - 1) / 2, top + (side - 1) / 2, side]], dtype=torch.float64)
    crop = _ops().crop_and_resize(torch.from_numpy(image), region, size, colour, dtype=torch.uint8, channels_last=True)
    zoom = size / side
    moved = np.array([(x - left) * zoom, (y - top) * zoom, w * zoom, h * zoom], np.float32)
    return crop[0].permute(1, 2, 0).numpy(), moved


def read_crop(sequence: Sequence, index: int, size: int = CROP_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """`crop_target` of frame `index`; a JPEG is read at the fraction of its size that the crop needs.

    Raises:
        ImageError: the file cannot be read; the message names it.
    """
    box = sequence.boxes[index]
    if callable(sequence.frames):
        return crop_target(sequence.image(index), box, size)
    spare = crop_side(box, size) / size  # pixels of the frame per pixel of the crop
    wanted = next((reduce for reduce in (8, 4, 2) if reduce <= spare), 1)
    image, reduced = read_reduced(sequence.frames[index], wanted)
    return crop_target(image, box / reduced, size)


def _ops():
    """The compiled op, or its reference implementation if the library is missing."""
    return fastops if fastops.load_error is None else fastops.reference
