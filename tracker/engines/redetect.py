"""Finds a lost target again by a search over the whole frame, a few regions at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from tracker.config import TrackerConfig
from tracker.geometry import region_side

Found = TypeVar("Found")


class Redetection:
    """The search for one lost target, and the data that the host keeps for it.

    While a target is lost, each frame is searched in `regions_per_frame` additional regions. Their size is that of the
    search region when the target was last seen. The regions form a grid over the frame. Those nearest to the last
    position with a score that is not a miss come first. After the last region the search starts again.

    A peak is tried if its contrast is at least `TrackerConfig.redetect_score` times that of the first frame. The
    tracker makes a normal step there. If the score of the step is as high, the target stays there. Otherwise its state
    is restored.

    Args:
        config: settings.
        box: x, y, w, h of the target in the first frame.
    """

    def __init__(self, config: TrackerConfig, box: Sequence[float]) -> None:
        self._config = config
        self._sure = tuple(float(v) for v in box)
        self._grid: list[tuple[float, float]] = []
        self._next = 0
        self._grid_of: tuple | None = None

    @property
    def regions_per_frame(self) -> int:
        """The regions per frame, fewer than the scales of a normal step, so that no frame takes twice as long.

        A step with a single scale allows one region.
        """
        return max(1, self._config.scale_num - 1)

    def note(self, box: Sequence[float], score: float) -> None:
        """Store the target's position after a frame with a score that is not a miss."""
        if score >= self._config.lost_score:
            self._sure = tuple(float(v) for v in box)
            self._grid_of = None

    def search(
        self,
        image_size: tuple[int, int],
        own_contrast: float,
        look: Callable[[np.ndarray, float], np.ndarray],
        attempt: Callable[[float, float, float, float], Found | None],
    ) -> Found | None:
        """Search the next regions of the frame.

        Args:
            image_size: height and width of the frame in pixels.
            own_contrast: contrast of the first frame's own score map.
            look: function from centres [R, 2], x and y, and the side of the regions to their score maps [R, h, w].
            attempt: function from centre x, y and size w, h to the result of a tracker's step there. It returns None
                and restores the state if the score is too low.

        Returns:
            The result of `attempt` for the best region, or None if no peak is high enough.
        """
        cfg = self._config
        _, _, w, h = self._sure
        side = float(region_side(w, h, cfg.context)) * cfg.instance_size / cfg.exemplar_size
        centers = self._take(image_size, side)
        maps = look(centers, side)
        with np.errstate(invalid="ignore"):  # for maps that are not finite
            contrast = maps.max(axis=(1, 2)) - maps.mean(axis=(1, 2))
        best = int(np.argmax(contrast))
        if not contrast[best] >= cfg.redetect_score * max(own_contrast, 1e-12):  # NaN is never higher
            return None
        rows, columns = maps.shape[1:]
        row, column = divmod(int(maps[best].argmax()), columns)
        cells = np.array([column - (columns - 1) / 2, row - (rows - 1) / 2])
        x, y = centers[best] + cells * cfg.total_stride * side / cfg.instance_size
        height, width = image_size
        return attempt(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0), w, h)

    def _take(self, image_size: tuple[int, int], side: float) -> np.ndarray:
        """The next centres of the grid, [R, 2]."""
        key = image_size, side
        if key != self._grid_of:
            self._grid_of, self._next = key, 0
            x, y, w, h = self._sure
            # A score map covers the middle half of its region.
            middles = [_middles(length, side / 2) for length in reversed(image_size)]
            grid = np.stack(np.meshgrid(*middles), -1).reshape(-1, 2)
            distance = np.hypot(*(grid - (x + (w - 1) / 2, y + (h - 1) / 2)).T)
            self._grid = grid[np.argsort(distance, kind="stable")]
        count = min(self.regions_per_frame, len(self._grid))
        chosen = self._grid[np.arange(self._next, self._next + count) % len(self._grid)]
        self._next = (self._next + count) % len(self._grid)
        return chosen


def _middles(length: int, spacing: float) -> np.ndarray:
    """The middles of equal parts of `length`: as few parts as possible, none longer than `spacing`."""
    count = max(1, int(np.ceil(length / spacing)))
    return (np.arange(count) + 0.5) * length / count - 0.5
