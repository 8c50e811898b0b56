"""Output of the commands: results on stdout, progress on stderr if it is a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar(quiet: bool) -> Progress:
    """A progress bar on stderr that is erased at the end. None if `quiet`, or if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def counted(count: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> counted(1, "frame"), counted(3, "frame")
        ('1 frame', '3 frames')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_error(message: str) -> None:
    """Print the message as one line on stderr."""
    with suppress(OSError):  # stderr may be closed; the exit code remains
        print(f"tracker: error: {' '.join(message.split())}", file=sys.stderr)


def print_note(message: str) -> None:
    """Print one line on stderr that is not an error."""
    with suppress(OSError):
        print(f"tracker: note: {' '.join(message.split())}", file=sys.stderr)


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one line of JSON. Paths become text; numbers that are not finite become null."""
    print(json.dumps(_finite(result), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
