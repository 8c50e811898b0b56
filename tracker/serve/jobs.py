"""The queue of jobs: one runs at a time, in one thread."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracker.eval.run import Run
from tracker.serve.limits import Limits, Refused
from tracker.serve.store import Video

ENDED = ("done", "failed", "cancelled")
KEPT = 4  # jobs per video whose results are kept


class Cancelled(Exception):
    """Raised in a job that its user has cancelled."""


@dataclass(eq=False)
class Job:
    """One job on a video and its progress. The job thread writes it, the page reads it.

    Attributes:
        task: does the work; calls `check` often.
        state: waiting, running, done, failed or cancelled.
        phase: of a running job: "track", "video" (writing the annotated video) or "compare".
        total: number of frames to process, or None if unknown.
        done: number of frames processed in this phase.
        error: why it failed; note: anything else for the user.
        preview: number of a frame and the frame, annotated, as JPEG.
        summary, boxes, result: the result of `Run.summary`, the boxes file and the annotated video, once they exist.
        watched: when a page last asked for its state, on the clock of `time.monotonic`.
        patience: seconds without such a request after which the job ends.
        comparison: fps of both trackers and the overlap of their boxes.
    """

    video: Video
    task: Callable[[Job], None]
    box: np.ndarray
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "waiting"
    phase: str = ""
    total: int | None = None
    done: int = 0
    error: str = ""
    note: str = ""
    run: Run = field(default_factory=Run)
    summary: dict[str, Any] | None = None
    preview: tuple[int, bytes] | None = None
    boxes: Path | None = None
    result: Path | None = None
    comparison: dict[str, Any] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    watched: float = field(default_factory=time.monotonic)
    patience: float = math.inf

    def check(self) -> None:
        """Raise `Cancelled` if the job was cancelled, or nobody has asked for its state for `patience` seconds."""
        if self.cancelled.is_set() or time.monotonic() - self.watched > self.patience:
            raise Cancelled


class Jobs:
    """Runs jobs in order, one at a time, in a thread that `close` ends."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="tracker-jobs", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
            Refused: the queue is full, or the user's last job has not ended.
        """
        with self._changed:
            if any(other.video.owner == job.video.owner for other in self._active()):
                raise Refused("your last run has not ended: wait for it, or cancel it", 409)
            if len(self._waiting) >= self._limits.jobs:
                raise Refused("too many runs are waiting: try again in a minute", 503)
            ended = [other for other in self._jobs.values() if other.video is job.video]
            for other in ended[: max(0, len(ended) - KEPT + 1)]:  # repeated runs must not fill the disk
                del self._jobs[other.id]
                for path in (other.boxes, other.result):
                    if path is not None:
                        path.unlink(missing_ok=True)
            job.patience = self._limits.unwatched_seconds
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()

    def get(self, owner: str, id: str) -> Job:
        """The job that `owner` started.

        Raises:
            Refused: there is none of this id, or it is someone else's.
        """
        job = self._jobs.get(id)
        if job is None or job.video.owner != owner:
            raise Refused("this run is no longer here: start it again", 404)
        return job

    def of_video(self, video: Video) -> list[Job]:
        """The jobs of a video, in the order they were started."""
        with self._changed:
            return [job for job in self._jobs.values() if job.video is video]

    def active_video(self, owner: str) -> Video | None:
        """The video that a job of `owner` waits for or works on."""
        with self._changed:
            return next((job.video for job in self._active() if job.video.owner == owner), None)

    def position(self, job: Job) -> int:
        """Number of jobs before a waiting one."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """End a job: a waiting one at once, a running one at its next frame."""
        with self._changed:
            job.cancelled.set()
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "cancelled"

    def needs(self, video: Video) -> bool:
        """Whether a job waits for the video or works on it."""
        with self._changed:
            return any(job.video is video for job in self._active())

    def forget(self, video: Video) -> None:
        """Cancel the jobs of a video and drop their results; return when none of them runs any more."""
        with self._changed:
            jobs = [job for job in self._jobs.values() if job.video is video]
        for job in jobs:
            self.cancel(job)
        with self._changed:
            self._changed.wait_for(lambda: self._running not in jobs)
            for job in jobs:
                self._jobs.pop(job.id, None)  # two threads may forget the same video

    def close(self) -> None:
        """Cancel everything and end the thread."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _active(self) -> list[Job]:
        return self._waiting + ([self._running] if self._running else [])

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._running = self._waiting.pop(0)
                job.state = "running"
            state = _outcome(job)
            with self._changed:
                job.state, self._running = state, None
                self._changed.notify_all()


def _outcome(job: Job) -> str:
    """Run the job and return its final state."""
    try:
        job.check()  # its page may have gone while the job waited
        job.task(job)
        return "done"
    except Cancelled:
        return "cancelled"
    except FloatingPointError as error:
        job.error = str(error)
    except Exception:
        # The traceback goes to the server's terminal only, because it contains paths.
        logging.getLogger(__name__).exception("a job failed")
        job.error = "this run failed: see the terminal of the server"
    return "failed"
