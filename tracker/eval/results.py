"""Result files of trackers: their layout in a folder, reading, writing, and the settings they were made with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tracker.data.annotations import parse_numbers, parse_region, read_rows
from tracker.eval.polygons import box_corners
from tracker.io.draw import write_boxes
from tracker.io.files import replacing

# Codes in a VOT result for frames without a region: not tracked, tracker started, tracker failed.
SKIPPED, STARTED, FAILED = 0, 1, 2

#: The folder of each data set's results, as in the got10k toolkit.
DATASETS = {"otb": "OTB", "got10k": "GOT-10k", "lasot": "LaSOT", "vot": "VOT", "folder": "folder"}


def result_path(layout: str, folder: Path, name: str, repetition: int = 1) -> Path:
    """Path of the result of a sequence: <name>.txt; GOT-10k: <name>/<name>_001.txt; VOT: the same in baseline/.

    Example:
        >>> result_path("vot", Path("results"), "bag").as_posix()
        'results/baseline/bag/bag_001.txt'
    """
    if layout == "got10k":
        return folder / name / f"{name}_{repetition:03d}.txt"
    if layout == "vot":
        return folder / "baseline" / name / f"{name}_{repetition:03d}.txt"
    return folder / f"{name}.txt"


def times_path(layout: str, folder: Path, name: str) -> Path:
    """Path of the seconds per frame of a sequence."""
    if layout in ("got10k", "vot"):
        return result_path(layout, folder, name).with_name(f"{name}_time.txt")
    return folder / "times" / f"{name}_time.txt"


def find_results(layout: str, folder: Path, name: str) -> list[Path]:
    """The result files of a sequence, one per repetition.

    Other programs name the targets of an OTB sequence in other ways: `Jogging-1.txt` and `jogging_1.txt` stand for
    `Jogging.1` too. `Human4-2.txt` stands for `Human4` if it is the only such file.

    Raises:
        FileNotFoundError: there is none.
    """
    first = result_path(layout, folder, name)
    if layout in ("got10k", "vot"):
        files = sorted(path for path in first.parent.glob(f"{name}_*.txt") if path.stem.rpartition("_")[2].isdigit())
    else:
        files = [first] if first.is_file() else _named_otherwise(folder, name)
    if not files and first.with_suffix(".bin").is_file():
        raise FileNotFoundError(f"{first}: result of {name} must be text, got a .bin file: set VOT_RESULTS_BINARY=0")
    if not files:
        raise FileNotFoundError(f"{first}: result of {name} must be an existing file")
    return files


def _named_otherwise(folder: Path, name: str) -> list[Path]:
    def plain(text: str) -> str:
        return re.sub(r"[-_.](\d+)$", r".\1", text).lower()

    found = {plain(path.stem): path for path in sorted(folder.glob("[!.]*.txt"))}
    if plain(name) in found:
        return [found[plain(name)]]
    targets = [path for key, path in found.items() if re.fullmatch(rf"{re.escape(plain(name))}\.\d+", key)]
    return targets if len(targets) == 1 else []


def skipped_path(layout: str, folder: Path, name: str) -> Path:
    """Path of the file with the reason why a sequence was skipped."""
    return result_path(layout, folder, name).with_suffix(".skipped")


def read_result(path: Path, frames: int) -> np.ndarray:
    """The boxes of a result file as they are, float64 [frames, 4]. Frames without a reported target have four NaN.

    Raises:
        ValueError: a line is malformed, or the number of lines is wrong; the message names file and line.
        OSError: the file cannot be read.
    """
    return _of_length(path, read_rows(path, parse_region), frames)


def read_regions(path: Path, frames: int) -> np.ndarray:
    """The regions of a VOT result, float64 [frames, 8]: four corners, or a code (0, 1 or 2) and seven times NaN.

    Raises:
        ValueError, OSError: as `read_result`.
    """
    return _of_length(path, read_rows(path, _parse_row), frames)


def write_regions(path: Path, rows: list[ArrayLike]) -> None:
    """Write a VOT result: a code, or a box x, y, w, h, per line."""
    lines = [f"{row[0]:d}" if len(row) == 1 else ",".join(f"{value:.4f}" for value in row) for row in rows]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))


def write_result(layout: str, folder: Path, name: str, rows: list[ArrayLike], seconds: ArrayLike) -> None:
    """Write the boxes of a sequence, 0-based, and the seconds per frame. The result is written last."""
    path, times = result_path(layout, folder, name), times_path(layout, folder, name)
    with replacing(times) as temporary:
        np.savetxt(temporary, np.asarray(seconds), fmt="%.8f")
    if layout == "vot":
        write_regions(path, rows)
    else:
        write_boxes(path, rows)
    skipped_path(layout, folder, name).unlink(missing_ok=True)


def read_fps(layout: str, folder: Path, name: str) -> float | None:
    """Frames per second, or None if no times were stored."""
    path = times_path(layout, folder, name)
    if not path.is_file():
        return None
    try:
        seconds = np.loadtxt(path, delimiter=None if layout not in ("got10k", "vot") else ",", ndmin=1)
    except ValueError as error:
        raise ValueError(f"{path}: file must hold seconds per frame, got other text ({error})") from error
    seconds = seconds[seconds > 0]  # NaN and 0: not tracked
    return float(len(seconds) / seconds.sum()) if len(seconds) else None


def is_whole(layout: str, folder: Path, name: str, frames: int) -> bool:
    """Whether the first result of a sequence exists and can be read."""
    path = result_path(layout, folder, name)
    try:
        (read_regions if layout == "vot" else read_result)(path, frames)
    except (OSError, ValueError):
        return False
    return True


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of the results to <folder>/settings.json.

    Raises:
        ValueError: the folder holds results of other or unknown settings.
    """
    path = folder / "settings.json"
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path}: file must be the settings of a run, got {error}") from error
        after = json.loads(json.dumps(settings))
        if changed := [key for key in {**before, **after} if before.get(key) != after.get(key)]:
            key = changed[0]
            raise ValueError(
                f"{folder} must hold results of the same settings, got {key} {after.get(key)}, but they were made "
                f"with {before.get(key)}: give another --name or --output"
            )
        return
    # Checked in this order, because another process of the run may create the settings at the same time.
    if folder.is_dir() and any(folder.rglob("*.txt")) and not path.is_file():
        raise ValueError(
            f"{folder} must hold results of this command, got results without settings.json: give another --name or "
            "--output, or score them with --results"
        )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n")


def _of_length(path: Path, rows: np.ndarray, frames: int) -> np.ndarray:
    if len(rows) != frames:
        raise ValueError(f"{path}: file must hold one line per frame ({frames}), got {len(rows)}")
    return rows


def _parse_row(line: str) -> list[float]:
    numbers = parse_numbers(line)
    if len(numbers) == 1 and numbers[0] in (SKIPPED, STARTED, FAILED):
        return numbers + [np.nan] * 7
    if len(numbers) not in (4, 8) or not np.isfinite(numbers).all():
        raise ValueError(f"line must be 0, 1, 2, a box x,y,w,h or four corners x,y, got {line!r}")
    return numbers if len(numbers) == 8 else box_corners(numbers).tolist()
