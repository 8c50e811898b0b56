"""Training pairs from single pictures: two random views of one patch or cut-out."""

from __future__ import annotations

import math

import cv2
import numpy as np

from tracker.data.pictures import Pictures
from tracker.geometry import EXEMPLAR, region_side

ROTATION = 15.0  # degrees to either side
STRETCH = 0.2  # each side's factor is from 1 / (1 + STRETCH) to 1 + STRETCH
SMALLEST = 24.0  # shortest side of a patch, in pixels of its picture
ASPECT = 2.0  # largest ratio of a patch's sides
SAME_BACKGROUND = 0.5  # probability that a cut-out's two views show one background


def still_pair(
    pictures: Pictures, rng: np.random.Generator, size: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Make two views of one target, which is a patch of a scene, or a cut-out in front of scenes.

    If there are both scenes and cut-outs, each kind has a probability of one half.

    Args:
        pictures: the pictures.
        rng: source of all random numbers.
        size: side of the crops, P, in pixels.

    Returns:
        Two crops, RGB uint8 [P, P, 3] with the target at the centre, each with its box x, y, w, h, float32 [4].

    Raises:
        ValueError: if the pictures have no scene.
    """
    if not pictures.scenes:
        raise ValueError("pictures must hold a scene, got cut-outs only")
    if pictures.cutouts and rng.random() < 0.5:
        return _cutout_pair(pictures, rng, size)
    return _patch_pair(pictures, rng, size)


def _patch_pair(pictures: Pictures, rng: np.random.Generator, size: int):
    picture = pictures.scenes[int(rng.integers(len(pictures.scenes)))]
    height, width = picture.shape[:2]
    longest = max(SMALLEST, min(height, width) / 3)
    side = math.exp(rng.uniform(math.log(SMALLEST), math.log(longest)))
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ASPECT) / 2)
    w, h = side * aspect, side / aspect
    x, y = rng.uniform(0, max(width - w, 0)), rng.uniform(0, max(height - h, 0))
    colour = cv2.mean(picture)[:3]
    return tuple(_view(picture, (x, y, w, h), _deformation(rng, first), size, colour) for first in (True, False))


def _cutout_pair(pictures: Pictures, rng: np.random.Generator, size: int):
    cutout = pictures.cutouts[int(rng.integers(len(pictures.cutouts)))]
    if rng.random() < 0.5:
        cutout = np.ascontiguousarray(cutout[:, ::-1])
    height, width = cutout.shape[:2]
    background = pictures.scene(rng, (size, size))
    views = []
    for first in (True, False):
        view, box = _view(cutout, (0.0, 0.0, width, height), _deformation(rng, first), size, (0, 0, 0, 0))
        if not first and rng.random() >= SAME_BACKGROUND:
            background = pictures.scene(rng, (size, size))
        alpha = view[:, :, 3:].astype(np.uint16)
        mixed = (view[:, :, :3] * alpha + background * (255 - alpha) + 127) // 255
        views.append((mixed.astype(np.uint8), box))
    return tuple(views)


def _deformation(rng: np.random.Generator, first: bool) -> np.ndarray:
    """A random rotation and stretch of each axis, as a matrix [2, 2]; the identity for the exemplar."""
    if first:
        return np.eye(2)
    angle = math.radians(rng.uniform(-ROTATION, ROTATION))
    stretch = np.exp(rng.uniform(-1, 1, 2) * math.log(1 + STRETCH))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.diag(stretch) @ turn


def _view(
    picture: np.ndarray, box: tuple[float, float, float, float], deformation: np.ndarray, size: int, colour
) -> tuple[np.ndarray, np.ndarray]:
    """The square around the deformed target at the scale of a training crop, and the target's bounds in it."""
    x, y, w, h = box
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ deformation.T
    sides = corners.max(0) - corners.min(0)
    zoom = EXEMPLAR / float(region_side(*sides))  # the scale of a training crop, whatever its size
    matrix = zoom * deformation
    center = np.array([x + w / 2, y + h / 2]) - 0.5  # of pixels: pixel i has its middle at i
    offset = (size - 1) / 2 - matrix @ center
    view = cv2.warpAffine(
        picture,
        np.column_stack([matrix, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=colour,
    )
    w, h = sides * zoom
    return view, np.array([size / 2 - w / 2, size / 2 - h / 2, w, h], np.float32)
