"""The built-in video: synthetic, with known boxes, encoded when it is first used."""

from __future__ import annotations

import threading
from pathlib import Path

from tracker.data.synthetic import SyntheticVideo
from tracker.io.draw import VideoWriter

FPS = 30.0


class Sample:
    """A synthetic video in an existing folder. `path` makes the file on first use, from any thread."""

    def __init__(self, folder: Path, *, frames: int = 120, size: tuple[int, int] = (480, 360)) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._video = SyntheticVideo(3, frames, size, occlusions=1)
        self.truth = self._video.boxes

    def path(self) -> Path:
        """The file."""
        with self._lock:
            path = self._folder / "sample.avi"  # Motion JPEG is the fastest to write, and no browser has to play it
            if not path.exists():
                with VideoWriter(path, self._video.size, FPS) as video:
                    for image in self._video.images():
                        video.write(image)
            return path
