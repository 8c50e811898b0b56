"""One target in one video, whatever data set it comes from, and how its frames are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import cv2
import numpy as np

from tracker.data.synthetic import SyntheticVideo

JPEG = b"\xff\xd8"  # how such a file starts
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class ImageError(ValueError):
    """An image file that is missing, empty, truncated or of no known format; the message starts with its path."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """One target in one video.

    Args:
        name: tells the sequence from the others of its data set.
        frames: the image files from the first annotated frame on, or a function from the frame's number, 0-based, to an
            RGB uint8 image [H, W, 3]. Frames after the last box are not annotated.
        boxes: [N, 4], x, y, w, h in pixels, 0-based: (x, y) is the left top corner, so a box covers x to x + w, where
            pixel i covers i to i + 1. Becomes float64.
        absent: bool [N], frames in which the target cannot be seen or its box must not be used. Frames whose box is not
            finite or has no area are always absent; None adds no others.

    Raises:
        ValueError: when the shapes differ, or there are more boxes than frames.

    Example:
        >>> video = Sequence("a", [Path("1.jpg"), Path("2.jpg")], np.array([[4, 4, 9, 9], [0, 0, 0, 0]]))
        >>> len(video), video.absent.tolist()
        (2, [False, True])
    """

    name: str
    frames: list[Path] | Callable[[int], np.ndarray]
    boxes: np.ndarray
    absent: np.ndarray | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"boxes must be [N, 4], got shape {boxes.shape} in {self.name}")
        if not callable(self.frames) and len(boxes) > len(self.frames):
            raise ValueError(
                f"boxes must be at most one per frame ({len(self.frames)}), got {len(boxes)} in {self.name}"
            )
        with np.errstate(invalid="ignore"):
            absent = ~np.isfinite(boxes).all(axis=1) | ~(boxes[:, 2:] > 0).all(axis=1)
        if self.absent is not None:
            given = np.asarray(self.absent, bool)
            if given.shape != (len(boxes),):
                raise ValueError(f"absent must be [{len(boxes)}], got {list(given.shape)} in {self.name}")
            absent = absent | given
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "absent", absent)

    @classmethod
    def from_video(cls, name: str, video: SyntheticVideo) -> Sequence:
        """A synthetic video; frames in which a pillar hides more than half of the target count as absent."""
        return cls(name, video.image, video.boxes, video.visible < 0.5)

    @property
    def seen_boxes(self) -> np.ndarray:
        """The boxes, float64 [N, 4], with NaN in the frames where the target is absent."""
        return np.where(self.absent[:, None], np.nan, self.boxes)

    @property
    def start(self) -> int:
        """The first frame with the target.

        Raises:
            ValueError: the target is absent in all frames.
        """
        if self.absent.all():
            raise ValueError(f"{self.name} must have a frame with a target, got none")
        return int(np.argmin(self.absent))

    def __len__(self) -> int:
        """Number of annotated frames."""
        return len(self.boxes)

    def image(self, index: int) -> np.ndarray:
        """Frame `index` as RGB uint8 [H, W, 3].

        Raises:
            ImageError: names the file that cannot be read.
        """
        return self.frames(index) if callable(self.frames) else read_image(self.frames[index])


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read an image file as RGB uint8 [H, W, 3].

    Raises:
        ImageError: when the file is missing, or cannot be decoded whole (OpenCV fills a truncated JPEG with grey).
    """
    return read_reduced(path, 1)[0]


def read_reduced(path: str | PathLike[str], reduce: int) -> tuple[np.ndarray, int]:
    """Read a JPEG at 1/`reduce` of its sides (1, 2, 4 or 8), other formats in full; return the image and its reduction.

    A reduced JPEG never exists in full size, which is faster (1280 x 720: 4.1 ms in full, 0.9 ms at a half). Pixel i of
    it covers the pixels reduce i to reduce (i + 1) of the whole one.

    Raises:
        ImageError: as `read_image`.
    """
    try:
        data = Path(path).read_bytes()
        if not data.startswith(JPEG):
            reduce = 1
        return decode_image(data, reduce), reduce
    except OSError as error:
        raise ImageError(f"{path}: image must be a readable file, got {error.strerror or error}") from error
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from error


def decode_image(data: bytes, reduce: int = 1) -> np.ndarray:
    """Decode the bytes of an image file; ValueError where they are damaged."""
    # Neither marker can be part of the coded pixels, so a whole JPEG has an end after the start of its last scan.
    if data.startswith(JPEG) and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise ValueError("image must be a whole JPEG, got a truncated one")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce]) if data else None
    if image is None:
        raise ValueError(f"image must be of a format that OpenCV decodes, got {len(data)} bytes that are not")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
