"""Synthetic videos whose targets change their aspect ratio. Those of `tracker.data.synthetic` hardly do."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from tracker.data.synthetic import SyntheticVideo


class StretchedVideo:
    """A `SyntheticVideo` stretched along x by a factor that oscillates over time, and along y by its inverse.

    Target, background and distractors change together, so only the target's outline shows its box.

    Args:
        seed, frames, size, options: as in `SyntheticVideo`.
        stretch: the factor goes from 1 / stretch to stretch.
        period: frames of one oscillation.

    Example:
        >>> video = StretchedVideo(seed=0, frames=61, size=(320, 240), stretch=1.5, period=120)
        >>> ratio = video.boxes[:, 2] / video.boxes[:, 3]
        >>> bool(ratio.max() > 2 * ratio.min())
        True
    """

    def __init__(
        self, seed: int, frames: int, size: tuple[int, int], *, stretch: float = 1.5, period: float = 80.0, **options
    ) -> None:
        self._video = SyntheticVideo(seed, frames, size, **options)
        self.size, self.visible = size, self._video.visible
        phase = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        factor = stretch ** np.sin(2 * np.pi * np.arange(frames) / period + phase)
        self._factors = np.stack([factor, 1 / factor], 1)
        # The stretch is around the target, so the target does not move.
        boxes = self._video.boxes
        self._fixed = boxes[:, :2] + boxes[:, 2:] / 2
        self.boxes = np.hstack(
            [(boxes[:, :2] - self._fixed) * self._factors + self._fixed, boxes[:, 2:] * self._factors]
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB uint8 image [H, W, 3] and box [4] of frame `index`."""
        image, _ = self._video.frame(index)
        scale = self._factors[index]
        shift = (1 - scale) * (self._fixed[index] - 0.5)  # pixel i covers i to i + 1: its centre is at i + 1/2
        matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        image = cv2.warpAffine(image, matrix, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return image, self.boxes[index].copy()

    def images(self) -> Iterator[np.ndarray]:
        """The images without the boxes."""
        return (self.frame(i)[0] for i in range(len(self)))
