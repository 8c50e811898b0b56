"""VOT's supervised protocol, which restarts a failed tracker: accuracy, robustness, expected average overlap."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from tracker.data.annotations import parse_numbers, parse_region, read_rows
from tracker.data.sequence import Sequence
from tracker.eval.attributes import folder_of, frame_attributes
from tracker.eval.polygons import box_corners, corners_box, polygon_overlap
from tracker.eval.results import FAILED, SKIPPED, STARTED, find_results, read_fps, read_regions
from tracker.eval.scores import Curve, Row, Scores, mean

SKIP = 5  # frames from a failure to the next start
BURN_IN = 10  # frames after a start that do not count for the accuracy, because their overlap is too high
EAO_INTERVAL = (100, 356)  # lengths of VOT 2017 and 2018; 2015 and 2016 have 108 to 371, 2019 has 46 to 291
TAGS = ("camera_motion", "illum_change", "occlusion", "size_change", "motion_change", "empty")


class Follower(Protocol):
    """The interface that a tracker needs, such as `tracker.Tracker`."""

    def init(self, image: np.ndarray, box: np.ndarray) -> None: ...
    def update(self, image: np.ndarray): ...


class Truth(NamedTuple):
    """Regions of a sequence in the coordinates of the file: corners [N, 8], and a start box for each.

    Both are NaN in frames where the target is absent.
    """

    corners: np.ndarray
    boxes: np.ndarray


def read_truth(sequence: Sequence) -> Truth:
    """The ground truth of a VOT sequence. A box is its own start box; a quadrilateral's start box is `corners_box`.

    Raises:
        ValueError: if a line is neither, or the frames are not files. The message names file and line, or the sequence.
    """
    folder = folder_of(sequence)
    if folder is None:
        raise ValueError(f"{sequence.name} must have image files beside its ground truth, got a function")
    rows = read_rows(folder / "groundtruth.txt", _parse_truth)
    return Truth(rows[:, :8], rows[:, 8:])


def track_supervised(
    tracker: Follower, sequence: Sequence, step: Callable[[], None] = lambda: None
) -> tuple[list[np.ndarray | list[int]], list[float]]:
    """Track a sequence; if box and ground truth do not overlap, restart 5 frames later.

    Frames in which the target is absent are tracked, but are neither failures nor starts.

    Args:
        step: called after each frame; may raise an error to end the tracking.

    Returns:
        a row per frame: a box, or [1] for a start, [2] for a failure, [0] for a frame that is not tracked; and the
        seconds per frame, NaN if it is not tracked.
    """
    truth = read_truth(sequence)
    seen = np.isfinite(truth.corners).all(axis=1)
    rows: list[np.ndarray | list[int]] = []
    seconds: list[float] = []
    start = 0
    for index in range(len(sequence)):
        start += index == start and not seen[index]
        if index < start:
            rows.append([SKIPPED])
            seconds.append(np.nan)
            continue
        image = sequence.image(index)
        began = time.perf_counter()
        if index == start:
            tracker.init(image, truth.boxes[index])
            row = [STARTED]
            seconds.append(time.perf_counter() - began)
        else:
            row = np.asarray(tracker.update(image).box)
            seconds.append(time.perf_counter() - began)
            if seen[index] and not polygon_overlap(row, truth.corners[index], image.shape[1::-1]) > 0:
                row, start = [FAILED], index + SKIP
            else:
                start = -1
        rows.append(row)
        step()
    return rows, seconds


def score_vot(
    layout: str, sequences: list[Sequence], folder: Path, name: str, interval: tuple[int, int] = EAO_INTERVAL
) -> Scores:
    """Score results of the supervised experiment.

    - accuracy: mean overlap (polygons, clipped to the image) of the tracked frames, without 10 frames from each start
      on. robustness: number of failures. Both are computed per attribute over the frames of all sequences, and averaged
      with the numbers of frames as weights; "empty" is the attribute of frames without any. Without attribute files
      they are plain means and sums. Repetitions are averaged per frame. This is the got10k toolkit's rule.
    - failures: their total number.
    - eao: expected average overlap, the mean of its curve over the lengths of `interval`; None if all runs are shorter.
      A run lasts from a start to a failure or to the end of the sequence. The curve's value at a length is the mean
      overlap up to that length, without the first frame. A failed run continues with overlap 0; a run that reached the
      end of its sequence no longer counts.

    Frames in which the target is absent do not count.

    Raises:
        ValueError, OSError: the same as `tracker.eval.protocols.score`.

    Source: Kristan et al., The Visual Object Tracking VOT2015 challenge results, and VOT2017.
    """
    scores, overlaps, failures, masks, runs = Scores(name), [], [], [], []
    for sequence in sequences:
        truth, (height, width) = read_truth(sequence), sequence.image(0).shape[:2]
        files = find_results(layout, folder, sequence.name)
        measured = [_measure(path, truth.corners, (width, height)) for path in files]
        runs += [run for one in measured for run in one.runs]
        overlaps.append(_mean([one.overlaps for one in measured]))
        failures.append(_mean([one.failed for one in measured]))
        masks.append(_with_empty(frame_attributes(sequence), len(sequence)))
        scores.sequences[sequence.name] = {
            "accuracy": mean(overlaps[-1]),
            "failures": float(failures[-1].sum()),
            "frames": len(sequence),
            "fps": read_fps(layout, folder, sequence.name),
        }
    frames, failed = np.concatenate(overlaps), np.concatenate(failures)
    tags = {tag: _join(masks, tag) for tag in dict.fromkeys(tag for mask in masks for tag in mask)}
    rows = {tag: _tag_row(frames, failed, mask) for tag, mask in tags.items()}
    weighted = {tag: row for tag, row in rows.items() if tag in TAGS}
    total = sum(row["frames"] for row in weighted.values())
    curve = eao_curve(runs)
    low, high = interval
    eao = float(curve[low : high + 1].mean()) if len(curve) > low else None
    scores.overall = {
        "accuracy": sum((row["accuracy"] or 0.0) * row["frames"] / total for row in weighted.values()),
        "robustness": sum(row["failures"] * row["frames"] / total for row in weighted.values()),
        "failures": float(failed.sum()),
        "eao": eao,
        "frames": len(frames),
        "fps": mean(row["fps"] for row in scores.sequences.values()),
    }
    if len(rows) > 1:  # without attribute files all frames are "empty"
        scores.attributes = dict(sorted(rows.items()))
    lengths = list(range(len(curve)))
    scores.curves["eao"] = Curve("Expected average overlap", "length, frames", lengths, curve.tolist(), eao)
    return scores


class _Measured(NamedTuple):
    overlaps: np.ndarray  # [N], NaN if a frame does not count for the accuracy
    failed: np.ndarray  # bool [N]
    runs: list[tuple[np.ndarray, bool]]  # overlaps from a start on, and whether a failure ended them


def _measure(path: Path, truth: np.ndarray, size: tuple[int, int]) -> _Measured:
    regions = read_regions(path, len(truth))
    is_code = np.isnan(regions[:, 1])
    seen = np.isfinite(truth).all(axis=1)
    first = int(np.argmax(seen))
    if not is_code[first] or regions[first, 0] != STARTED:
        raise ValueError(f"{path}:{first + 1}: line must be 1, the start of the tracker")
    started, failed = (is_code & (regions[:, 0] == code) for code in (STARTED, FAILED))
    overlaps = np.where(is_code, np.nan, polygon_overlap(regions, truth, size))
    runs = []
    for start, end in pairwise([*np.flatnonzero(started), len(truth)]):
        failures = np.flatnonzero(failed[start:end])
        stop = start + failures[0] if len(failures) else end
        # The start has no overlap; frames without the target do not count.
        runs.append((np.nan_to_num(overlaps[start:stop][seen[start:stop]]), len(failures) > 0))
    for start in np.flatnonzero(started):
        overlaps[start : start + BURN_IN] = np.nan
    return _Measured(overlaps, failed, runs)


def eao_curve(runs: list[tuple[np.ndarray, bool]]) -> np.ndarray:
    """Expected average overlap at each number of frames after a start: float64 [length of the longest run].

    Args:
        runs: overlaps from a start on (the first does not count), and whether a failure ended the run.

    Example:
        >>> eao_curve([(np.array([0, 1.0, 1.0]), False), (np.array([0, 0.5]), True)]).tolist()
        [0.0, 0.75, 0.625]
    """
    length = max(len(overlaps) for overlaps, _ in runs)
    total, count = np.zeros(length), np.zeros(length)
    for overlaps, failed in runs:
        reach = length if failed else len(overlaps)
        padded = np.pad(overlaps, (0, reach - len(overlaps)))
        total[1:reach] += np.cumsum(padded[1:]) / np.arange(1, reach)
        count[:reach] += 1
    return total / count


def _mean(rows: list[np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a frame that counts in no repetition stays NaN
        return np.nanmean(np.array(rows, np.float64), axis=0)


def _with_empty(masks: dict[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    # Only the benchmark's own tags: "practical" is a number, and other tags have no weight in the scores.
    marked = [mask for tag, mask in masks.items() if tag in TAGS]
    return {**masks, "empty": ~np.logical_or.reduce(marked) if marked else np.ones(frames, bool)}


def _join(masks: list[dict[str, np.ndarray]], tag: str) -> np.ndarray:
    return np.concatenate([mask.get(tag, np.zeros(len(mask["empty"]), bool)) for mask in masks])


def _tag_row(overlaps: np.ndarray, failed: np.ndarray, mask: np.ndarray) -> Row:
    return {"accuracy": mean(overlaps[mask]), "failures": float(failed[mask].sum()), "frames": int(mask.sum())}


def _parse_truth(line: str) -> list[float]:
    """Four corners and the start box; NaN if the target is absent."""
    numbers = parse_numbers(line)
    if np.isnan(parse_region(line)).all():
        return [np.nan] * 12
    if len(numbers) not in (4, 8) or not np.isfinite(numbers).all():
        raise ValueError(f"line must be a box x,y,w,h or four corners x,y, got {line!r}")
    if len(numbers) == 4:
        return [*box_corners(numbers), *numbers]
    return [*numbers, *corners_box(numbers)]
