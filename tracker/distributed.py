"""Several processes, started by torchrun: the rank of this process, its share of the work, the results of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run. The default is this process only, without communication.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> World:
        """Read RANK and WORLD_SIZE, which torchrun or another launcher sets.

        The processes are not connected: this is enough to divide work, but not to exchange results.

        Raises:
            ValueError: if RANK is not the number of one of the processes.
        """
        rank, size, local_rank = (_whole_number(*pair) for pair in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        if rank >= size:
            raise ValueError(f"RANK must be 0 to WORLD_SIZE - 1, got {rank} of {size}")
        return cls(rank, size, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def device(self) -> torch.device:
        """The GPU of this process, or the CPU if there is no GPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this process works on: every `size`-th one.

        Example:
            >>> World(rank=1, size=3).share("abcdefgh")
            'beh'
        """
        return items[self.rank :: self.size]

    def collect(self, values: dict[str, Any]) -> dict[str, Any]:
        """Merge the dictionaries of all processes; each process gets the same result."""
        if self.size == 1:
            return values
        parts: list[dict[str, Any]] = [{} for _ in range(self.size)]
        dist.all_gather_object(parts, values)
        return {key: value for part in parts for key, value in part.items()}

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes; in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()


def _whole_number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"{name} must be a whole number, got {text!r}")
    return int(text)


@contextmanager
def join() -> Iterator[World]:
    """Connect the processes that torchrun started, with NCCL (GPUs) or gloo. Without torchrun, use this process only.

    Raises:
        ValueError: if WORLD_SIZE names other processes, and no variable says how to reach them.

    Example:
        >>> with join() as world:
        ...     world.size
        1
    """
    world = World.of_environment()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing and world.size == 1:
        yield World()
        return
    if missing:
        raise ValueError(f"WORLD_SIZE={world.size} must come with {', '.join(missing)}, which torchrun sets")
    local_rank = world.local_rank
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank))
    else:
        dist.init_process_group("gloo")
    try:
        yield world
    finally:
        dist.destroy_process_group()
