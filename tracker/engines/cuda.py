"""The fused engine on a GPU: captures steps as CUDA graphs, and uploads frames through pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from tracker.network.capture import capture

MAX_GRAPHS = 16  # captured steps: one for each combination of frame sizes and padded numbers of targets in use
MAX_BUFFERS = 64  # frame buffers on a GPU: one for each frame size and slot


def padded(count: int, chunk: int) -> int:
    """The number of rows that a step for `count` targets has: the next power of two, or multiple of `chunk` beyond it.

    So a number of targets that changes from frame to frame needs few graphs.

    Example:
        >>> [padded(count, 64) for count in (1, 3, 33, 64, 65)]
        [1, 4, 64, 64, 128]
    """
    return 1 << (count - 1).bit_length() if count <= chunk else -(-count // chunk) * chunk


class Graphs:
    """Steps; each is captured as a CUDA graph at its second run, and replayed from then on.

    Args:
        device: device of the tensors of the steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[Hashable, torch.cuda.CUDAGraph | None] = {}  # None: seen once
        # Of all graphs: one runs at a time. Memory is shared among captures of one stream only.
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

    def step(self, key: Hashable, run: Callable[[], object], state: Tensor) -> None:
        """Run a step, by its graph if there is one, and wait for its end.

        Args:
            key: what tells the step from others: the addresses and sizes that it works on.
            run: the step; it leaves its results in memory that stays.
            state: the tensor that a step changes; a capture restores it.
        """
        known = key in self._captured
        graph = self._captured.pop(key, None)
        if known and graph is None:
            graph = self._capture(run, state)
        if len(self._captured) >= MAX_GRAPHS:
            self._captured.pop(next(iter(self._captured)))  # the least recently used
        self._captured[key] = graph
        run() if graph is None else graph.replay()
        if self._stream is not None:
            torch.cuda.current_stream(self._device).synchronize()

    def _capture(self, run: Callable[[], object], state: Tensor) -> torch.cuda.CUDAGraph:
        before = state.clone()
        graph, _ = capture(run, self._stream, self._pool)
        state.copy_(before)
        return graph


class Uploads:
    """Uploads frames to a GPU through pinned memory; each frame size and slot has a buffer.

    Frames of slot 0 stay in pinned memory: the step that needs them uploads them, in its graph. Those of further slots
    go up at once on a stream of their own, while the host copies the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: dict[tuple, tuple[Tensor, Tensor, torch.cuda.Event]] = {}
        self._waiting: dict[int, tuple[Tensor, torch.cuda.Event]] = {}  # by address of the frame: what it will hold

    def __call__(self, image: Tensor, slot: int) -> Tensor:
        key = slot, *image.shape
        buffers = self._buffers.pop(key, None)
        if buffers is None:
            if len(self._buffers) >= MAX_BUFFERS:  # the least recently used
                _, frame, _ = self._buffers.pop(next(iter(self._buffers)))
                self._waiting.pop(frame.data_ptr(), None)
            pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            buffers = pinned, torch.empty(image.shape, dtype=torch.uint8, device=self._device), torch.cuda.Event()
        self._buffers[key] = buffers
        pinned, frame, copied = buffers
        if image.is_cuda:
            self._waiting.pop(frame.data_ptr(), None)
            frame.copy_(image)
            return frame
        copied.synchronize()  # wait for the last copy from this pinned memory
        pinned.copy_(image)
        if slot == 0:
            self._waiting[frame.data_ptr()] = pinned, copied
            return frame
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)  # wait for steps that still read the frame
        with torch.cuda.stream(self._stream):
            frame.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        current.wait_stream(self._stream)
        return frame

    def take_waiting(self, frame: Tensor) -> Tensor | None:
        """Pinned memory that the caller must copy into the frame and be done with before the next upload; or None."""
        pinned, _ = self._waiting.pop(frame.data_ptr(), (None, None))
        return pinned

    def finish(self, frame: Tensor) -> None:
        """Let the frame hold its image."""
        pinned, copied = self._waiting.pop(frame.data_ptr(), (None, None))
        if pinned is not None:
            frame.copy_(pinned, non_blocking=True)
            copied.record(torch.cuda.current_stream(self._device))
