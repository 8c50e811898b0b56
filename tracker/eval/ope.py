"""One-pass evaluation: a tracker is started once per sequence and never restarted (OTB, LaSOT, plain folders)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tracker.data.sequence import Sequence
from tracker.eval.attributes import sequence_attributes
from tracker.eval.metrics import (
    NORMALIZED_THRESHOLDS,
    PRECISION_THRESHOLDS,
    SUCCESS_THRESHOLDS,
    above,
    at_most,
    center_error,
    iou,
    normalized_center_error,
)
from tracker.eval.results import find_results, read_fps, read_result
from tracker.eval.scores import Curve, Row, Scores, mean

COLUMNS = ("success", "success_rate", "precision", "normalized_precision")


def score_ope(layout: str, sequences: list[Sequence], folder: Path, name: str) -> Scores:
    """Score results one-pass: means over the sequences of

    - success: mean of the success curve, 21 thresholds 0, .05 .. 1, overlap strictly above;
    - success_rate: value of that curve at .5;
    - precision: fraction of the frames with a centre error of at most 20 px;
    - normalized_precision: fraction of the frames with a centre error of at most .2 of the target's sides.

    The first frame counts, with the true box. Frames without the target count as follows:

    | data set | frames without the target |
    |---|---|
    | LaSOT | misses, as in its authors' toolkit |
    | all others | skipped, however the ground truth marks them (NaN, negative or zero sides, an empty line) |

    Raises:
        ValueError, OSError: the same as `tracker.eval.protocols.score`.

    Source: Wu et al., Online Object Tracking: A Benchmark; Fan et al., LaSOT.
    """
    scores = Scores(name)
    curves: dict[str, list[np.ndarray]] = {"success": [], "precision": [], "normalized_precision": []}
    groups: dict[str, list[Row]] = {}
    for sequence in sequences:
        path = find_results(layout, folder, sequence.name)[0]
        overlaps, errors, normalized = measure(layout, sequence, read_result(path, len(sequence)))
        curves["success"].append(above(overlaps, SUCCESS_THRESHOLDS))
        curves["precision"].append(at_most(errors, PRECISION_THRESHOLDS))
        curves["normalized_precision"].append(at_most(normalized, NORMALIZED_THRESHOLDS))
        row = _numbers(*(values[-1] for values in curves.values()))
        row |= {"frames": len(overlaps), "fps": read_fps(layout, folder, sequence.name)}
        scores.sequences[sequence.name] = row
        for attribute in sequence_attributes(sequence):
            groups.setdefault(attribute, []).append(row)
    means = {key: np.mean(values, axis=0) for key, values in curves.items()}
    scores.overall = _numbers(*means.values()) | {
        "frames": sum(row["frames"] for row in scores.sequences.values()),
        "fps": mean(row["fps"] for row in scores.sequences.values()),
    }
    for attribute, rows in sorted(groups.items()):
        averages = {column: mean(row[column] for row in rows) for column in COLUMNS}
        scores.attributes[attribute] = averages | {"sequences": len(rows)}
    axes = {
        "success": ("Success", "overlap threshold", SUCCESS_THRESHOLDS),
        "precision": ("Precision", "centre error threshold, px", PRECISION_THRESHOLDS),
        "normalized_precision": ("Normalized precision", "threshold, parts of the sides", NORMALIZED_THRESHOLDS),
    }
    for key, (label, across, thresholds) in axes.items():
        scores.curves[key] = Curve(label, across, thresholds.tolist(), means[key].tolist(), scores.overall[key])
    return scores


def measure(layout: str, sequence: Sequence, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlap, centre error and normalized centre error in each frame that counts; NaN counts as a miss.

    Args:
        boxes: as they are in a result file, 1-based.
    """
    truth, boxes = sequence.boxes + (1, 1, 0, 0), boxes.copy()  # exactly the numbers in the files
    boxes[0] = truth[0]
    if layout == "lasot":
        counts, missed = np.ones(len(truth), bool), sequence.absent
    else:
        counts, missed = ~sequence.absent, np.zeros(len(truth), bool)
    if not counts.any():
        raise ValueError(f"{sequence.name} must have frames with a target, got none")
    measures = (of(boxes, truth) for of in (iou, center_error, normalized_center_error))
    return tuple(np.where(missed, np.nan, values)[counts] for values in measures)


def score_boxes(layout: str, sequence: Sequence, boxes: np.ndarray) -> Row:
    """The numbers of `COLUMNS` for one sequence, with the definitions of `score_ope`.

    Args:
        boxes: [N, 4], results of a tracker, 0-based.

    Example:
        >>> truth = np.tile([10.0, 10, 20, 20], (5, 1))
        >>> score_boxes("otb", Sequence("still", [Path()] * 5, truth), truth + (10, 0, 0, 0))["success_rate"]
        0.2
    """
    overlaps, errors, normalized = measure(layout, sequence, boxes + (1, 1, 0, 0))
    return _numbers(
        above(overlaps, SUCCESS_THRESHOLDS),
        at_most(errors, PRECISION_THRESHOLDS),
        at_most(normalized, NORMALIZED_THRESHOLDS),
    )


def _numbers(success: np.ndarray, precision: np.ndarray, normalized: np.ndarray) -> Row:
    values = success.mean(), success[len(success) // 2], precision[20], normalized[20]
    return dict(zip(COLUMNS, map(float, values), strict=True))
