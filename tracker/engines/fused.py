"""Tracking on the device: crops, network, correlation and box update of all targets, whose state stays there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastops
from fastops.ops.response import Result, State
from tracker.config import TrackerConfig, box_settings
from tracker.engines.calibration import calibrated, calibration
from tracker.engines.cuda import Graphs, Uploads, padded
from tracker.engines.redetect import Redetection
from tracker.engines.target import Start, TrackResult
from tracker.geometry import region_side
from tracker.network.autotune import make_network
from tracker.network.box_head import SIDE, distances
from tracker.network.fused import FusedNetwork
from tracker.network.model import SiamFC

#: Number of targets per batch of the network. On a CPU more targets would not fit into the cache: 3 crops take 27 ms in
#: batches of 12, and 15 ms in batches of 3. With one target per batch, its results also have the same bits as without
#: the others. A GPU needs many targets to be busy.
CHUNK = {"cpu": 1, "cuda": 64}


class FusedEngine:
    """Follows a table of targets together. Each target is a row of the table.

    The data of a target is in tensors on the network's device: its template, its padding colour and its row of
    `fastops.ops.response.State`. A step crops all scales of the targets, embeds and correlates the crops and updates
    the boxes. The host only reads the results. On a GPU, a step is captured once as a CUDA graph, then replayed: the
    upload of its frame from pinned memory, the targets of all its images, and the copy of the [K, 6] results to pinned
    memory. It has a power of two of rows for each image; those that are not needed are of no target.

    Args:
        network: embeds and correlates the crops.
        config: settings.
    """

    def __init__(self, network: FusedNetwork, config: TrackerConfig) -> None:
        if network.head == "box":  # it predicts the size, so one scale is enough
            config = replace(config, scale_num=1)
        self.network, self.config = network, config
        cfg, self._device = config, network.device
        half = cfg.scale_num // 2
        scales = cfg.scale_step ** torch.arange(-half, half + 1, dtype=torch.float64, device="cpu")
        self._scales = scales.float().to(self._device)
        self._chunk = CHUNK.get(self._device.type, 1)
        on_gpu = self._device.type == "cuda"
        self._uploads = Uploads(self._device) if on_gpu else None
        self._graphs = Graphs(self._device)
        self.capacity = self._live = 0  # rows there are, and those of targets, which are the first
        self.state = torch.empty((0, len(State)), dtype=torch.float32, device=self._device)
        self._colors = torch.empty((0, cfg.scale_num, 3), dtype=torch.uint8, device=self._device)
        self._templates: Tensor | None = None
        # For a network with a box head; see `tracker.engines.calibration`.
        self._calibrations = torch.empty((0, 4, 4), dtype=torch.float32, device=self._device)
        self._update = update_of(network.head, cfg)
        self._memory: dict[int, Redetection] = {}  # row -> search for a lost target
        self._reserve(1)

    def upload(self, image: Tensor, slot: int = 0) -> Tensor:
        """Return the image on the device.

        On a GPU the image is in the buffer of its size and `slot`. The frames of one `step` call must use different
        slots.
        """
        if self._uploads is None:
            return image.to(self._device)
        with self._guard():
            return self._uploads(image, slot)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Make the engine's device current, to which streams and captures belong, and compute in the engine's dtype."""
        current = torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()
        with current, torch.autocast(self._device.type, enabled=False):
            yield

    @torch.inference_mode()
    def start(self, row: int, image: Tensor, start: Start) -> None:
        """Set a target's template, colour and state in `row`, from `image`, uint8 [H, W, 3] on the device."""
        with self._guard():
            if self._uploads is not None:
                self._uploads.finish(image)
            self._start(row, image, start)
            self._live = max(self._live, row + 1)

    def _start(self, row: int, image: Tensor, start: Start) -> None:
        cfg = self.config
        if row >= self.capacity:
            self._reserve(max(row + 1, 2 * self.capacity))
        y, x = start.center.tolist()
        region = torch.tensor([[x, y, start.exemplar_size]], dtype=torch.float64, device=self._device)
        self._colors[row] = torch.from_numpy(start.color)
        template = self.network.features(self._crop(image, region, cfg.exemplar_size, self._colors[row, 0]))
        if self._templates is None:
            self._templates = self._templates_of(template, len(self.state))
        self._templates[row] = template[0]
        self.state[row] = torch.tensor(start.row(), dtype=torch.float32, device="cpu")
        (y, x), (h, w) = start.center.tolist(), start.size.tolist()
        self._memory[row] = Redetection(cfg, (x - (w - 1) / 2, y - (h - 1) / 2, w, h))
        self._calibrations[row] = torch.eye(4, dtype=torch.float32, device="cpu")
        rows = slice(row, row + 1)
        outputs = self._maps([image], [1], self.state[rows], self._colors[rows], self._templates[rows])
        if len(outputs) > 1 and cfg.box_calibrate:
            pixels = cfg.instance_size / float(start.search_size)  # pixels of the search crop per pixel of the image
            self._calibrations[row] = calibration(distances(outputs[1]), w * pixels, h * pixels).to(self._device)
        result = self._update(outputs, self.state[rows], self._calibrations[rows])  # its own contrast
        if not bool(result.isfinite().all()):
            raise FloatingPointError("the network's response must be finite, got NaN or infinity")

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Forget a target; the one in the last row moves to its row."""
        self._live -= 1
        last = self._memory.pop(self._live)
        if row != self._live:
            for table in (self.state, self._colors, self._templates, self._calibrations):
                table[row] = table[self._live]
            self._memory[row] = last

    def find(self, groups: Sequence[tuple[Tensor, Sequence[int]]]) -> list[list[float]]:
        """Find targets in their next images, and search for those that are lost.

        Args:
            groups: images, uint8 [H, W, 3] on the device, and the rows of the targets to find in each.

        Returns:
            The columns of `fastops.ops.response.Result` for each target, in the order of the groups.
        """
        values = self.step(groups)
        if not self.config.redetect:
            return values
        images = [(image, row) for image, rows in groups for row in rows]
        for i, (image, row) in enumerate(images):
            if is_finite(values[i]) and values[i][Result.LOST]:
                values[i] = self._search(image, row) or values[i]
            elif is_finite(values[i]):
                self._memory[row].note(values[i][: Result.HEIGHT + 1], values[i][Result.SCORE])
        return values

    @torch.inference_mode()
    def _search(self, image: Tensor, row: int) -> list[float] | None:
        """Search more of the image for a lost target. Return its results if it is found again, else None."""
        rows, state = slice(row, row + 1), self.state[row]

        def look(centers: np.ndarray, side: float) -> np.ndarray:
            regions = np.column_stack([centers, np.full(len(centers), side)])
            regions = torch.from_numpy(regions).to(self._device)
            crops = self._crop(image, regions, self.config.instance_size, self._colors[row, 0])
            maps = self.network.scores(self._templates[rows], self.network.features(crops))
            return maps[:, 0].float().cpu().numpy()

        def attempt(x: float, y: float, w: float, h: float) -> list[float] | None:
            before = state.clone()
            side = float(region_side(w, h, self.config.context))
            search_size = side * self.config.instance_size / self.config.exemplar_size
            state[: State.SEARCH_SIZE + 1] = torch.tensor([x, y, w, h, search_size], dtype=torch.float32, device="cpu")
            result = self._follow([image], [1], rows)[0].tolist()
            if result[Result.SCORE] >= self.config.redetect_score:
                return result
            state.copy_(before)
            return None

        with self._guard():
            size = tuple(image.shape[:2])
            found = self._memory[row].search(size, float(state[State.OWN_CONTRAST]), look, attempt)
        if found is not None:
            self._memory[row].note(found[: Result.HEIGHT + 1], found[Result.SCORE])
        return found

    @torch.inference_mode()
    def step(self, groups: Sequence[tuple[Tensor, Sequence[int]]]) -> list[list[float]]:
        """Find targets in their next images.

        Args:
            groups: images, uint8 [H, W, 3] on the device, and the rows of the targets to find in each.

        Returns:
            for each target of all groups, in their order, the columns of `fastops.ops.response.Result`.
        """
        with self._guard():
            if self._uploads is not None:
                return self._replay(groups)
            results = [self._follow([image], [len(rows)], self.rows(rows)) for image, rows in groups]
            return torch.cat(results).tolist()

    def _follow(self, images: Sequence[Tensor], counts: Sequence[int], rows: slice | Tensor) -> Tensor:
        """A step for the targets in `rows`, of which each image has the next so many."""
        if isinstance(rows, slice):
            templates = self._templates[rows]
        else:  # the gathered templates too are channels_last
            templates = self._templates.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)
        state, colors = self.state[rows], self._colors[rows]
        results = self._update(self._maps(images, counts, state, colors, templates), state, self._calibrations[rows])
        if not isinstance(rows, slice):  # state is a copy
            self.state[rows] = state
        return results

    def _replay(self, groups: Sequence[tuple[Tensor, Sequence[int]]]) -> list[list[float]]:
        """`step` on a GPU."""
        order: list[int] = []
        counts, asked = [], []  # rows of each image; positions of the targets in them
        for _, rows in groups:
            asked += range(len(order), len(order) + len(rows))
            counts.append(padded(len(rows), self._chunk))
            order += [*rows, *[self.capacity] * (counts[-1] - len(rows))]  # the last row is of no target
        images, n = [image for image, _ in groups], len(order)
        host_results, host_order, device_order = self._host_results[:n], self._host_order[:n], self._order[:n]
        first = groups[0][1][0]
        rows: slice | Tensor = device_order
        # As a slice they need no copies; rows behind the targets' are of none.
        if len(groups) == 1 and list(groups[0][1]) == list(range(first, self._live)) and first + n <= self.capacity:
            rows = slice(first, first + n)
        else:
            host_order.copy_(torch.tensor(order))
        pinned = self._uploads.take_waiting(images[0])

        def run() -> None:
            if pinned is not None:
                images[0].copy_(pinned, non_blocking=True)
            if rows is device_order:
                device_order.copy_(host_order, non_blocking=True)
            host_results.copy_(self._follow(images, counts, rows), non_blocking=True)

        for image in images[1:]:
            self._uploads.finish(image)
        key = (
            tuple((image.data_ptr(), *image.shape) for image in images),
            tuple(counts),
            first if isinstance(rows, slice) else None,
            None if pinned is None else pinned.data_ptr(),
        )
        self._graphs.step(key, run, self.state)
        values = host_results.tolist()
        return [values[position] for position in asked]

    def rows(self, rows: Sequence[int]) -> slice | Tensor:
        """Rows in the form that `step` takes: a slice, which needs no copies, if they are consecutive."""
        if list(rows) == list(range(rows[0], rows[0] + len(rows))):
            return slice(rows[0], rows[0] + len(rows))
        return torch.tensor(rows, device=self._device)

    @torch.inference_mode()
    def set_image_size(self, rows: slice | Tensor, width: int, height: int) -> None:
        """Set the size of the next images of targets."""
        self.state[rows, State.IMAGE_WIDTH], self.state[rows, State.IMAGE_HEIGHT] = width, height

    def _crop(self, image: Tensor, regions: Tensor, size: int, colors: Tensor, out: Tensor | None = None) -> Tensor:
        """Crops as the network takes them."""
        network = self.network
        return fastops.crop_and_resize(
            image, regions, size, colors, dtype=network.crop_dtype, channels_last=True, channels=network.crop_channels,
            out=out,
        )  # fmt: skip

    def _maps(
        self, images: Sequence[Tensor], counts: Sequence[int], state: Tensor, colors: Tensor, templates: Tensor
    ) -> tuple[Tensor, ...]:
        """The network's outputs for the targets around where they were: see `FusedNetwork.outputs`."""
        cfg, maps = self.config, []
        for k in range(0, len(state), self._chunk):
            chunk = slice(k, k + self._chunk)
            n = len(state[chunk])
            regions, crops = self._regions[:n], self._crops[: n * cfg.scale_num]
            regions[..., :2] = state[chunk, None, : State.CENTER_Y + 1]
            torch.mul(state[chunk, State.SEARCH_SIZE, None], self._scales, out=regions[..., 2])
            end = 0  # of the targets of an image
            for image, count in zip(images, counts, strict=True):
                begin, end = end, end + count
                part = slice(max(begin - k, 0), min(end - k, n))
                if part.start < part.stop:
                    scaled = slice(part.start * cfg.scale_num, part.stop * cfg.scale_num)
                    pads = colors[chunk][part].view(-1, 3)
                    self._crop(image, regions[part].view(-1, 3), cfg.instance_size, pads, crops[scaled])
            maps.append(self.network.outputs(templates[chunk], self.network.features(crops)))
        maps = maps[0] if len(maps) == 1 else tuple(map(torch.cat, zip(*maps, strict=True)))
        expected = (cfg.response_size, cfg.response_size)
        if maps[0].shape[2:] != expected:
            got = list(maps[0].shape[2:])
            raise ValueError(f"network must give score maps {list(expected)}, got {got}")
        return maps

    @staticmethod
    def _templates_of(like: Tensor, count: int) -> Tensor:
        """Zeros for templates."""
        return like.new_zeros((count, *like.shape[1:])).contiguous(memory_format=torch.channels_last)

    def _reserve(self, capacity: int) -> None:
        """Grow the table. Its memory is new, so the captured graphs are dropped."""
        self._graphs.clear()
        cfg, old = self.config, self.capacity
        state, colors, templates, calibrations = self.state, self._colors, self._templates, self._calibrations
        size = capacity + (self._uploads is not None)  # there with a row of no target
        self._calibrations = calibrations.new_zeros((size, *calibrations.shape[1:]))
        self.state = state.new_zeros((size, state.shape[1]))
        self._colors = colors.new_zeros((size, *colors.shape[1:]))
        self._calibrations[:old], self.state[:old], self._colors[:old] = calibrations[:old], state[:old], colors[:old]
        if templates is not None:
            self._templates = self._templates_of(templates, size)
            self._templates[:old] = templates[:old]
        most = capacity  # rows of a step
        if self._uploads is not None:
            most = 2 * capacity  # padded
            pinned = {"pin_memory": self._device.type == "cuda"}
            self._host_results = torch.empty((most, len(Result)), dtype=torch.float32, **pinned)
            self._host_order = torch.empty(most, dtype=torch.int64, **pinned)
            self._order = torch.empty_like(self._host_order, device=self._device)
        self.capacity = capacity
        chunk = min(self._chunk, most)
        self._regions = torch.empty((chunk, cfg.scale_num, 3), dtype=torch.float32, device=self._device)
        shape = (chunk * cfg.scale_num, self.network.crop_channels, cfg.instance_size, cfg.instance_size)
        self._crops = torch.empty(
            shape, dtype=self.network.crop_dtype, device=self._device, memory_format=torch.channels_last
        )


def update_of(head: str, config: TrackerConfig) -> Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]:
    """The update step after a network with this head.

    It takes the network's outputs, the state and the calibrations, changes the state in place and returns the results.
    """
    if head == "box":
        return partial(_update_box, calibrate=config.box_calibrate, **box_settings(config))
    return partial(
        _update_peak,
        up=config.response_up,
        stride=config.total_stride,
        instance_size=config.instance_size,
        scale_step=config.scale_step,
        scale_penalty=config.scale_penalty,
        scale_lr=config.scale_lr,
        window_influence=config.window_influence,
        lost_score=config.lost_score,
        lost_frames=config.lost_frames,
    )


# Functions of the module, with `partial`: an engine can be pickled.
def _update_box(
    outputs: tuple[Tensor, ...], state: Tensor, matrices: Tensor, *, calibrate: bool, **settings: Any
) -> Tensor:
    if not calibrate:
        return fastops.box_peak(*outputs, state, unit=SIDE, **settings)
    return fastops.box_peak(outputs[0], calibrated(distances(outputs[1]), matrices), state, **settings)


def _update_peak(outputs: tuple[Tensor, ...], state: Tensor, _: Tensor, **settings: Any) -> Tensor:
    return fastops.response_peak(*outputs, state, **settings)


def make_engine(
    model: SiamFC, config: TrackerConfig, device: torch.device | str | None, dtype: torch.dtype | str | None
) -> FusedEngine:
    return FusedEngine(make_network(model, device, dtype), config)


def is_finite(values: Sequence[float]) -> bool:
    """Whether the network's response was finite, according to a row of results."""
    return values[Result.SCORE] == values[Result.SCORE]


def to_result(values: Sequence[float]) -> TrackResult:
    """Convert a row of results.

    Raises:
        FloatingPointError: if the network's response was not finite.
    """
    if not is_finite(values):
        raise FloatingPointError("the network's response must be finite, got NaN or infinity")
    box = np.array(values[: Result.HEIGHT + 1], np.float64)
    return TrackResult(box, values[Result.SCORE], values[Result.LOST] != 0)


class SingleEngine:
    """A `FusedEngine` with one target, for `Tracker`."""

    def __init__(
        self,
        model: SiamFC,
        config: TrackerConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> None:
        self._engine = make_engine(model, config, device, dtype)
        self.network = self._engine.network
        self._image_size = (0, 0)

    def start(self, image: Tensor, start: Start) -> None:
        """Take the template from `image`, uint8 [H, W, 3]."""
        self._image_size = start.image_size
        self._engine.start(0, self._engine.upload(image), start)

    def step(self, image: Tensor) -> TrackResult:
        """Find the target in the next image."""
        height, width = image.shape[:2]
        if (height, width) != self._image_size:
            self._image_size = height, width
            self._engine.set_image_size(slice(0, 1), width, height)
        return to_result(self._engine.find([(self._engine.upload(image), [0])])[0])
