"""One target: its start, its results, and the checks of images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from tracker.config import TrackerConfig
from tracker.geometry import region_side
from tracker.io.images import from_pil, is_pil

MAX_BOX_SIDE = 1e6  # float32 gives the position of such a region to a fraction of a pixel
Image = np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class TrackResult:
    """The position of the target in one frame.

    Attributes:
        box: x, y, w, h in pixels, 0-based, float64 [4]; (x, y) is the top left corner.
        score: contrast of the response, relative to the first frame's, 0 to 1; see `Tracker`.
        lost: the score has stayed below `TrackerConfig.lost_score` for `TrackerConfig.lost_frames` frames.
    """

    box: np.ndarray
    score: float
    lost: bool


@dataclass(frozen=True, eq=False)
class Start:
    """A target in its first frame.

    Pairs are (y, x) or (h, w) in float32, as in the usual implementation. So ties in rounding the corners of a crop are
    resolved in the same way.
    """

    center: np.ndarray
    size: np.ndarray
    exemplar_size: float  # sides of the two square regions, in image pixels
    search_size: float
    min_side: float  # limits of the target's sides
    max_size: np.ndarray
    color: np.ndarray  # uint8 [3], the colour outside the image
    image_size: tuple[int, int]

    @classmethod
    def of(cls, image: Image, box: tuple[float, float, float, float], config: TrackerConfig) -> Start:
        x, y, w, h = box
        size = np.array([h, w], np.float32)
        # Arrays of one element, because a float32 scalar times a Python float is float64 in NumPy 1.
        exemplar_size = region_side(size[1:], size[:1], config.context)[0]
        image_size = tuple(image.shape[:2])
        return cls(
            center=np.array([y + (h - 1) / 2, x + (w - 1) / 2], np.float32),
            size=size,
            exemplar_size=exemplar_size,
            search_size=exemplar_size * config.instance_size / config.exemplar_size,
            min_side=min(config.min_target_size, float(size.min())),
            max_size=np.maximum(config.max_target_ratio * np.array(image_size), size),
            color=_mean_color(image),
            image_size=image_size,
        )

    def row(self) -> list[float]:
        """The target as a row of `fastops.ops.response.State`; a negative contrast means that it is unknown."""
        (y, x), (h, w) = self.center.tolist(), self.size.tolist()
        (max_h, max_w), (image_h, image_w) = self.max_size.tolist(), self.image_size
        unknown, misses = -1.0, 0.0
        return [x, y, w, h, self.search_size, unknown, misses, self.min_side, max_w, max_h, image_w, image_h]


def _mean_color(image: Image) -> np.ndarray:
    height, width = image.shape[:2]
    if isinstance(image, Tensor) and image.is_cuda:
        sums = image.sum((0, 1), dtype=torch.int64).cpu().numpy()
    else:  # on a 4K frame NumPy's mean takes 0.7 s, OpenCV's sum 1 ms
        array = image.numpy() if isinstance(image, Tensor) else image
        grey = array.strides[2] == 0
        sums = cv2.sumElems(np.ascontiguousarray(array[..., 0] if grey else array))
        sums = np.array(sums[:1] * 3 if grey else sums[:3])
    return np.rint(sums / (height * width)).astype(np.uint8)


def as_rgb(image: Image) -> Image:
    """The image as uint8 [H, W, 3]: the array or tensor itself, a view of a grey image, or a copy of a PIL image.

    Raises:
        ValueError: if it is not a uint8 image.
    """
    if is_pil(image):
        return from_pil(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ValueError(f"image must be a NumPy array or a tensor, got {type(image).__name__}")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    kind, shape = str(image.dtype).removeprefix("torch."), list(image.shape)
    if kind != "uint8" or 0 in shape or not (len(shape) == 2 or len(shape) == 3 and shape[2] == 3):
        raise ValueError(f"image must be uint8 [H, W, 3] or [H, W], got {kind} {shape}")
    if len(shape) == 3:
        return image
    if isinstance(image, Tensor):
        return image[..., None].expand(-1, -1, 3)
    return np.broadcast_to(image[..., None], (*shape, 3))


def to_array(image: Image) -> np.ndarray:
    """Return an RGB image as a contiguous array, for OpenCV."""
    return np.ascontiguousarray(image.detach().cpu().numpy() if isinstance(image, Tensor) else image)


def to_tensor(image: Image) -> Tensor:
    """Return an RGB image as a tensor, without a copy if torch can use the array's memory."""
    if isinstance(image, Tensor):
        return image.detach()
    if image.strides[2] == -1 and image[..., ::-1].flags.c_contiguous:  # OpenCV's BGR, reversed
        image = cv2.cvtColor(image[..., ::-1], cv2.COLOR_BGR2RGB)
    elif min(image.strides) < 0 or not image.flags.writeable:  # torch rejects these or warns
        image = np.array(image[..., 0])[..., None].repeat(3, 2) if image.strides[2] == 0 else image.copy()
    return torch.from_numpy(image)


def as_box(box: Sequence[float] | np.ndarray, image_shape: Sequence[int]) -> tuple[float, ...]:
    """Return the box as four numbers.

    Raises:
        ValueError: if it is not a box, or does not overlap the image.
    """
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f"box must be four finite numbers x, y, w, h, got {box!r}")
    x, y, w, h = (float(v) for v in values)
    if not (0 < w <= MAX_BOX_SIDE and 0 < h <= MAX_BOX_SIDE):
        raise ValueError(f"box must have sides above 0 and at most {MAX_BOX_SIDE:g} px, got {w:g} x {h:g}")
    height, width = image_shape[:2]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"box must overlap the image of {width} x {height} px, got {x:g}, {y:g}, {w:g}, {h:g}")
    return x, y, w, h
