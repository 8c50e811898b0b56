"""Training pairs: two crops around one target, from two frames of one video."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence as Items
from os import PathLike
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from tracker.data.archive import CropArchive
from tracker.data.crops import CROP_SIZE, MIN_SIDE, crop_target, read_crop, usable_frames
from tracker.data.pictures import Pictures
from tracker.data.sequence import Sequence
from tracker.data.stills import still_pair
from tracker.data.synthetic import SyntheticVideo
from tracker.io.images import ImageError

MAX_GAP = 100


class Pair(NamedTuple):
    """Two RGB crops centred on one target. They are larger than the network's inputs; see `tracker.data.crops`.

    Boxes are x, y, w, h in pixels of the crop, 0-based: pixel i covers i to i + 1. A collated batch has the same fields
    as tensors with a first dimension N.
    """

    exemplar: np.ndarray | Tensor  # uint8 [P, P, 3]
    search: np.ndarray | Tensor  # uint8 [P, P, 3]
    exemplar_box: np.ndarray | Tensor  # float32 [4]
    search_box: np.ndarray | Tensor  # float32 [4]


class PairSource(Protocol):
    """A source of pairs. `pair` depends on the index and on the numbers from `rng` only."""

    def __len__(self) -> int: ...

    def pair(self, index: int, rng: np.random.Generator) -> Pair: ...


class PairDataset(Dataset):
    """The pairs of an epoch. Pair `i` depends on (seed, epoch, i) only, and not on the process.

    Make it with `synthetic`, `stills`, `from_sequences`, `from_archive` or `concat`. Call `set_epoch` before iterating
    over a `DataLoader`; its workers then use the new epoch, persistent workers too.

    Raises:
        ValueError: if the seed is negative.

    Example:
        >>> pairs = PairDataset.synthetic(seed=0, pairs=8)
        >>> pairs.set_epoch(3)
        >>> len(pairs), pairs[7].search.shape, pairs[7].search_box.dtype
        (8, (287, 287, 3), dtype('float32'))
    """

    def __init__(self, source: PairSource, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.source, self.seed = source, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @classmethod
    def synthetic(
        cls, seed: int = 0, pairs: int = 10_000, *, crop_size: int = CROP_SIZE, pictures: Pictures | None = None
    ) -> PairDataset:
        """`pairs` pairs per epoch, each from a new `SyntheticVideo` (with `pictures`). No video is used twice."""
        return cls(_Synthetic(pairs, crop_size, pictures), seed)

    @classmethod
    def stills(
        cls, pictures: Pictures, pairs: int = 10_000, *, seed: int = 0, crop_size: int = CROP_SIZE
    ) -> PairDataset:
        """`pairs` pairs per epoch, each with two random views of a patch or cut-out of one of `pictures`."""
        return cls(_Stills(pictures, pairs, crop_size), seed)

    @classmethod
    def from_sequences(
        cls,
        sequences: Items[Sequence],
        *,
        seed: int = 0,
        repeat: int = 1,
        max_gap: int = MAX_GAP,
        min_side: float = MIN_SIDE,
        crop_size: int = CROP_SIZE,
        skip_bad: bool = False,
    ) -> PairDataset:
        """`repeat` pairs per sequence and epoch, read from the frames.

        Args:
            sequences: the sequences; those without a usable frame are skipped.
            seed: decides the pairs.
            repeat: pairs per sequence and epoch. Pair i is from sequence i mod len(sequences).
            max_gap: the distance of the two frames is below this, in frames. They differ if the sequence has two such
                frames.
            min_side: a frame is usable if the target is present and its sides are at least this, in pixels.
            crop_size: P, the side of the crops in pixels.
            skip_bad: replace frames that cannot be read by other frames, with a warning for each.

        Raises:
            ValueError: if an argument is out of range or no sequence has a usable frame.
            ImageError: later, if an image cannot be read; with `skip_bad`, only if the sequence has no other image. The
                message names the image.
        """
        return cls(_FromSequences(sequences, repeat, max_gap, min_side, crop_size, skip_bad), seed)

    @classmethod
    def from_archive(
        cls,
        path: str | PathLike[str],
        *,
        seed: int = 0,
        repeat: int = 1,
        max_gap: int = MAX_GAP,
        leave_out: Items[str] = (),
    ) -> PairDataset:
        """`repeat` pairs per sequence and epoch, read from an archive that `tracker prepare` wrote.

        Args:
            path: the archive. It decides P and which frames are usable.
            seed, repeat, max_gap: as in `from_sequences`.
            leave_out: names of sequences to skip.

        Raises:
            ValueError: if an argument is out of range, a name does not exist or no sequence is left.
            ArchiveError: if the file is not an archive, incomplete or damaged. Later, if a crop is damaged; the message
                names it.
        """
        return cls(_FromArchive(CropArchive(path), repeat, max_gap, leave_out), seed)

    @classmethod
    def concat(cls, parts: Items[PairDataset], *, seed: int | None = None) -> PairDataset:
        """The pairs of all parts, part by part. `seed` replaces their seeds; None means the first part's seed."""
        if not parts:
            raise ValueError("parts must be at least one, got none")
        return cls(_Concatenated([part.source for part in parts]), parts[0].seed if seed is None else seed)

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. Each epoch has different pairs of the same sequences."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        return self.pair(self.epoch, index)

    def pair(self, epoch: int, index: int) -> Pair:
        """Pair `index` of any epoch, so that a loader can read the next epoch before the current one ends."""
        _one_opencv_thread_per_worker()
        return self.source.pair(index, np.random.default_rng((self.seed, epoch, index)))


class _Synthetic:
    def __init__(self, pairs: int, crop_size: int, pictures: Pictures | None) -> None:
        _require("pairs", pairs)
        _require("crop_size", crop_size)
        self._pairs, self._crop_size, self._pictures = pairs, crop_size, pictures

    def __len__(self) -> int:
        return self._pairs

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        video = SyntheticVideo(
            seed=int(rng.integers(2**63)),
            frames=64,
            size=(288, 288),
            target=rng.uniform(40, 72),
            occlusions=int(rng.integers(2)),
            distractors=int(rng.integers(1, 4)),
            noise=float(rng.integers(6)),
            pictures=self._pictures,
        )
        first, second = rng.integers(0, len(video), size=2)
        if video.visible[first] < video.visible[second]:
            first, second = second, first  # the exemplar is the frame in which more of the target is visible
        return _as_pair(*(crop_target(*video.frame(frame), self._crop_size) for frame in (first, second)))


class _Stills:
    def __init__(self, pictures: Pictures, pairs: int, crop_size: int) -> None:
        _require("pairs", pairs)
        _require("crop_size", crop_size)
        self._pictures, self._pairs, self._crop_size = pictures, pairs, crop_size

    def __len__(self) -> int:
        return self._pairs

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        return _as_pair(*still_pair(self._pictures, rng, self._crop_size))


class _FromSequences:
    def __init__(
        self,
        sequences: Items[Sequence],
        repeat: int,
        max_gap: int,
        min_side: float,
        crop_size: int,
        skip_bad: bool,
    ) -> None:
        _require("repeat", repeat)
        _require("max_gap", max_gap)
        _require("crop_size", crop_size)
        usable = [(sequence, usable_frames(sequence, min_side)) for sequence in sequences]
        self._sequences = [(sequence, frames) for sequence, frames in usable if len(frames)]
        if not self._sequences:
            raise ValueError(
                f"sequences must hold a target with sides of at least {min_side:g} px, "
                f"got none in {len(usable)} sequences"
            )
        self._repeat, self._max_gap, self._crop_size, self._skip_bad = repeat, max_gap, crop_size, skip_bad

    def __len__(self) -> int:
        return self._repeat * len(self._sequences)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        sequence, frames = self._sequences[index % len(self._sequences)]
        while True:
            chosen = choose_frames(frames, self._max_gap, rng)
            crops = []
            for frame in chosen:
                try:
                    crops.append(read_crop(sequence, frame, self._crop_size))
                except ImageError as error:
                    frames = frames[frames != frame]
                    if not self._skip_bad or not len(frames):
                        raise
                    warnings.warn(f"skipped {error}", stacklevel=2)
                    break
            else:
                return _as_pair(*crops)


class _FromArchive:
    def __init__(self, archive: CropArchive, repeat: int, max_gap: int, leave_out: Items[str]) -> None:
        _require("repeat", repeat)
        _require("max_gap", max_gap)
        names = {name for name, *_ in archive.sequences}
        if unknown := sorted(set(leave_out) - names):
            raise ValueError(f"leave_out must name sequences of {archive.path}, got {', '.join(unknown)}")
        self._spans = [span for name, *span in archive.sequences if name not in leave_out]
        if not self._spans:
            raise ValueError(f"archive must hold sequences to take, got none in {archive.path}")
        self._archive, self._repeat, self._max_gap = archive, repeat, max_gap

    def __len__(self) -> int:
        return self._repeat * len(self._spans)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        start, stop = self._spans[index % len(self._spans)]
        frames = self._archive.frames[start:stop]
        numbers = [start + int(np.searchsorted(frames, f)) for f in choose_frames(frames, self._max_gap, rng)]
        return _as_pair(*((self._archive.crop(number), self._archive.boxes[number].copy()) for number in numbers))


class _Concatenated:
    def __init__(self, parts: list[PairSource]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part].pair(index - int(self._ends[part]) + len(self._parts[part]), rng)


def choose_frames(frames: np.ndarray, max_gap: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two of `frames`, which are ascending: a random one, then another one less than `max_gap` away if there is one."""
    first = int(rng.integers(len(frames)))
    low = int(np.searchsorted(frames, frames[first] - max_gap, side="right"))
    high = int(np.searchsorted(frames, frames[first] + max_gap, side="left"))
    second = first
    if high - low > 1:
        second = low + int(rng.integers(high - low - 1))
        second += second >= first
    return int(frames[first]), int(frames[second])


def _as_pair(exemplar: tuple[np.ndarray, np.ndarray], search: tuple[np.ndarray, np.ndarray]) -> Pair:
    return Pair(exemplar[0], search[0], exemplar[1], search[1])


def _require(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


_set_in: int | None = None


def _one_opencv_thread_per_worker() -> None:
    """Disable OpenCV's threads in a worker: the workers run in parallel already, and a fork loses the threads."""
    global _set_in
    if _set_in != os.getpid() and get_worker_info() is not None:
        cv2.setNumThreads(0)
        _set_in = os.getpid()
