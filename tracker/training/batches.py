"""Batches in the order of training: the pairs of each step, and workers that load them in advance, across epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from tracker.data.archive import CropArchive
from tracker.data.augment import collate
from tracker.data.datasets import open_place
from tracker.data.pairs import Pair, PairDataset
from tracker.data.pictures import Pictures
from tracker.distributed import World
from tracker.training.config import TrainConfig


class Loaded(NamedTuple):
    """The collated pairs of one step, with their epoch and indices."""

    epoch: int
    indices: list[int]
    pairs: Pair


def check_batch(pairs: int, batch_size: int, world: World) -> None:
    """Raise an error if an epoch of `pairs` does not fill a batch, or if the processes cannot share it equally."""
    if pairs < batch_size:
        raise ValueError(
            f"pairs must fill a batch of {batch_size}, got {pairs} per epoch: set a smaller batch_size, or "
            "data.repeat to take more pairs of each sequence"
        )
    if batch_size % world.size:
        raise ValueError(f"batch_size must be a multiple of the {world.size} processes, got {batch_size}")


class BatchOrder:
    """The pairs of each step. They depend only on the seed and the step, so a run can start at any step.

    Each epoch goes through all pairs in a new order. Pairs at its end that do not fill a batch are skipped.

    Args:
        pairs: number of pairs per epoch.
        batch_size: pairs per step, of all processes together.
        seed: decides the orders.
        steps: the steps to yield, counted from 0.
        world: the processes. Each one takes its part of every batch, in the order of their ranks.
        repeat_first: yield the first batch at every step.

    Raises:
        ValueError: if the pairs do not fill a batch, or a batch cannot be shared evenly.
    """

    def __init__(
        self,
        pairs: int,
        batch_size: int,
        seed: int,
        steps: range,
        world: World | None = None,
        *,
        repeat_first: bool = False,
    ) -> None:
        self.world = world or World()
        check_batch(pairs, batch_size, self.world)
        self.pairs, self.batch_size, self.seed, self.steps, self.repeat_first = (
            pairs, batch_size, seed, steps, repeat_first,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.pairs // self.batch_size
        part = self.batch_size // self.world.size
        order, of_epoch = torch.empty(0), -1
        for step in self.steps:
            epoch, batch = (0, 0) if self.repeat_first else divmod(step, per_epoch)
            if epoch != of_epoch:
                generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
                order, of_epoch = torch.randperm(self.pairs, generator=generator), epoch
            first = batch * self.batch_size + self.world.rank * part
            yield [(epoch, index) for index in order[first : first + part].tolist()]


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits for a generator. Different sequences of numbers give different seeds."""
    mixed = 0
    for number in numbers:  # splitmix64
        mixed = (mixed + number + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return mixed >> 1


class _OfAnyEpoch(Dataset):
    """A pair by epoch and index, so that workers can load the next epoch before the current one ends."""

    def __init__(self, pairs: PairDataset) -> None:
        self._pairs = pairs

    def __getitem__(self, key: tuple[int, int]) -> tuple[tuple[int, int], Pair]:
        return key, self._pairs.pair(*key)


def _collate(items: list[tuple[tuple[int, int], Pair]]) -> Loaded:
    keys, pairs = zip(*items, strict=True)
    return Loaded(keys[0][0], [index for _, index in keys], collate(pairs))


def make_loader(pairs: PairDataset, order: BatchOrder, workers: int, device: torch.device) -> DataLoader:
    """Load the batches of `order` in advance, into pinned memory if they go to a GPU."""
    options: dict[str, Any] = {"prefetch_factor": 4} if workers else {}
    return DataLoader(
        _OfAnyEpoch(pairs),
        batch_sampler=order,
        num_workers=min(workers, len(order)),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        **(options if min(workers, len(order)) else {}),
    )


# ---- the pairs of a configuration ----------------------------------------------------------------------------


def open_pairs(config: TrainConfig, held: Iterable[str] = ()) -> PairDataset:
    """All pairs that the configuration names.

    Args:
        config: settings of the run.
        held: names of the validation sequences, which must not be in the training data.

    Raises:
        ValueError, OSError: if a source cannot be read or has another layout, if there are no pairs, if a name in
            `data.leave_out` does not exist, or if one of `held` is in the training data.
    """
    data, parts, names = config.data, [], set()
    for path in data.archives:
        archive = CropArchive(path)
        if (size := archive.header["crop_size"]) != data.crop_size:
            raise ValueError(f"data.crop_size must be that of the archive {path}, {size}, got {data.crop_size}")
        in_archive = {name for name, *_ in archive.sequences}
        names |= in_archive
        left_out = in_archive.intersection(data.leave_out)
        if left_out != in_archive:
            parts.append(
                PairDataset.from_archive(path, repeat=data.repeat, max_gap=data.max_gap, leave_out=sorted(left_out))
            )
    if data.sequences:
        opened = [sequence for place in data.sequences for sequence in open_place(place, skip_bad=data.skip_bad)]
        names |= {sequence.name for sequence in opened}
        sequences = [sequence for sequence in opened if sequence.name not in data.leave_out]
        parts.append(
            PairDataset.from_sequences(
                sequences,
                repeat=data.repeat,
                max_gap=data.max_gap,
                crop_size=data.crop_size,
                skip_bad=data.skip_bad,
            )
        )
    if unknown := set(data.leave_out) - names:
        raise ValueError(f"data.leave_out must name sequences, got {', '.join(sorted(unknown))}")
    if both := names.intersection(held) - set(data.leave_out):
        raise ValueError(
            "data.leave_out must name the sequences of the validation that are in the data, "
            f"got none of {', '.join(sorted(both))}"
        )
    pictures = Pictures(data.pictures) if data.pictures else None
    if data.stills:
        parts.append(PairDataset.stills(pictures, data.stills, crop_size=data.crop_size))
    if data.synthetic:
        parts.append(PairDataset.synthetic(pairs=data.synthetic, crop_size=data.crop_size, pictures=pictures))
    if not parts:
        raise ValueError("one of data.synthetic, data.stills, data.archives and data.sequences must give pairs")
    return PairDataset.concat(parts, seed=config.seed)
