"""CUDA graphs: a call is warmed up, with the fastest kernels for its convolutions, and captured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")
CAPTURE = threading.Lock()  # two captures in one process disturb each other, and so do two changes of a global setting


@contextmanager
def measured_convolutions() -> Iterator[None]:
    """cuDNN tries its kernels for each new size of a convolution and keeps the fastest, for the process.

    The user's setting is restored. Where the user asked for deterministic kernels nothing is tried: the choice depends
    on times, and another kernel rounds otherwise.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or not (cudnn.deterministic or torch.are_deterministic_algorithms_enabled())
    try:
        yield
    finally:
        cudnn.benchmark = before


def capture(run: Callable[[], Result], stream: torch.cuda.Stream, pool=None) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Warm up a call on `stream` and capture it there.

    Args:
        run: the call; it always works on the same memory.
        stream: of all captures that share a pool: memory is shared among captures of one stream only.
        pool: memory pool of the graph (`torch.cuda.graph_pool_handle`), or None for one of its own.

    Returns:
        The graph, and the result that a replay writes anew.
    """
    current = torch.cuda.current_stream(stream.device)
    with CAPTURE:
        stream.wait_stream(current)
        with measured_convolutions(), torch.cuda.stream(stream):
            for _ in range(2):  # selects and loads the kernels before the capture
                run()
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = run()
    return graph, result
