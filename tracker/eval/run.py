"""One run of the tracker for the report of the `track` command: boxes, scores, times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracker.eval.metrics import iou
from tracker.io.sources import SourceError
from tracker.tracker import Tracker


@dataclass
class Run:
    """The results of tracking, with a row per frame.

    Attributes:
        start: the frame in which the tracker starts. The frames before do not show the target and get the same box.
        seconds: spent in `Tracker.update`, for each frame after the first one tracked.
        total: seconds of the whole run.
        stopped: Ctrl-C or a source that failed on the way.
    """

    start: int = 0
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    total: float = 0.0
    stopped: BaseException | None = None

    def summary(self, truth: np.ndarray) -> dict[str, Any]:
        """Numbers of the run. Rates and times leave out the first frame, which only starts the tracker.

        Args:
            truth: true boxes [N, 4], NaN where the target is absent: those frames do not count for the overlap.
        """
        times = np.array(self.seconds)
        rows = min(len(truth), len(self.boxes))
        seen = np.flatnonzero(np.isfinite(truth[:rows]).all(axis=1))
        timed = len(times) > 0
        return {
            "frames": len(self.boxes),
            "lost_frames": sum(self.lost),
            "fps_end_to_end": len(times) / self.total if timed else None,
            "fps_tracker": 1 / times.mean() if timed else None,
            "ms": {f"p{p}": float(np.percentile(times, p)) * 1e3 for p in (50, 95, 99)} if timed else None,
            "mean_overlap": float(iou(np.array(self.boxes)[seen], truth[seen]).mean()) if len(seen) else None,
        }

    def step(self, tracker: Tracker, image: np.ndarray, start: np.ndarray) -> None:
        """Add a row for the next image; up to frame `start` it is the box that the tracker started with."""
        if len(self.boxes) <= self.start:
            self.boxes.append(np.asarray(start, np.float64))
            self.scores.append(1.0)
            self.lost.append(False)
            return
        began = time.perf_counter()
        result = tracker.update(image)
        self.seconds.append(time.perf_counter() - began)
        self.boxes.append(result.box)
        self.scores.append(result.score)
        self.lost.append(result.lost)

    def labels(self, truth: np.ndarray, index: int | None = None) -> dict[str, Any]:
        """Arguments of `tracker.io.draw.annotate` for row `index`, or for the last row."""
        index = len(self.boxes) - 1 if index is None else index
        timed = index - self.start  # the first frame tracked has no time
        recent = self.seconds[max(0, timed - 20) : max(0, timed)]
        return {
            "box": self.boxes[index] if index >= self.start else np.full(4, np.nan),
            "score": self.scores[index],
            "lost": self.lost[index],
            "frame": index + 1,  # counted from 1, as on the page and in the files
            "fps": len(recent) / sum(recent) if recent else None,
            "truth": truth[index] if index < len(truth) else None,
        }

    def keep(self, count: int) -> None:
        """Drop the rows after the first `count`."""
        for rows in (self.boxes, self.scores, self.lost):
            del rows[count:]
        del self.seconds[max(0, count - 1 - self.start) :]  # the first frame tracked has no time

    @contextmanager
    def may_stop(self) -> Iterator[None]:
        """Note Ctrl-C or a failing source in `stopped`, and continue after the block with the rows that are whole."""
        try:
            yield
        except (KeyboardInterrupt, SourceError) as error:
            self.stopped = error
            self.keep(min(len(self.boxes), len(self.scores), len(self.lost)))


def print_summary(summary: dict[str, Any]) -> None:
    """Print the result of `Run.summary`, and the paths added to it."""
    rows = {"frames": f"{summary['frames']} ({summary['lost_frames']} lost)"}
    if summary["ms"]:
        parts = "decode, track, draw, write" if summary["output"] else "decode, track"
        rows["end to end"] = f"{summary['fps_end_to_end']:.1f} fps ({parts})"
        rows["tracker only"] = f"{summary['fps_tracker']:.1f} fps"
        rows["per frame"] = "  ".join(f"{name} {ms:.1f} ms" for name, ms in summary["ms"].items())
    if summary["mean_overlap"] is not None:
        rows["mean overlap"] = f"{summary['mean_overlap']:.3f}"
    rows |= {key: summary[key] for key in ("output", "results") if summary[key]}
    for key, value in rows.items():
        print(f"{key:14}{value}")
