"""GOT-10k's protocol: average overlap and success rates over the frames with a visible target."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from tracker.data.sequence import Sequence
from tracker.eval.attributes import got10k_attributes, image_size, visible_frames
from tracker.eval.metrics import above, iou
from tracker.eval.results import find_results, read_fps, read_result
from tracker.eval.scores import Curve, Scores, mean

THRESHOLDS = np.linspace(0, 1, 101)


def score_got10k(layout: str, sequences: list[Sequence], folder: Path, name: str) -> Scores:
    """Score results by GOT-10k's protocol, over the frames of all sequences (and all repetitions) together:

    - ao: mean overlap;
    - sr_50, sr_75: fraction of the frames whose overlap is strictly above .5, .75.

    The first frame, whose box is given, does not count. Frames without a visible part of the target do not count
    either: cover.label is 0, or if that file is missing, the target is absent. The scores by attribute are over the
    frames with the attribute (`got10k_attributes`). Boxes are first clipped to the image like in the got10k toolkit.

    Raises:
        ValueError, OSError: the same as `tracker.eval.protocols.score`.

    Source: Huang et al., GOT-10k: A Large High-Diversity Benchmark for Generic Object Tracking in the Wild.
    """
    scores, pooled, groups = Scores(name), [], defaultdict(list)
    for sequence in sequences:
        with np.errstate(invalid="ignore"):
            is_box = np.isfinite(sequence.boxes).all(axis=1) & (sequence.boxes[:, 2:] > 0).all(axis=1)
        counts = (visible_frames(sequence) & is_box)[1:]
        size, truth = image_size(sequence), sequence.boxes + (1, 1, 0, 0)
        repetitions = []
        for path in find_results(layout, folder, sequence.name):
            boxes = read_result(path, len(sequence))
            # A frame without a reported target has overlap 0.
            repetitions.append(np.nan_to_num(iou(_cut(boxes[1:], size), _cut(truth[1:], size))))
        overlaps = _those(repetitions, counts)
        for attribute, mask in got10k_attributes(sequence).items():
            groups[attribute].append(_those(repetitions, counts & mask[1:]))
        pooled.append(overlaps)
        row = _numbers(overlaps) | {"frames": len(overlaps), "fps": read_fps(layout, folder, sequence.name)}
        scores.sequences[sequence.name] = row
    pooled = np.concatenate(pooled)
    if not len(pooled):
        raise ValueError(f"{name}: sequences must have frames with a target behind their first, got none")
    speed = mean(row["fps"] for row in scores.sequences.values())
    scores.overall = _numbers(pooled) | {"frames": len(pooled), "fps": speed}
    for attribute, parts in sorted(groups.items()):
        values = np.concatenate(parts)
        scores.attributes[attribute] = _numbers(values) | {"frames": len(values)}
    values = above(pooled, THRESHOLDS).tolist()
    scores.curves["success"] = Curve("Success", "overlap threshold", THRESHOLDS.tolist(), values, scores.overall["ao"])
    return scores


def _those(repetitions: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    return np.concatenate([overlaps[mask] for overlaps in repetitions])


def _numbers(overlaps: np.ndarray) -> dict[str, float | None]:
    if not len(overlaps):
        return {"ao": None, "sr_50": None, "sr_75": None}
    return {
        "ao": float(overlaps.mean()),
        "sr_50": float((overlaps > 0.5).mean()),
        "sr_75": float((overlaps > 0.75).mean()),
    }


def _cut(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # A corner left of the image moves in without making the box narrower: not what one would write, but the benchmark's
    # numbers are made so.
    low = np.clip(boxes[:, :2], 0, size)
    return np.hstack([low, np.clip(boxes[:, 2:], 0, size - low)])
