"""One target in one video, of any data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tracker.data.synthetic import SyntheticVideo
from tracker.io.images import read_image


@dataclass(frozen=True, eq=False)
class Sequence:
    """One target in one video.

    Args:
        name: the name, unique in the data set.
        frames: the image files from the first annotated frame on, or a function from the frame's number, 0-based, to an
            RGB uint8 image [H, W, 3]. Frames after the last box are not annotated.
        boxes: [N, 4], x, y, w, h in pixels, 0-based: (x, y) is the top left corner, so a box covers x to x + w, where
            pixel i covers i to i + 1. They become float64.
        absent: bool [N], frames in which the target is not visible or its box must not be used. A box that is not
            finite or has no area always marks its frame as absent. None adds no other frames.

    Raises:
        ValueError: if the shapes differ, or there are more boxes than frames.

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
        """A sequence of a synthetic video. Frames in which more than half of the target is hidden count as absent."""
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
            ImageError: the file cannot be read; the message names it.
        """
        return self.frames(index) if callable(self.frames) else read_image(self.frames[index])
