"""Stock PyTorch against fused ops: the same tracker both ways, on the same frames, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table

from tracker.engines.reference import ReferenceTracker
from tracker.eval.metrics import iou
from tracker.network.model import SiamFC
from tracker.tracker import Tracker


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two trackers on the same frames.

    Attributes:
        network: name of the network that both ran.
        reference: seconds of each update of stock PyTorch, float64 [N].
        fastops: the same for the fused ops.
        agreement: mean overlap (IoU) between the boxes of the two.
        dtypes: of the network, without and with fused ops.
    """

    network: str
    reference: np.ndarray
    fastops: np.ndarray
    agreement: float
    dtypes: tuple[str, str] = ("float32", "float32")

    @property
    def ratio(self) -> float:
        """Ratio of the median frames per second, fused ops over reference."""
        return float(np.median(self.reference) / np.median(self.fastops))

    def summary(self) -> dict[str, Any]:
        """The numbers as a dictionary: frames per second of the median update, milliseconds at percentiles."""
        sides = {
            name: {
                "dtype": dtype,
                "fps": 1 / float(np.median(seconds)),
                "ms": {f"p{p}": float(np.percentile(seconds, p)) * 1e3 for p in (50, 95)},
            }
            for name, seconds, dtype in zip(
                ("reference", "fastops"), (self.reference, self.fastops), self.dtypes, strict=True
            )
        }
        return {"network": self.network, **sides, "ratio": self.ratio, "agreement": self.agreement}


class Turns:
    """Times trackers that take turns on the same images. Each image starts with another tracker.

    Args:
        trackers: they have `init` and `update`, like `tracker.Tracker`.
        box: x, y, w, h of the target in the first image, in pixels, 0-based.

    Attributes:
        seconds: of the updates of each tracker.
        boxes: of each tracker, x, y, w, h. Neither list has an entry for the first image.
    """

    def __init__(self, trackers: Sequence[Tracker | ReferenceTracker], box: Sequence[float] | np.ndarray) -> None:
        self._trackers, self._box, self._steps = trackers, box, 0
        self.seconds: list[list[float]] = [[] for _ in trackers]
        self.boxes: list[list[np.ndarray]] = [[] for _ in trackers]

    def step(self, image: np.ndarray) -> None:
        """Start all trackers on the first image; update them on every further image."""
        for turn in range(len(self._trackers)):
            who = (turn + self._steps) % len(self._trackers)  # for the first one the image is in no cache
            if self._steps == 0:
                self._trackers[who].init(image, self._box)
                continue
            began = time.perf_counter()
            result = self._trackers[who].update(image)  # the box is on the CPU, so the device has finished
            self.seconds[who].append(time.perf_counter() - began)
            self.boxes[who].append(result.box)
        self._steps += 1


def compare(
    networks: Mapping[str, SiamFC],
    images: Iterable[np.ndarray],
    box: Sequence[float] | np.ndarray,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> list[Comparison]:
    """Give each image to the reference tracker and to the fused one of every network, and time them in turns.

    Args:
        networks: the networks by name, for tables. They are not changed.
        images: RGB uint8 [H, W, 3], at least two. The first one starts the trackers and is not timed.
        box: x, y, w, h of the target in the first image, in pixels, 0-based.
        device: device of all networks; None keeps the device of each.
        dtype: dtype of the fused trackers, or "auto". The reference keeps the network's dtype.

    Raises:
        ValueError: for fewer than two images, and for the errors of `Tracker.init`.

    Example:
        >>> from tracker.data.synthetic import SyntheticVideo
        >>> video = SyntheticVideo(frames=3, size=(160, 120))
        >>> (result,) = compare({"small": SiamFC(width=0.125)}, video.images(), video.boxes[0])
        >>> result.fastops.shape, result.agreement > 0.9
        ((2,), True)
    """
    trackers: list[Tracker | ReferenceTracker] = []
    for model in networks.values():
        trackers += reference_tracker(model, device), Tracker(model, device=device, dtype=dtype)
    turns = Turns(trackers, box)
    for image in images:
        turns.step(image)
    if not turns.boxes[0]:
        raise ValueError("images must be at least two, one to start on and one to time, got fewer")
    comparisons = []
    for index, (name, model) in enumerate(networks.items()):
        sides = slice(2 * index, 2 * index + 2)
        types = [str(t).removeprefix("torch.") for t in (_dtype(model), trackers[2 * index + 1].network.dtype)]
        agreement = float(iou(*turns.boxes[sides]).mean())
        comparisons.append(Comparison(name, *map(np.array, turns.seconds[sides]), agreement, tuple(types)))
    return comparisons


def reference_tracker(model: SiamFC, device: torch.device | str | None = None) -> Tracker | ReferenceTracker:
    """The network in stock PyTorch: a `ReferenceTracker`, or an eager tracker for a box head.

    Args:
        model: the network, which is not changed.
        device: device to run on; None keeps the device of the network.
    """
    device = device or next(model.parameters()).device
    copied = SiamFC(**model.settings(), out_scale=model.out_scale, ops="reference")
    copied.load_state_dict(model.state_dict())
    if model.head == "box":
        return Tracker(copied, device=device, backend="eager")
    return ReferenceTracker(copied, device=device)


def _dtype(model: SiamFC) -> torch.dtype:
    return next(model.parameters()).dtype


def comparison_table(comparisons: Sequence[Comparison], device: torch.device | str) -> Table:
    """A table of frames per second for the terminal, with the cost of the second network relative to the first."""
    caption = None
    if len(comparisons) >= 2:
        first, second = comparisons[:2]
        kept = [np.median(getattr(first, side)) / np.median(getattr(second, side)) for side in ("reference", "fastops")]
        caption = f"{second.network} over {first.network}: {kept[0]:.0%} of the fps in PyTorch, {kept[1]:.0%} fused"
    table = Table(
        title=f"tracker only, {device}, {torch.get_num_threads()} threads, median of each frame", caption=caption
    )
    table.add_column("network", no_wrap=True)
    for heading in ("reference fps", "fastops fps", "ratio", "mean IoU of their boxes"):
        table.add_column(heading, justify="right")
    for row in comparisons:
        fps = (f"{1 / np.median(seconds):.1f}" for seconds in (row.reference, row.fastops))
        types = "" if row.dtypes == ("float32", "float32") else f", {row.dtypes[0]} and {row.dtypes[1]}"
        table.add_row(row.network + types, *fps, f"{row.ratio:.2f}x", f"{row.agreement:.4f}")
    return table
