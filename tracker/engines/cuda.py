"""The fused engine on a GPU: captures steps as CUDA graphs, and uploads frames through pinned memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

MAX_GRAPHS = 16  # captured steps; each frame size and range of rows has one
MAX_BUFFERS = 64  # frame buffers on a GPU; each frame size and slot has one
CAPTURE = threading.Lock()  # two captures in one process disturb each other


class Graphs:
    """Steps on one image. The second run of a step captures it as a CUDA graph, and later runs replay the graph.

    Args:
        device: device of the tensors of the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}  # None if the step has run once
        # All graphs share one pool, because one graph runs at a time. Only captures on one stream can share memory.
        self._pool = self._stream = None
        if device.type == "cuda":
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def clear(self) -> None:
        """Drop all graphs, because their memory is no longer valid. New graphs get a new pool.

        A caller may still hold results of the old graphs. Then the old pool must not be used for a capture.
        """
        self._captured.clear()
        if self._pool is not None:
            self._pool = torch.cuda.graph_pool_handle()

    def step(self, follow: Callable[[Tensor, slice], Tensor], state: Tensor, image: Tensor, rows: slice) -> Tensor:
        """Run a step, as a graph if there is one.

        Args:
            follow: the step. It takes an image and the rows of its targets, and returns their results.
            state: the tensor that the step changes. A capture restores it.
            image, rows: arguments of the step. The image has the same address in every run of the step.
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
        """Capture the step as a graph and restore the state."""
        before = state.clone()
        current, side = torch.cuda.current_stream(), self._stream
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):  # select and load the kernels before the capture
                follow(image, rows)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with CAPTURE, torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
            results = follow(image, rows)
        state.copy_(before)
        return graph, results


class Uploads:
    """Uploads frames to a GPU through pinned memory, on its own stream. Each frame size and slot has a buffer."""

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
