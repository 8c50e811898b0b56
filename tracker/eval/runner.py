"""Track the sequences of a data set, in one process or several, and write a result file for each."""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracker.data.sequence import Sequence
from tracker.distributed import World
from tracker.engines.target import TrackResult
from tracker.eval.results import is_whole, skipped_path, write_result
from tracker.eval.vot import track_supervised
from tracker.io.files import write_whole
from tracker.tracker import Tracker

Progress = Callable[[str], None]  # called with the name of each finished sequence
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Build:
    """The arguments with which each process makes its tracker; see `Tracker.from_pretrained`."""

    weights: Path
    device: str | None = None
    dtype: torch.dtype | str | None = None
    backend: str = "fastops"
    activation: str | None = None

    def tracker(self) -> Tracker:
        return Tracker.from_pretrained(
            self.weights, device=self.device, dtype=self.dtype, backend=self.backend, activation=self.activation
        )

    def settings(self, tracker: Tracker) -> dict[str, Any]:
        """The settings on which results depend, for JSON. The weights are given by their checksum."""
        return {
            "weights": {"file": self.weights.name, "sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest()},
            "activation": self.activation,
            "dtype": str(self.dtype).removeprefix("torch."),
            "backend": self.backend,
            "config": asdict(tracker.config),
        }


def is_withheld(layout: str, sequence: Sequence) -> bool:
    """Whether the authors publish the first box only, as in GOT-10k's test split."""
    return layout == "got10k" and not callable(sequence.frames) and len(sequence) == 1 < len(sequence.frames)


@dataclass(frozen=True)
class Job:
    """The sequences of a data set, and the folder of their results.

    With `skip_bad` a sequence with unusable frames or boxes is left out. A file holds the reason
    (`tracker.eval.results.skipped_path`).
    """

    layout: str
    sequences: list[Sequence]
    folder: Path
    skip_bad: bool = False

    def frames(self, sequence: Sequence) -> int:
        """Number of frames to track: the annotated ones, or all of a sequence of GOT-10k's test split."""
        return len(sequence.frames) if is_withheld(self.layout, sequence) else len(sequence)

    def is_done(self, sequence: Sequence) -> bool:
        whole = is_whole(self.layout, self.folder, sequence.name, self.frames(sequence))
        return whole or self.why_skipped(sequence) is not None

    def why_skipped(self, sequence: Sequence) -> str | None:
        """The reason why a sequence was skipped, or None."""
        path = skipped_path(self.layout, self.folder, sequence.name)
        return path.read_text().strip() if self.skip_bad and path.is_file() else None

    def track(self, tracker: Tracker, sequence: Sequence, step: Callable[[], None] = lambda: None) -> None:
        """Track one sequence and write its result, or with `skip_bad` the reason why there is none.

        Raises:
            ValueError: the frames or boxes of the sequence cannot be used; the message names it.
        """
        try:
            if self.layout == "vot":
                rows, seconds = track_supervised(tracker, sequence, step)
            else:
                rows, seconds = track_once(tracker, sequence, self.frames(sequence), step)
        except ValueError as error:
            message = f"{sequence.name}: {error}"
            if not self.skip_bad:
                raise ValueError(message) from error
            write_whole(skipped_path(self.layout, self.folder, sequence.name), f"{message}\n".encode())
            return
        write_result(self.layout, self.folder, sequence.name, rows, seconds)


def track_once(
    tracker: Tracker, sequence: Sequence, frames: int, step: Callable[[], None] = lambda: None
) -> tuple[list[np.ndarray], list[float]]:
    """Track a sequence from its first true box; return the boxes, 0-based, and the seconds per frame.

    Frames before the first one with the target get its box, in 0 s. `step` is called after each frame and may raise an
    error to end the tracking.
    """
    start = sequence.start
    box = sequence.boxes[start]
    rows, seconds = [box] * (start + 1), [0.0] * start
    for index in range(start, frames):
        image = sequence.image(index)
        began = time.perf_counter()
        result: TrackResult | None = tracker.init(image, box) if index == start else tracker.update(image)
        seconds.append(time.perf_counter() - began)
        if result is not None:
            rows.append(result.box)
        step()
    return rows, seconds


def run(
    job: Job,
    build: Build,
    tracker: Tracker,
    workers: int,
    world: World,
    progress: Progress,
    waiting: Callable[[list[str]], None] = lambda names: None,
) -> None:
    """Track the sequences without a complete result. The processes of `world` divide them; the first waits for all.

    The processes do not communicate: the files show what is done. So no process runs into a time limit of
    torch.distributed, however long the others take.

    Args:
        tracker: used if `workers` is 1.
        workers: number of processes, each with its own tracker and its share of the CPU's cores.
        waiting: called once with the names that the other processes of `world` have not finished.

    Raises:
        ValueError, OSError: a frame or ground truth cannot be read. Earlier results stay.
    """
    todo = [sequence for sequence in job.sequences if not job.is_done(sequence)]
    for sequence in job.sequences:
        if sequence not in todo:
            progress(sequence.name)
    mine = [sequence for sequence in world.share(job.sequences) if sequence in todo]
    if workers == 1 or len(mine) < 2:
        for sequence in mine:
            job.track(tracker, sequence)
            progress(sequence.name)
    else:
        _run_workers(job, build, mine, workers, progress)
    if world.is_first:
        others = [sequence for sequence in todo if sequence not in mine]
        left = [sequence.name for sequence in others if not job.is_done(sequence)]
        if left:
            waiting(left)
        while others:
            done = [sequence for sequence in others if job.is_done(sequence)]
            for sequence in done:
                progress(sequence.name)
            others = [sequence for sequence in others if sequence not in done]
            time.sleep(POLL_SECONDS if others else 0)


class Stopped(Exception):
    """A signal asked the command to end."""


_worker: tuple[Job, Tracker, Any]


def _start_worker(job: Job, build: Build, threads: int, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `_uninterrupted` blocked it until here
    if hasattr(signal, "SIGHUP"):  # a terminal sends it to the group; the first process stops the others
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _worker = job, build.tracker(), stop


def _track(sequence: Sequence) -> str:
    job, tracker, stop = _worker

    def step() -> None:
        if stop.is_set():
            raise Stopped

    step()
    job.track(tracker, sequence, step)
    return sequence.name


def _run_workers(job: Job, build: Build, sequences: list[Sequence], workers: int, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads and the state of the GPU
    stop = context.Event()
    workers = min(workers, len(sequences))
    threads = max(1, torch.get_num_threads() // workers)
    arguments = (Job(job.layout, [], job.folder, job.skip_bad), build, threads, stop)
    with (
        ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=arguments) as pool,
        _stopping(stop, pool),
    ):
        # The longest sequences come first, so that none of them is left for the end.
        ordered = sorted(sequences, key=len, reverse=True)
        with _uninterrupted():
            futures = [pool.submit(_track, sequence) for sequence in ordered]
        for future in as_completed(futures):
            progress(future.result())


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, and keep it from the processes that are started in the block.

    A terminal sends the signal to the whole group. Only the first process handles it, and stops the others.
    """
    came: list[int] = []
    handler = None
    if threading.current_thread() is threading.main_thread():
        # The mask below holds for this thread only; the signal may reach another one.
        handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        resource_tracker.ensure_running()  # starting it later would unblock the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # started processes inherit it
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _stopping(stop: Any, pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the workers within a frame if an exception or Ctrl-C leaves the block."""
    try:
        yield
    except BaseException:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        raise
