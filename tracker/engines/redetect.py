"""Finding a lost target again: a search over the whole frame, a few regions at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from tracker.config import TrackerConfig
from tracker.geometry import region_side

Found = TypeVar("Found")


class Redetection:
    """What the host keeps of one target to find it again.

    While a target is lost, every frame is searched in `regions_per_frame` regions more, at the size that the target had
    when it was last seen. The regions form a grid over the frame. The nearest to the last sure position come first, and
    after the last one the search begins anew. A peak whose contrast is at least `TrackerConfig.redetect_score` of the
    first frame's is tried: the tracker takes a normal step there, and stays if that step's score is as high. Else the
    target's state is as if nothing had been tried.

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
        """Fewer than the scales of a normal step where there are several: a frame never takes twice as long."""
        return max(1, self._config.scale_num - 1)

    def note(self, box: Sequence[float], score: float) -> None:
        """Remember where the target is after a frame with a score that is not a miss."""
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
        """Look at the next regions of the frame.

        Args:
            image_size: height and width of the frame.
            own_contrast: contrast of the first frame's own score map.
            look: centres [R, 2], x and y, and the side of the regions in; their score maps [R, h, w] out.
            attempt: centre x, y and size w, h in; what a step of the tracker finds there, or None where that is not
                sure enough and the state was put back.

        Returns:
            what `attempt` returns for the best region, or None where no peak is high enough.
        """
        cfg = self._config
        _, _, w, h = self._sure
        side = float(region_side(w, h, cfg.context)) * cfg.instance_size / cfg.exemplar_size
        centers = self._take(image_size, side)
        maps = look(centers, side)
        with np.errstate(invalid="ignore"):  # of a map that is not finite
            contrast = maps.max(axis=(1, 2)) - maps.mean(axis=(1, 2))
        best = int(np.argmax(contrast))
        if not contrast[best] >= cfg.redetect_score * max(own_contrast, 1e-12):  # NaN is not
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
            # A score map tells of the middle half of its region.
            middles = [_middles(length, side / 2) for length in reversed(image_size)]
            grid = np.stack(np.meshgrid(*middles), -1).reshape(-1, 2)
            distance = np.hypot(*(grid - (x + (w - 1) / 2, y + (h - 1) / 2)).T)
            self._grid = grid[np.argsort(distance, kind="stable")]
        count = min(self.regions_per_frame, len(self._grid))
        chosen = self._grid[np.arange(self._next, self._next + count) % len(self._grid)]
        self._next = (self._next + count) % len(self._grid)
        return chosen


def _middles(length: int, spacing: float) -> np.ndarray:
    """Middles of the fewest equal parts of `length`, none longer than `spacing`."""
    count = max(1, int(np.ceil(length / spacing)))
    return (np.arange(count) + 0.5) * length / count - 0.5
