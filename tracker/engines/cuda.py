"""What a GPU adds to the fused engine: steps captured as CUDA graphs, frames uploaded through pinned memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

MAX_GRAPHS = 16  # captured steps kept: one for each size of frame and range of rows in use
MAX_BUFFERS = 64  # frames kept on a GPU, one for each size and place in a call
CAPTURE = threading.Lock()  # a capture is thrown off by another one in its process


class Graphs:
    """Steps on one image, each captured as a CUDA graph the second time that it is taken, and then replayed.

    Args:
        device: of the tensors that the steps work on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}  # None: seen once
        # Of all graphs: one runs at a time.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def clear(self) -> None:
        """Forget all graphs: the memory that they work on is void."""
        self._captured.clear()

    def step(self, follow: Callable[[Tensor, slice], Tensor], state: Tensor, image: Tensor, rows: slice) -> Tensor:
        """Take a step, by its graph where there is one.

        Args:
            follow: the step: an image and the rows of its targets in, their results out.
            state: what a step changes; a capture leaves it as it was.
            image, rows: of the step; the image lies at the same address whenever the step is taken.
        """
        key = image.data_ptr(), tuple(image.shape), rows.start, rows.stop
        known = key in self._captured
        captured = self._captured.pop(key, None)
        if known and captured is None:
            captured = self._capture(follow, state, image, rows)
        if len(self._captured) >= MAX_GRAPHS:
            self._captured.pop(next(iter(self._captured)))  # the one not used for the longest time
        self._captured[key] = captured
        if captured is None:
            return follow(image, rows)
        graph, results = captured
        graph.replay()
        return results

    def _capture(
        self, follow: Callable[[Tensor, slice], Tensor], state: Tensor, image: Tensor, rows: slice
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The step as a graph; the state is as it was before."""
        before = state.clone()
        current, side = torch.cuda.current_stream(), torch.cuda.Stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):  # kernels are chosen and loaded outside of the capture
                follow(image, rows)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with CAPTURE, torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
            results = follow(image, rows)
        state.copy_(before)
        return graph, results


class Uploads:
    """Frames to a GPU through pinned memory on a stream of its own, into one buffer of each size and place."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: dict[tuple, tuple[Tensor, Tensor, torch.cuda.Event]] = {}

    def __call__(self, image: Tensor, place: int) -> Tensor:
        key = place, *image.shape
        buffers = self._buffers.pop(key, None)
        if buffers is None:
            if len(self._buffers) >= MAX_BUFFERS:
                self._buffers.pop(next(iter(self._buffers)))  # the one not used for the longest time
            pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            buffers = pinned, torch.empty(image.shape, dtype=torch.uint8, device=self._device), torch.cuda.Event()
        self._buffers[key] = buffers
        pinned, frame, copied = buffers
        current = torch.cuda.current_stream(self._device)
        if image.is_cuda:
            frame.copy_(image)
            return frame
        copied.synchronize()  # the last copy out of this pinned memory
        pinned.copy_(image)
        self._stream.wait_stream(current)  # steps that still read the frame
        with torch.cuda.stream(self._stream):
            frame.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        current.wait_stream(self._stream)
        return frame
