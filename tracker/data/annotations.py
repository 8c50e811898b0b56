"""Reads the annotation files of data sets: boxes, polygons and flags. Errors name the file and line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

_SEPARATOR = re.compile(r"[,;\s]+")
_ABSENT = [np.nan] * 4
LARGEST = 1e7  # pixels; a larger coordinate is a mistake


class Problems:
    """Mistakes and oddities found in a data set.

    Args:
        skip: leave out wrong items and note them, instead of raising an error.

    Attributes:
        lines: a message for each item that was left out.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip, self.lines = skip, []

    def add(self, error: Exception) -> None:
        """Raise `error`, or note its message if `skip` is set."""
        if not self.skip:
            raise error
        self.note(str(error))

    def note(self, line: str) -> None:
        """Note something that is not an error, such as a stray folder or frames without a box."""
        self.lines.append(line)


def parse_region(line: str) -> list[float]:
    """The box x, y, w, h of a line in any layout, or four NaN if the line marks the target as absent.

    | line | meaning |
    |---|---|
    | four numbers | a box x, y, w, h |
    | six or more, an even count | a polygon x1, y1, x2, y2, ...; its smallest and largest coordinates are the box |
    | nothing, or NaN only | absent |
    | four numbers with a negative width or height | absent; GOT-10k writes -1 four times |

    A width or height of 0 is kept; `Sequence` counts it as absent too. Commas, semicolons, tabs or blanks
    separate the numbers.

    Raises:
        ValueError: the line is anything else, or a coordinate exceeds 10 million pixels.

    Example:
        >>> parse_region("0,0, 4,1, 2,6"), parse_region("NaN,NaN,NaN,NaN")
        ([0.0, 0.0, 4.0, 6.0], [nan, nan, nan, nan])
    """
    if line.startswith("m"):
        raise ValueError(f"line must be a box or a polygon, got a mask: {line[:40]!r}")
    numbers = parse_numbers(line)
    if not _fields(line) or (numbers and np.isnan(numbers).all()):
        return _ABSENT
    polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if not (polygon or len(numbers) == 4) or not np.isfinite(numbers).all():
        raise ValueError(
            f"line must be four finite numbers x, y, w, h, or three or more corners x, y of a polygon, got {line!r}"
        )
    if max(map(abs, numbers)) > LARGEST:
        raise ValueError(f"line must have coordinates up to {LARGEST:,.0f} pixels, got {line!r}")
    if polygon:
        corners = np.reshape(numbers, (-1, 2))
        low = corners.min(0)
        return [*low.tolist(), *(corners.max(0) - low).tolist()]
    return _ABSENT if min(numbers[2:]) < 0 else numbers


def read_rows(path: Path, parse: Callable[[str], list[float]], problems: Problems | None = None) -> np.ndarray:
    """The boxes of a file, float64 [N, 4], one per line; a malformed line that is skipped becomes four NaN.

    Empty lines at the end do not count.

    Raises:
        ValueError: a line is malformed, or the file is empty or not text; the message names file and line.
        OSError: the file cannot be read.
    """
    problems = problems or Problems()
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            rows.append(parse(line.strip()))
        except ValueError as error:
            problems.add(ValueError(f"{path}:{number}: {error}"))
            rows.append(_ABSENT)
    if not rows:
        raise ValueError(f"{path}:1: file must hold at least one box, got none")
    return np.array(rows, np.float64)


def read_flags(path: Path, count: int) -> np.ndarray:
    """`count` flags 0 or 1, bool [count], on one line or many.

    Raises:
        ValueError: the file holds something else or another number of flags; the message names file and line.
        OSError: the file cannot be read.
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
    """The non-empty lines of a list of sequences.

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
    """The numbers of a line; none if one of its fields is not a number."""
    try:
        return [float(field) for field in _fields(line)]
    except ValueError:
        return []
