"""Annotation files of data sets: lines of boxes, polygons and flags, each mistake reported with file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

_SEPARATOR = re.compile(r"[,;\s]+")
_NOWHERE = [np.nan] * 4


class Problems:
    """What is wrong with a data set: raised at once, or collected in `lines` and left out where `skip` is set."""

    def __init__(self, skip: bool = False) -> None:
        self.skip, self.lines = skip, []

    def add(self, error: Exception) -> None:
        """Raise `error`, or note its message."""
        if not self.skip:
            raise error
        self.lines.append(str(error))


def parse_box(line: str) -> list[float]:
    """x, y, w, h of a line; commas, semicolons, tabs or blanks separate them."""
    box = parse_numbers(line)
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"line must be four finite numbers x, y, w, h, got {line!r}")
    if min(box[2:]) < 0:
        raise ValueError(f"width and height must not be negative, got {line!r}")
    return box


def parse_box_or_absent(line: str) -> list[float]:
    """As `parse_box`; four times nan, or a negative size (GOT-10k writes -1 four times), tells an absent target."""
    box = parse_numbers(line)
    if len(box) == 4 and (np.isnan(box).all() or (np.isfinite(box).all() and min(box[2:]) < 0)):
        return _NOWHERE
    return parse_box(line)


def parse_region(line: str) -> list[float]:
    """A box, or the smallest and largest coordinates of a polygon x1, y1, x2, y2, ... as VOT's toolkit has it."""
    numbers = parse_numbers(line)
    if line.startswith("m"):
        raise ValueError(f"line must be a box or a polygon, got a mask: {line[:40]!r}")
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        if len(numbers) == 4:
            return parse_box_or_absent(line)
        raise ValueError(f"line must be x, y, w, h or at least three corners x, y of a polygon, got {line!r}")
    corners = np.reshape(numbers, (-1, 2))
    low = corners.min(0)
    return [*low, *(corners.max(0) - low)]


def read_rows(path: Path, parse: Callable[[str], list[float]], problems: Problems | None = None) -> np.ndarray:
    """The boxes of a file, float64 [N, 4], one per line; a malformed line that is skipped becomes four times nan.

    Empty lines at the end are no lines.

    Raises:
        ValueError: names the file and line that is malformed, or the file that is no text or holds nothing.
        OSError: when the file cannot be read.
    """
    problems = problems or Problems()
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            rows.append(parse(line.strip()))
        except ValueError as error:
            problems.add(ValueError(f"{path}:{number}: {error}"))
            rows.append(_NOWHERE)
    if not rows:
        raise ValueError(f"{path}:1: file must hold at least one box, got none")
    return np.array(rows, np.float64)


def read_flags(path: Path, count: int) -> np.ndarray:
    """`count` flags 0 or 1, bool [count], on one line or many.

    Raises:
        ValueError: names the file and line that holds something else, or the file with another number of flags.
        OSError: when the file cannot be read.
    """
    flags = []
    for number, line in enumerate(_lines(path), start=1):
        for field in _fields(line):
            if field not in ("0", "1"):
                raise ValueError(f"{path}:{number}: flag must be 0 or 1, got {field!r}")
            flags.append(field == "1")
    if len(flags) != count:
        raise ValueError(f"{path}:1: file must hold one flag per box ({count}), got {len(flags)}")
    return np.array(flags, bool)


def read_names(path: Path) -> list[str]:
    """The lines of a list of sequences that are not empty.

    Raises:
        ValueError, OSError: as `read_flags`.
    """
    return [line.strip() for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}:1: file must be text, got bytes that are not UTF-8") from error


def _fields(line: str) -> list[str]:
    return [field for field in _SEPARATOR.split(line.strip()) if field]


def parse_numbers(line: str) -> list[float]:
    """The numbers of a line, whatever separates them; none where one of its fields is no number."""
    try:
        return [float(field) for field in _fields(line)]
    except ValueError:
        return []
