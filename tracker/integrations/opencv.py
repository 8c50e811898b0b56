"""The tracker with OpenCV's interface: a drop-in for `cv2.TrackerMIL`, `cv2.TrackerVit` and the like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tracker.tracker import Tracker


class TrackerSiamFC:
    """`tracker.Tracker` for programs written for OpenCV's trackers: frames are BGR, boxes whole pixels.

    In such a program `cv2.TrackerMIL.create()` becomes `TrackerSiamFC.create()`, and nothing else changes. There are
    two differences. An unusable frame or rectangle raises a `ValueError` with the reason, where OpenCV has `cv2.error`.
    The rectangle may leave the frame, and may have fractions.

    Args:
        tracker: the tracker; `create` makes one from weights.

    Example:
        >>> from tracker import SiamFC
        >>> from tracker.data.synthetic import SyntheticVideo
        >>> video = SyntheticVideo(frames=5, size=(160, 120), occlusions=0)
        >>> tracker = TrackerSiamFC(Tracker(SiamFC(width=0.125)))
        >>> for index, (image, box) in enumerate(video):
        ...     frame = image[..., ::-1]  # as cv2.VideoCapture gives it
        ...     if index == 0:
        ...         tracker.init(frame, box.round().astype(int))
        ...     else:
        ...         ok, rect = tracker.update(frame)
        >>> ok, len(rect), type(rect[0]).__name__
        (True, 4, 'int')

        In your own program:

        >>> import cv2
        >>> capture = cv2.VideoCapture("video.mp4")  # doctest: +SKIP
        >>> tracker = TrackerSiamFC.create("siamfc.safetensors")  # doctest: +SKIP
        >>> _, frame = capture.read()  # doctest: +SKIP
        >>> tracker.init(frame, cv2.selectROI(frame))  # doctest: +SKIP
        >>> ok, rect = tracker.update(capture.read()[1])  # doctest: +SKIP
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._score = 0.0

    @classmethod
    def create(
        cls,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        backend: str = "fastops",
        activation: str | None = None,
        **overrides: Any,
    ) -> TrackerSiamFC:
        """Make a tracker from weights; the arguments are those of `Tracker.from_pretrained`.

        Raises:
            FileNotFoundError, ValueError: if the weights are missing or unusable, or an argument is out of range.
        """
        return cls(
            Tracker.from_pretrained(
                weights, device=device, dtype=dtype, backend=backend, activation=activation, **overrides
            )
        )

    def init(self, image: np.ndarray, boundingBox: Sequence[float] | np.ndarray) -> None:
        """Start on a target. It can be called any number of times.

        Args:
            image: the frame, BGR uint8 [H, W, 3] as OpenCV reads it, or grey [H, W].
            boundingBox: x, y, w, h of the target in pixels, 0-based.

        Raises:
            ValueError: if the frame is of another kind, or the rectangle does not overlap it.
        """
        self._tracker.init(_reversed(image), boundingBox)
        self._score = 1.0

    def update(self, image: np.ndarray) -> tuple[bool, tuple[int, int, int, int]]:
        """Find the target in the next frame.

        Returns:
            Whether it was found, and its rectangle x, y, w, h in whole pixels. If it is lost (see `Tracker`), the
            rectangle is the searched position.

        Raises:
            RuntimeError: if `init` was not called before.
            ValueError: if the frame is not of the kind that `init` takes.
        """
        result = self._tracker.update(_reversed(image))
        self._score = result.score
        x, y, w, h = (round(float(value)) for value in result.box)
        return not result.lost, (x, y, max(w, 1), max(h, 1))

    def getTrackingScore(self) -> float:
        """The score of the last frame, 0 to 1; see `TrackResult.score`."""
        return self._score


def _reversed(image: np.ndarray) -> np.ndarray:
    """Convert BGR to RGB. Other images are returned unchanged, and the tracker checks them."""
    return image[..., ::-1] if isinstance(image, np.ndarray) and image.shape[2:] == (3,) else image
