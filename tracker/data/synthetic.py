"""Synthetic videos with exact boxes: a textured target moves on a smooth path, sometimes behind a pillar."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from tracker.data.pictures import Pictures

NOISE_MEAN = 128.0  # noise is stored as uint8 around this level, so one saturating addWeighted adds it
CUTOUTS, SCENES = 0.6, 0.8  # with pictures: fractions of objects that are cut-outs, and of surfaces that are scenes


class SyntheticVideo:
    """A deterministic video of a moving, scaling, slightly rotating, sometimes hidden target.

    The target and everything around it have the same kind of random textures, so only its own appearance distinguishes
    the target. With `pictures`, most textures are parts of them. `frame(i)` depends only on the arguments and `i`, so
    frames can be drawn in any order.

    Args:
        seed: the same seed gives the same video.
        frames: number of frames.
        size: (width, height) of a frame in pixels.
        target: side of the target at scale 1, in pixels; the default is a sixth of the frame's mean side.
        speed: largest speed of the target's centre along each axis, in target sides per frame.
        occlusions: number of times that a pillar passes in front of the target.
        distractors: number of other objects of the same kind that move behind the target.
        noise: standard deviation of the sensor noise, in grey levels.
        pictures: pictures for the objects and surfaces of the video: cut-outs and parts of scenes.

    Attributes:
        boxes: float64 [N, 4], x, y, w, h (0-based pixels) of the whole target, with its hidden part.
        visible: float64 [N], fraction of each box that no pillar hides.

    Raises:
        ValueError: if `frames` is below 1 or `size` below 32x32.

    Example:
        >>> video = SyntheticVideo(seed=0, frames=10, size=(320, 240))
        >>> image, box = video.frame(3)
        >>> image.shape, box.shape, len(video)
        ((240, 320, 3), (4,), 10)
    """

    def __init__(
        self,
        seed: int = 0,
        frames: int = 300,
        size: tuple[int, int] = (640, 480),
        *,
        target: float | None = None,
        speed: float = 0.12,
        occlusions: int = 2,
        distractors: int = 2,
        noise: float = 3.0,
        pictures: Pictures | None = None,
    ) -> None:
        if frames < 1 or min(size) < 32:
            raise ValueError(f"frames must be at least 1 and size at least 32x32, got {frames} and {size}")
        rng = np.random.default_rng(seed)
        width, height = self.size = (int(size[0]), int(size[1]))
        side = float(target or (width + height) / 12)
        self._target = _Object(rng, frames, self.size, side, speed, pictures)
        self._others = [
            _Object(rng, frames, self.size, side * rng.uniform(0.6, 1.4), speed, pictures) for _ in range(distractors)
        ]
        self.boxes = self._target.boxes
        slack = np.array([width, height]) * 0.15
        whole = int(width + slack[0]), int(height + slack[1])
        self._background = _surface(rng, whole, side * rng.uniform(0.5, 2), pictures)
        top_left = slack / 2 * (1 + _smooth_path(rng, frames, 2, 0.01))
        self._view = top_left + (np.array([width, height]) - 1) / 2  # centre of the frame on the background
        self._gain = 1 + 0.12 * _smooth_path(rng, frames, 1, 0.03)[:, 0]
        self._pillars = [
            _Pillar(rng, self.boxes, frames * (k + 1) // (occlusions + 1), self.size, pictures)
            for k in range(occlusions)
        ]
        hidden = [pillar.overlap(self.boxes) for pillar in self._pillars]
        self.visible = 1 - np.max(hidden, axis=0) if hidden else np.ones(frames)
        self._noise = _noise_tile(width + 64, height + 64, noise)
        self._noise_at = rng.integers(0, 64, size=(frames, 2), endpoint=True)

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self.frame(i) for i in range(len(self)))

    def images(self) -> Iterator[np.ndarray]:
        """The images without the boxes, as a source for `open_source` and `Tracker.track`."""
        return (self.image(i) for i in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        """RGB uint8 image [H, W, 3] of frame `index`."""
        return self.frame(index)[0]

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 image [H, W, 3] and box [4] of frame `index`."""
        image = cv2.getRectSubPix(self._background, self.size, tuple(self._view[index]))
        for other in self._others:
            other.draw(image, index)
        self._target.draw(image, index)
        for pillar in self._pillars:
            pillar.draw(image, index)
        y, x = self._noise_at[index]
        noise = self._noise[y : y + self.size[1], x : x + self.size[0]]
        cv2.addWeighted(image, float(self._gain[index]), noise, 1.0, -NOISE_MEAN, dst=image)
        return image, self.boxes[index].copy()


class _Object:
    """A textured ellipse or rectangle, or a cut-out, on a smooth path. `boxes` are exact bounds of its outline."""

    def __init__(
        self,
        rng: np.random.Generator,
        frames: int,
        size: tuple[int, int],
        side: float,
        speed: float,
        pictures: Pictures | None,
    ) -> None:
        outline = None
        if pictures is not None and pictures.cutouts and rng.random() < CUTOUTS:
            self._patch = pictures.cutout(rng, side * side)
            self._patch_center = (np.array(self._patch.shape[1::-1]) - 1) / 2
            outline = _corners(self._patch[:, :, 3]) - self._patch_center
        else:
            aspect = np.sqrt(rng.uniform(0.65, 1.5))
            half = np.array([side * aspect, side / aspect]) / 2
            self._round = bool(rng.integers(2))
            self._patch_center = np.ceil(half) + 2
            patch = (2 * self._patch_center + 1).astype(int)
            texture = _surface(rng, (int(patch[0]), int(patch[1])), side * rng.uniform(0.25, 0.6), pictures)
            self._patch = np.dstack([texture, self._mask(patch, half)])
        wobble = _smooth_path(rng, frames, 2, 0.03)
        self._scale = np.exp(0.3 * wobble[:, 0])
        self._angle = np.deg2rad(12) * wobble[:, 1]
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        if outline is not None:
            x, y = outline.T
            turned = np.stack([cos[:, None] * x - sin[:, None] * y, sin[:, None] * x + cos[:, None] * y], axis=1)
            low, high = turned.min(axis=2) * self._scale[:, None], turned.max(axis=2) * self._scale[:, None]
        else:
            if self._round:
                extent = np.hypot(half[0] * cos, half[1] * sin), np.hypot(half[0] * sin, half[1] * cos)
            else:
                extent = half[0] * cos + half[1] * abs(sin), half[0] * abs(sin) + half[1] * cos
            high = np.stack(extent, axis=1) * self._scale[:, None]
            low = -high
        margin = np.maximum((np.array(size) - 1) / 2 - np.maximum(high, -low).max(axis=0), 0)
        path = _smooth_path(rng, frames, 2, speed * side / np.maximum(margin, 1))
        self._center = (np.array(size) - 1) / 2 + margin * path
        # Pixel i covers [i - 1/2, i + 1/2]; a box x, w covers the pixels x .. x + w - 1.
        self.boxes = np.hstack([self._center + low + 0.5, high - low])

    def _mask(self, patch: np.ndarray, half: np.ndarray) -> np.ndarray:
        x, y = (np.arange(n) - c for n, c in zip(patch, self._patch_center, strict=True))
        x, y = abs(x[None, :]), abs(y[:, None])
        if self._round:
            inside = (1 - np.hypot(x / half[0], y / half[1])) * half.min()
        else:
            inside = np.minimum(half[0] - x, half[1] - y)
        return (255 * np.clip(inside + 0.5, 0, 1)).astype(np.uint8)

    def draw(self, image: np.ndarray, index: int) -> None:
        box = self.boxes[index]
        left, top = np.maximum(np.floor(box[:2]).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(box[:2] + box[2:]).astype(int) + 1, image.shape[1::-1])
        if right <= left or bottom <= top:
            return
        cos, sin = self._scale[index] * np.cos(self._angle[index]), self._scale[index] * np.sin(self._angle[index])
        matrix = np.array([[cos, -sin, 0], [sin, cos, 0]])
        matrix[:, 2] = self._center[index] - (left, top) - matrix[:, :2] @ self._patch_center
        patch = cv2.warpAffine(self._patch, matrix, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
        region = image[top:bottom, left:right]
        alpha = patch[:, :, 3:].astype(np.float32) / 255
        region[:] = (region + (patch[:, :, :3] - region.astype(np.float32)) * alpha + 0.5).astype(np.uint8)


class _Pillar:
    """A textured pillar, as high as the frame. It meets the target at frame `middle` and moves against it."""

    def __init__(
        self,
        rng: np.random.Generator,
        boxes: np.ndarray,
        middle: int,
        size: tuple[int, int],
        pictures: Pictures | None,
    ) -> None:
        box = boxes[middle]
        self._width = max(2, round(box[2] * rng.uniform(0.4, 0.55)))
        self._strip = _surface(rng, (self._width, size[1]), self._width, pictures)
        start = box[0] + (box[2] - self._width) / 2
        drift = boxes[min(middle + 1, len(boxes) - 1), 0] - boxes[max(middle - 1, 0), 0]
        # Fast enough not to cover the target in frame 0, because a tracker must start on the whole target.
        slowest = (abs(start - boxes[0, 0]) + max(box[2], boxes[0, 2])) / max(middle, 1)
        velocity = -np.copysign(max(box[2] * rng.uniform(0.06, 0.1), slowest), drift)
        self._left = np.round(start + velocity * (np.arange(len(boxes)) - middle)).astype(int)

    def overlap(self, boxes: np.ndarray) -> np.ndarray:
        """Fraction of each box [N, 4] that the pillar covers."""
        left = np.maximum(boxes[:, 0], self._left)
        right = np.minimum(boxes[:, 0] + boxes[:, 2], self._left + self._width)
        return np.maximum(right - left, 0) / boxes[:, 2]

    def draw(self, image: np.ndarray, index: int) -> None:
        left = self._left[index]
        start, stop = max(left, 0), min(left + self._width, image.shape[1])
        if start < stop:
            image[:, start:stop] = self._strip[:, start - left : stop - left]


def _smooth_path(rng: np.random.Generator, frames: int, dims: int, speed: float | np.ndarray) -> np.ndarray:
    """Smooth paths [frames, dims] in [-1, 1]: sums of three sines that change by at most `speed` per frame."""
    amplitude = rng.uniform(0.5, 1, size=(3, dims))
    amplitude /= amplitude.sum(axis=0)
    frequency = np.array([1.0, 1.9, 3.1])[:, None] * rng.uniform(0.8, 1.2, size=(3, dims))
    frequency *= speed / (amplitude * frequency).sum(axis=0)
    phase = rng.uniform(0, 2 * np.pi, size=(3, dims))
    time = np.arange(frames)[:, None, None]
    return (amplitude * np.sin(frequency * time + phase)).sum(axis=1)


def _corners(alpha: np.ndarray) -> np.ndarray:
    """Corners [N, 2] of the pixels on the convex hull of the opaque part. Pixel i covers i - 1/2 to i + 1/2."""
    rows, columns = np.nonzero(alpha >= 128)
    hull = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32))[:, 0]
    return np.concatenate([hull + (dx, dy) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)])


def _surface(rng: np.random.Generator, size: tuple[int, int], cell: float, pictures: Pictures | None) -> np.ndarray:
    """RGB uint8 of `size`: usually a part of a scene, if there are pictures, otherwise a texture."""
    if pictures is not None and pictures.scenes and rng.random() < SCENES:
        return pictures.scene(rng, size)
    return _texture(rng, size, cell)


def _texture(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """RGB uint8 texture: octaves of smooth noise from `cell` pixels down, some hardened to edges, and a few shapes."""
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)  # drawn at half size: a quarter of the work, as sharp to the eye
    image = np.full((half[1], half[0], 3), rng.uniform(60, 195, size=3), np.float32)
    strength, cell = 50.0, cell / 2
    while cell >= 1.5 and strength > 8:
        grid = rng.standard_normal((int(half[1] / cell) + 2, int(half[0] / cell) + 2, 3), dtype=np.float32)
        grid = strength * (0.45 * grid + 0.75 * grid[:, :, :1])  # mostly brightness, partly colour
        layer = cv2.resize(grid, half, interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            layer = np.clip(4 * layer, -strength, strength)
        image += layer
        cell, strength = cell / 2, strength * 0.7
    image = cv2.resize(np.clip(image, 0, 255).astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(3, 7))):
        center = rng.uniform((0, 0), size)
        corners = center + rng.uniform(-0.5, 0.5, size=(int(rng.integers(3, 6)), 2)) * min(size) * rng.uniform(0.3, 0.8)
        cv2.fillConvexPoly(image, cv2.convexHull(corners.astype(np.int32)), rng.uniform(0, 255, 3), cv2.LINE_AA)
    return image


@lru_cache(maxsize=8)
def _noise_tile(width: int, height: int, deviation: float) -> np.ndarray:
    """Gaussian noise around NOISE_MEAN. All videos of one size share this tile and read it at random offsets."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(np.rint(NOISE_MEAN + deviation * noise), 0, 255).astype(np.uint8)
