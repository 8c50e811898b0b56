"""The videos of the page: each in a folder of its own, known to the browser that brought it, removed at the end."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracker.serve.limits import Facts, Limits, Refused


@dataclass(eq=False)
class Video:
    """One video of one browser; `facts` are known from the time it is whole.

    Attributes:
        owner: token of the browser; nobody else gets to see the video.
        folder: for this video and what is made of it; nothing in it is named by a user.
        path: the file, in the folder but for the sample.
        truth: true boxes [N, 4] where they are known, else [0, 4].
    """

    owner: str
    folder: Path
    path: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    facts: Facts | None = None
    truth: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))


class Store:
    """Videos by their id. All calls but `drop` must come from one thread.

    A browser has one upload under way: another one takes its place.

    Args:
        root: an existing folder for all that is kept.
        limits: how many videos are kept; beyond that the oldest goes that no job needs.
        in_use: tells whether a job waits for a video or works on it.
        removed: called with each video that goes.
    """

    def __init__(
        self, root: Path, limits: Limits, *, in_use: Callable[[Video], bool], removed: Callable[[Video], None]
    ) -> None:
        self._root, self._limits, self._in_use, self._removed = root, limits, in_use, removed
        self._videos: dict[str, Video] = {}

    def add(self, owner: str, path: Path | None = None) -> Video:
        """A new video, to be written to its `path`, or the existing file `path`, which stays when the video goes.

        Raises:
            Refused: as many videos as may be kept are being uploaded or tracked.
        """
        unfinished = [v for v in self._videos.values() if v.owner == owner and v.facts is None]
        for video in unfinished if path is None else ():
            self.remove(video)
        while len(self._videos) >= self._limits.videos:
            idle = (v for v in self._videos.values() if v.facts is not None and not self._in_use(v))
            oldest = next(idle, None)
            if oldest is None:
                raise Refused("too many videos are being tracked at this moment: try again in a minute", 503)
            self.remove(oldest)
        folder = self._root / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        video = Video(owner, folder, path or folder / "video")
        self._videos[video.id] = video
        return video

    def get(self, owner: str, id: str) -> Video:
        """The video that `owner` brought.

        Raises:
            Refused: there is none of this id, or it is someone else's.
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
        """No request finds the video any more; False where none did before. `drop` must follow."""
        return self._videos.pop(video.id, None) is not None

    def drop(self, video: Video) -> None:
        """Remove what is left of a video; may be called, and may wait for its job, in any thread."""
        self._removed(video)
        shutil.rmtree(video.folder, ignore_errors=True)
