"""What the tests of `tracker serve` share: small limits, and a task that waits."""

from __future__ import annotations

import threading
import time

from tracker.serve.jobs import Job
from tracker.serve.limits import Limits

LIMITS = Limits(
    upload_bytes=500_000,
    seconds=1.0,
    frames=30,
    pixels=200 * 200,
    compared_frames=4,
    jobs=2,
    videos=3,
    videos_per_owner=2,
)
PATIENCE = 120.0  # seconds, on a machine that is busy with other things


class Slow:
    """A task that runs until it is told to go on, or cancelled."""

    def __init__(self) -> None:
        self.ran: list[Job] = []
        self.go_on = threading.Event()

    def __call__(self, job: Job) -> None:
        self.ran.append(job)
        while not self.go_on.is_set():
            job.check()
            time.sleep(0.005)


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
