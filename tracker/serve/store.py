"""The videos of the page: each in its own folder, visible to the browser that sent it, removed at the end."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracker.io.files import lock
from tracker.serve.limits import Facts, Limits, Refused

PREFIX = "tracker-serve-"
FRESH_SECONDS = 60  # a folder this new may belong to a server that has not locked it yet


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end of the block. Folders left by killed servers are removed first.

    A server locks its folder while it lives.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of a living server, or of another user
            if time.time() - left.stat().st_mtime > FRESH_SECONDS and not left.is_symlink():
                _remove_unlocked(left)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            lock(descriptor)
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if lock(descriptor):
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


@dataclass(eq=False)
class Video:
    """One video of one browser; `facts` are set once it is complete.

    Attributes:
        owner: token of the browser; only this browser sees the video.
        folder: of this video and its results. No name in it comes from a user.
        path: the file; it is in the folder unless it is the sample.
        truth: true boxes [N, 4] if known, else [0, 4].
    """

    owner: str
    folder: Path
    path: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    facts: Facts | None = None
    truth: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))


class Store:
    """Videos by their id. All calls but `drop` must come from one thread.

    A browser has one upload at a time; a new one replaces it. A browser at its limit loses its own oldest video. If the
    server is at its limit, the browser with the largest number of videos loses its oldest one.

    Args:
        root: existing folder for all videos.
        limits: number of videos, in total and per browser. A video that a job needs is never removed.
        in_use: whether a job waits for a video or works on it.
        removed: called with each removed video.
    """

    def __init__(
        self, root: Path, limits: Limits, *, in_use: Callable[[Video], bool], removed: Callable[[Video], None]
    ) -> None:
        self._root, self._limits, self._in_use, self._removed = root, limits, in_use, removed
        self._videos: dict[str, Video] = {}

    def add(self, owner: str, path: Path | None = None) -> Video:
        """Add a video, to be written to its `path`, or the existing file `path`, which is never removed.

        Raises:
            Refused: the limit is reached and no video may be removed.
        """
        unfinished = [v for v in self._videos.values() if v.owner == owner and v.facts is None]
        for video in unfinished if path is None else ():
            self.remove(video)
        if len(self._of(owner)) >= self._limits.videos_per_owner:
            self._remove_oldest(self._of(owner))
        if len(self._videos) >= self._limits.videos:
            counts = Counter(video.owner for video in self._videos.values())
            largest = max(counts.values())
            # Among equals the owner of the new video comes first.
            owners = sorted((one for one in counts if counts[one] == largest), key=lambda one: one != owner)
            self._remove_oldest([video for one in owners for video in self._of(one)])
        folder = self._root / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        video = Video(owner, folder, path or folder / "video")
        self._videos[video.id] = video
        return video

    def _of(self, owner: str) -> list[Video]:
        return [video for video in self._videos.values() if video.owner == owner]

    def _remove_oldest(self, videos: list[Video]) -> None:
        idle = [video for video in videos if video.facts is not None and not self._in_use(video)]
        if not idle:
            raise Refused("too many videos are being tracked at this moment: try again in a minute", 503)
        self.remove(idle[0])

    def newest(self, owner: str) -> Video | None:
        """The last video of `owner`, or None."""
        whole = [video for video in self._of(owner) if video.facts is not None]
        return whole[-1] if whole else None

    def get(self, owner: str, id: str) -> Video:
        """The video with this id.

        Raises:
            Refused: there is none, or it belongs to another browser.
        """
        video = self._videos.get(id)
        if video is None or video.owner != owner or video.facts is None:
            raise Refused("this video is no longer here: choose it again", 404)
        return video

    def holds(self, video: Video) -> bool:
        """Whether the video has not been removed."""
        return video.id in self._videos

    def remove(self, video: Video) -> None:
        """Forget a video and remove its folder."""
        if self.forget(video):
            self.drop(video)

    def forget(self, video: Video) -> bool:
        """Hide the video from requests; False if it was already hidden. `drop` must follow."""
        return self._videos.pop(video.id, None) is not None

    def drop(self, video: Video) -> None:
        """Remove the files of a video. May be called in any thread; waits for its job."""
        self._removed(video)
        shutil.rmtree(video.folder, ignore_errors=True)
