"""Makes an archive of crops from sequences."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from tracker.data.archive import ArchiveError, ArchiveWriter, CropArchive, header_bytes
from tracker.data.crops import CROP_SIZE, MIN_SIDE, read_crop, usable_frames
from tracker.data.sequence import Sequence
from tracker.io.images import ImageError

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare_archive`: the number of crops, and a line for each frame that was skipped."""

    crops: int
    skipped: list[str]


def prepare_archive(
    sequences: Items[Sequence],
    path: str | PathLike[str],
    *,
    crop_size: int = CROP_SIZE,
    quality: int = 90,
    every: int = 1,
    min_side: float = MIN_SIDE,
    workers: int = 1,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write the crops of all usable frames to an archive that `PairDataset.from_archive` reads.

    It may be killed at any time. A new call with the same arguments continues after the last complete crop. If the
    archive exists already, its checksums are verified and it stays as it is.

    Args:
        sequences: the sequences. Each frame with a target whose sides are at least `min_side` gives a crop.
        path: the archive; `path`.part is the unfinished archive.
        crop_size: P, the side of the crops in pixels.
        quality: quality of the JPEGs, 1 to 100.
        every: use only each `every`-th usable frame of a sequence.
        min_side: shortest usable side of a target, in pixels.
        workers: number of threads that read, crop and encode.
        skip_bad: skip frames that cannot be read. A run that stopped at such a frame can continue with this.
        progress: called with the numbers of frames done and to do, at the start and after each frame.

    Raises:
        ValueError: if an argument is out of range or there is no usable frame.
        ArchiveError: if `path` is another archive, another file or damaged, or its part is from another run.
        ImageError: if an image cannot be read. The message names it.
    """
    for name, value, ok, rule in (
        ("crop_size", crop_size, crop_size >= 1, "at least 1"),
        ("quality", quality, 1 <= quality <= 100, "from 1 to 100"),
        ("every", every, every >= 1, "at least 1"),
        ("workers", workers, workers >= 1, "at least 1"),
    ):
        if not ok:
            raise ValueError(f"{name} must be {rule}, got {value}")
    chosen = [usable_frames(sequence, min_side)[::every] for sequence in sequences]
    total = sum(len(frames) for frames in chosen)
    if not total:
        raise ValueError(f"sequences must hold usable frames, got none in {len(sequences)}")
    header = {
        "crop_size": crop_size,
        "quality": quality,
        "names": [sequence.name for sequence in sequences],
        "frames": _fingerprint(sequences, chosen),
    }
    path = Path(path)
    if path.exists():
        return _complete(path, header, total, skip_bad, progress)

    def encode(job: tuple[int, int]) -> tuple[np.ndarray, bytes] | ImageError:
        number, frame = job
        try:
            crop, box = read_crop(sequences[number], frame, crop_size)
        except ImageError as error:
            return error
        bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
        return box, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    jobs = ((number, int(frame)) for number, frames in enumerate(chosen) for frame in frames)
    with ArchiveWriter(path, header) as archive:
        _refuse_skipped(archive, skip_bad)
        if progress is not None:
            progress(archive.done, total)
        for (number, frame), made in _in_order(encode, islice(jobs, archive.done, None), workers):
            if not isinstance(made, ImageError):
                archive.add(number, frame, *made)
            elif skip_bad:
                archive.skip(number, frame, str(made))
            else:
                raise made
            if progress is not None:
                progress(archive.done, total)
        archive.finish()
    return Prepared(archive.done - len(archive.skipped), archive.skipped)


def _complete(
    path: Path, header: dict[str, Any], total: int, skip_bad: bool, progress: Callable[[int, int], None] | None
) -> Prepared:
    archive = CropArchive(path)
    if header_bytes(archive.header) != header_bytes(header):
        raise ArchiveError(f"{path}: archive must be of the same sequences and settings, got one of others")
    _refuse_skipped(archive, skip_bad)
    archive.verify()
    if progress is not None:
        progress(total, total)
    return Prepared(len(archive), archive.skipped)


def _refuse_skipped(archive: ArchiveWriter | CropArchive, skip_bad: bool) -> None:
    if archive.skipped and not skip_bad:
        raise ArchiveError(f"{archive.path}: skip_bad must be set where frames were left out before, got not")


def _fingerprint(sequences: Items[Sequence], chosen: list[np.ndarray]) -> str:
    """A digest of the frames and boxes. It does not depend on their folder."""
    digest = hashlib.sha256()
    for sequence, frames in zip(sequences, chosen, strict=True):
        digest.update(frames.astype("<i8").tobytes() + sequence.boxes[frames].astype("<f8").tobytes())
        if not callable(sequence.frames):
            digest.update("\n".join(sequence.frames[frame].name for frame in frames).encode())
    return digest.hexdigest()


def _in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Yield (item, function(item)) in the order of the items. Threads compute a few items in advance.

    Threads are enough, because OpenCV's coding and the op's cropping release the interpreter's lock.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    executor = ThreadPoolExecutor(workers, "prepare", lambda: torch.set_num_threads(1))
    try:
        for item in items:
            waiting.append((item, executor.submit(function, item)))
            if len(waiting) > 4 * workers:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
    finally:
        executor.shutdown(cancel_futures=True)
