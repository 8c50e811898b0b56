"""Pictures for synthetic videos: scenes for backgrounds, cut-outs for moving objects."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from tracker.io.images import to_uint8
from tracker.io.sources import IMAGE_SUFFIXES, natural_key

SCENE_SIDE, CUTOUT_SIDE = 1024, 256  # longer sides in pixels, to which pictures are reduced when they are read
SMALLEST = 16  # shortest usable side, in pixels
_OPAQUE = 128


class Pictures:
    """Two kinds of pictures, kept in memory.

    A picture is a cut-out if its alpha channel makes at least a tenth of it transparent. It is cropped to its opaque
    part. Every other picture is a scene.

    Args:
        places: image files, folders (searched with their subfolders), and patterns ("videos/*/img/*1.jpg").

    Attributes:
        scenes: RGB uint8 [H, W, 3].
        cutouts: RGBA uint8 [H, W, 4].

    Raises:
        ValueError: if a place has no picture, or a picture cannot be decoded. The message names it.

    Example:
        >>> pictures = Pictures(["photos/", "/usr/share/tuxpaint/stamps"])  # doctest: +SKIP
        >>> pictures.scene(np.random.default_rng(0), (320, 240)).shape  # doctest: +SKIP
        (240, 320, 3)
    """

    def __init__(self, places: Iterable[str | PathLike[str]]) -> None:
        self.scenes: list[np.ndarray] = []
        self.cutouts: list[np.ndarray] = []
        for place in places:
            for path in _files(place):
                picture = _read(path)
                if min(picture.shape[:2]) >= SMALLEST:
                    (self.cutouts if picture.shape[2] == 4 else self.scenes).append(picture)
        if not self.scenes and not self.cutouts:
            raise ValueError(f"places must hold pictures of {SMALLEST} px or more, got none")

    def scene(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        """A random part of a random scene, mirrored or not, as RGB uint8 of `size` (width, height)."""
        picture = self.scenes[int(rng.integers(len(self.scenes)))]
        height, width = picture.shape[:2]
        largest = min(width / size[0], height / size[1])  # pixels of the picture per pixel of the part
        scale = np.exp(rng.uniform(min(np.log(0.7), np.log(largest)), np.log(largest)))
        w, h = (max(1, min(whole, round(side * scale))) for whole, side in zip((width, height), size, strict=True))
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        part = cv2.resize(picture[y : y + h, x : x + w], size, interpolation=_interpolation(scale))
        return np.ascontiguousarray(part[:, ::-1]) if rng.random() < 0.5 else part

    def cutout(self, rng: np.random.Generator, area: float) -> np.ndarray:
        """A random cut-out, mirrored or not, as RGBA uint8. Its width times height is about `area`.

        It has a transparent margin of 2 px. Its sides are odd, so its centre is a pixel.
        """
        picture = self.cutouts[int(rng.integers(len(self.cutouts)))]
        scale = float(np.sqrt(area / (picture.shape[0] * picture.shape[1])))
        size = tuple(max(3, 2 * round(side * scale / 2 - 0.5) + 1) for side in picture.shape[1::-1])
        part = cv2.resize(picture, size, interpolation=_interpolation(1 / scale))
        if (highest := int(part[:, :, 3].max())) < 255:  # thin lines become transparent when they are reduced
            part[:, :, 3] = (part[:, :, 3].astype(np.uint16) * 255 // max(highest, 1)).astype(np.uint8)
        part = part[:, ::-1] if rng.random() < 0.5 else part
        return np.pad(part, ((2, 2), (2, 2), (0, 0)))


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR


def _files(place: str | PathLike[str]) -> list[Path]:
    path = Path(place)
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    images = (file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != ".")
    files = sorted(images, key=natural_key)
    if not files:
        raise ValueError(f"a place must be a picture or hold some, got none in {str(place)!r}")
    return files


def _read(path: Path) -> np.ndarray:
    """The picture as uint8, reduced: RGB, or RGBA for a cut-out, which is cropped to its opaque part."""
    # Photographs are large. JPEG decodes at half size in a third of the time.
    flags = cv2.IMREAD_REDUCED_COLOR_2 if path.stat().st_size > 2**20 and _is_jpeg(path) else cv2.IMREAD_UNCHANGED
    picture = cv2.imread(str(path), flags)
    if picture is not None and picture.dtype == np.uint16:
        picture = to_uint8(picture)
    if picture is None or picture.dtype != np.uint8:
        raise ValueError(f"a picture must be an image of 8 or 16 bits that can be decoded, got {str(path)!r}")
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    if picture.shape[2] == 4:
        opaque = picture[:, :, 3] >= _OPAQUE
        if not opaque.any():
            return picture[:0]  # too small, whatever its size
        if opaque.mean() <= 0.9:
            x, y, w, h = cv2.boundingRect(opaque.astype(np.uint8))
            return _reduce(cv2.cvtColor(picture[y : y + h, x : x + w], cv2.COLOR_BGRA2RGBA), CUTOUT_SIDE)
    return _reduce(cv2.cvtColor(picture[:, :, :3], cv2.COLOR_BGR2RGB), SCENE_SIDE)


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def _reduce(picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(1, *picture.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(picture)
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
