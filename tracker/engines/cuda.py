"""The fused engine on a GPU: steps captured as CUDA graphs, frames uploaded through pinned memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tracker.network.capture import capture

MAX_GRAPHS = 16  # captured steps: one for each frame size and range of rows in use
MAX_BUFFERS = 64  # frame buffers on a GPU: one for each frame size and slot


class Graphs:
    """Steps on one image; each is captured as a CUDA graph at its second run, and replayed from then on.

    Args:
        device: device of the tensors of the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}  # None: seen once
        # Of all graphs: one runs at a time. Memory is shared among captures of one stream only.
        self._pool = self._stream = None
        if device.type == "cuda":
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def clear(self) -> None:
        """Forget all graphs: the memory that they work on is void. Those to come have a pool of their own: results of
        the old ones may still be held, and a pool that lost its graphs must not be captured into then."""
        self._captured.clear()
        if self._pool is not None:
            self._pool = torch.cuda.graph_pool_handle()

    def step(self, follow: Callable[[Tensor, slice], Tensor], state: Tensor, image: Tensor, rows: slice) -> Tensor:
        """Run a step, by its graph if there is one.

        Args:
            follow: the step: it takes an image and the rows of its targets, and returns their results.
            state: the tensor that a step changes; a capture restores it.
            image, rows: arguments of the step; the image is at the same address in every run of the step.
        """
        key = image.data_ptr(), tuple(image.shape), rows.start, rows.stop
        known = key in self._captured
        captured = self._captured.pop(key, None)
        if known and captured is None:
            captured = self._capture(follow, state, image, rows)
        if len(self._captured) >= MAX_GRAPHS:
            self._captured.pop(next(iter(self._captured)))  # the least recently used
        self._captured[key] = captured
        if captured is None:
            return follow(image, rows)
        graph, results = captured
        graph.replay()
        return results

    def _capture(
        self, follow: Callable[[Tensor, slice], Tensor], state: Tensor, image: Tensor, rows: slice
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """Capture the step as a graph; the state is restored afterwards."""
        before = state.clone()
        captured = capture(lambda: follow(image, rows), self._stream, self._pool)
        state.copy_(before)
        return captured


class Uploads:
    """Uploads frames to a GPU through pinned memory, on its own stream; each frame size and slot has a buffer."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: dict[tuple, tuple[Tensor, Tensor, torch.cuda.Event]] = {}

    def __call__(self, image: Tensor, slot: int) -> Tensor:
        key = slot, *image.shape
        buffers = self._buffers.pop(key, None)
        if buffers is None:
            if len(self._buffers) >= MAX_BUFFERS:
                self._buffers.pop(next(iter(self._buffers)))  # the least recently used
            pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            buffers = pinned, torch.empty(image.shape, dtype=torch.uint8, device=self._device), torch.cuda.Event()
        self._buffers[key] = buffers
        pinned, frame, copied = buffers
        current = torch.cuda.current_stream(self._device)
        if image.is_cuda:
            frame.copy_(image)
            return frame
        copied.synchronize()  # wait for the last copy from this pinned memory
        pinned.copy_(image)
        self._stream.wait_stream(current)  # wait for steps that still read the frame
        with torch.cuda.stream(self._stream):
            frame.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        current.wait_stream(self._stream)
        return frame
