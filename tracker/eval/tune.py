"""Random search over the tracker's settings, and the rates of the lost signal for its thresholds.

All trials process a frame before the next one. So each frame is decoded once, and equal crops of several trials pass
through the network once. Trials whose last boxes differ have different crops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracker.config import TrackerConfig
from tracker.data.sequence import Sequence
from tracker.engines.fused import FusedEngine, to_result
from tracker.engines.target import Start, as_box, as_rgb, to_tensor
from tracker.eval.metrics import iou
from tracker.eval.ope import score_boxes
from tracker.eval.scores import mean
from tracker.io.files import write_whole
from tracker.network.fused import FusedNetwork
from tracker.network.model import SiamFC

#: Head of the network -> the settings that a search varies by default, with their ranges.
RANGES = {
    "xcorr": {
        "scale_step": (1.01, 1.08),
        "scale_lr": (0.1, 1.0),
        "scale_penalty": (0.9, 1.0),
        "window_influence": (0.0, 0.6),
    },
    "box": {"box_lr": (0.05, 0.6), "box_penalty": (0.0, 1.5), "box_window": (0.0, 0.7)},
}
TOGETHER = 8  # trials that run together; their features of a frame are kept, 0.5 MB per crop
SURE, BAD = 0.4, 0.05  # overlap above which a frame counts as followed, and below which as missed
LOST_SCORES = tuple(round(0.05 * k, 2) for k in range(2, 15))
LOST_FRAMES = (1, 2, 3, 5, 8, 12)


class SharedNetwork(FusedNetwork):
    """A `FusedNetwork` that computes the features and maps of equal crops once, until `forget` is called. CPU only.

    Attributes:
        asked: number of crops that it got.
        computed: number of crops that ran through the network.
    """

    def __init__(self, model: SiamFC, **options: Any) -> None:
        super().__init__(model, **options)
        self.asked = self.computed = 0
        self.forget()

    def forget(self) -> None:
        self._known: dict[bytes, Tensor] = {}
        self._maps: dict[bytes, tuple[Tensor, ...]] = {}
        self._last: tuple[Tensor, bytes] | None = None

    def features(self, crops: Tensor) -> Tensor:
        keys = [_digest(crop) for crop in crops]
        for key, crop in zip(keys, crops, strict=True):
            if key not in self._known:
                self._known[key] = super().features(crop[None])
                self.computed += 1
        self.asked += len(keys)
        found = torch.cat([self._known[key] for key in keys]).contiguous(memory_format=torch.channels_last)
        self._last = found, b"".join(keys)
        return found

    def outputs(self, templates: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        if self._last is None or features is not self._last[0]:
            return super().outputs(templates, features)
        key = b"".join(map(_digest, templates)) + self._last[1]
        if key not in self._maps:
            self._maps[key] = super().outputs(templates, features)
        return tuple(output.clone() for output in self._maps[key])


def _digest(image: Tensor) -> bytes:
    """A hash of the values [C, H, W]."""
    return hashlib.sha1(image.permute(1, 2, 0).contiguous().view(torch.uint8).numpy()).digest()


def make_network(model: SiamFC, device: str | None = None, dtype: torch.dtype | None = None) -> FusedNetwork:
    """The network that all trials share. On a GPU, whose graphs cannot compare values, it has no cache."""
    on_cpu = torch.device(device or next(model.parameters()).device).type == "cpu"
    return (SharedNetwork if on_cpu else FusedNetwork)(model, device=device, dtype=dtype)


def follow(
    network: FusedNetwork, configs: Iterable[TrackerConfig], sequence: Sequence
) -> tuple[np.ndarray, np.ndarray]:
    """Track a sequence with several settings at once. Each has the results of a `Tracker`.

    Returns:
        The boxes, float64 [trials, frames, 4], 0-based, and the scores, float64 [trials, frames]. Frames before the
        first one with a target get its box and the score 1.

    Raises:
        ValueError: if no frame has a target, or a frame cannot be read.
        FloatingPointError: the same as `Tracker.update`.
    """
    if sequence.absent.all():
        raise ValueError(f"{sequence.name} must have a frame with a target, got none")
    engines = [FusedEngine(network, config) for config in configs]
    first = int(np.argmin(sequence.absent))
    boxes = np.tile(sequence.boxes[first], (len(engines), len(sequence), 1))
    scores = np.ones(boxes.shape[:2])
    size = None
    for index in range(first, len(sequence)):
        image = as_rgb(sequence.image(index))
        before, size = size, image.shape[:2]
        frame = to_tensor(image)
        for row, engine in enumerate(engines):
            if index == first:
                box = as_box(sequence.boxes[first], image.shape)
                engine.start(0, engine.upload(frame), Start.of(image, box, engine.config))
                continue
            if size != before:
                engine.set_image_size(slice(0, 1), size[1], size[0])
            result = to_result(engine.step([(engine.upload(frame), [0])])[0])
            boxes[row, index], scores[row, index] = result.box, result.score
        if isinstance(network, SharedNetwork):
            network.forget()
    return boxes, scores


def draw(number: int, seed: int, base: TrackerConfig, ranges: Mapping[str, tuple[float, float]]) -> TrackerConfig:
    """The settings of a trial. Number 0 has those of `base`. Others are uniform in the ranges, from seed and number.

    Raises:
        ValueError: if a name is not a setting with a float value, or a range is empty or exceeds the setting's limits.

    Example:
        >>> [draw(number, 0, TrackerConfig(), {"box_lr": (0.2, 0.2)}).box_lr for number in (0, 1)]
        [0.26, 0.2]
    """
    known = [field.name for field in fields(base) if field.type == "float"]
    values = asdict(base)
    generator = np.random.default_rng([seed, number])
    for name, (low, high) in sorted(ranges.items()):
        if name not in known:
            raise ValueError(f"range must be of one of {', '.join(known)}, got {name!r}")
        if not low <= high:
            raise ValueError(f"range of {name} must be LOW:HIGH with LOW <= HIGH, got {low:g}:{high:g}")
        for end in (low, high):
            TrackerConfig.from_dict(asdict(base) | {name: end})
        if number:
            values[name] = round(float(generator.uniform(low, high)), 4)
    return TrackerConfig.from_dict(values)


class Records:
    """The rows of a search in a JSONL file: first a line that describes the search, then a row per trial and sequence.

    Raises:
        ValueError: if the file is from another search.
    """

    def __init__(self, path: Path, search: Mapping[str, Any]) -> None:
        self._path, self.rows = path, []
        header = json.loads(json.dumps(search))
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # without an incomplete last line
        if lines:
            try:
                found, *self.rows = map(json.loads, lines)
            except ValueError:
                found = None
            if found != header:
                keys = [key for key in header if not isinstance(found, dict) or found.get(key) != header[key]]
                raise ValueError(f"output must be a new file or one of the same search, got {path} ({', '.join(keys)})")
        if text[text.rfind("\n") + 1 :] or not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(f"{json.dumps(line)}\n" for line in (header, *self.rows)).encode())

    def add(self, row: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)


def search(
    network: FusedNetwork,
    sequences: list[tuple[str, Sequence]],
    records: Records,
    *,
    trials: int,
    seed: int,
    base: TrackerConfig,
    ranges: Mapping[str, tuple[float, float]],
    progress: Callable[[int], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Track every sequence with the settings of every trial and score it. Rows in `records` are not computed again.

    Args:
        sequences: the sequences with their layouts, which decide the frames that count (`tracker.eval.ope`).
        progress: called with the number of finished rows.

    Returns:
        A row per trial, the best AUC first: the trial's number, its settings, and the means of success AUC and
        precision at 20 px.
    """
    done = {(row["trial"], row["sequence"]) for row in records.rows}
    progress(len(done))
    for begin in range(0, trials, TOGETHER):
        for layout, sequence in sequences:
            numbers = range(begin, min(begin + TOGETHER, trials))
            left = [number for number in numbers if (number, sequence.name) not in done]
            configs = [draw(number, seed, base, ranges) for number in left]
            boxes = follow(network, configs, sequence)[0] if left else ()
            for number, config, own in zip(left, configs, boxes, strict=True):
                scores = score_boxes(layout, sequence, own)
                settings = {name: getattr(config, name) for name in sorted(ranges)}
                row = {"trial": number, "sequence": sequence.name, "settings": settings}
                records.add(row | {key: scores[key] for key in ("success", "precision")})
            progress(len(left))
    table = []
    for number in range(trials):
        own = [row for row in records.rows if row["trial"] == number]
        means = {key: mean(row[key] for row in own) for key in ("success", "precision")}
        table.append({"trial": number, "settings": own[0]["settings"], **means})
    return sorted(table, key=lambda row: -row["success"])


def lost_rates(
    runs: Iterable[tuple[np.ndarray, np.ndarray]],
    lost_scores: Iterable[float] = LOST_SCORES,
    lost_frames: Iterable[int] = LOST_FRAMES,
) -> list[dict[str, Any]]:
    """How often the lost signal would be right and wrong, for each pair of its thresholds.

    Args:
        runs: for each sequence the overlaps with the true boxes and the scores of the frames after the first, [N] each.
            A frame with a NaN overlap counts for neither rate.
        lost_scores, lost_frames: values of the settings of `TrackerConfig`.

    Returns:
        A row per pair: the thresholds; true_rate, the fraction of the bad frames (overlap < .05) in which the target
        is lost; false_rate, the same for the sure frames (overlap > .4). A rate is None without such frames.

    Example:
        >>> overlaps, scores = np.array([0.8, 0.7, 0.0, 0.0]), np.array([0.9, 0.2, 0.1, 0.1])
        >>> lost_rates([(overlaps, scores)], [0.3], [2])
        [{'lost_score': 0.3, 'lost_frames': 2, 'true_rate': 1.0, 'false_rate': 0.0}]
    """
    runs, lost_frames, rows = list(runs), list(lost_frames), []
    overlaps = np.concatenate([overlap for overlap, _ in runs])
    for threshold in lost_scores:
        misses = np.concatenate([_run_lengths(scores < threshold) for _, scores in runs])
        for count in lost_frames:
            lost = misses >= count
            rates = {"true_rate": mean(lost[overlaps < BAD]), "false_rate": mean(lost[overlaps > SURE])}
            rows.append({"lost_score": threshold, "lost_frames": count, **rates})
    return rows


def _run_lengths(flags: np.ndarray) -> np.ndarray:
    """For each flag the number of set flags in a row that end with it."""
    count = np.arange(1, len(flags) + 1)
    return count - np.maximum.accumulate(np.where(flags, 0, count))


def run_for_lost(network: FusedNetwork, config: TrackerConfig, sequence: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps and scores of the frames after the first, for `lost_rates`."""
    boxes, scores = follow(network, [config], sequence)
    after = slice(int(np.argmin(sequence.absent)) + 1, None)
    overlaps = np.where(sequence.absent, np.nan, iou(boxes[0], sequence.boxes))
    return overlaps[after], scores[0][after]
