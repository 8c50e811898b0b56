"""What the commands show: results on stdout, progress on stderr and only where that is a terminal."""

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
    """A progress bar on stderr that leaves nothing behind; none when quiet or where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def print_error(message: str) -> None:
    """Print the message as one line on stderr."""
    with suppress(OSError):  # stderr may be closed; the exit code still tells
        print(f"tracker: error: {' '.join(message.split())}", file=sys.stderr)


def print_note(message: str) -> None:
    """Print one line on stderr that is no error."""
    with suppress(OSError):
        print(f"tracker: note: {' '.join(message.split())}", file=sys.stderr)


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one line; paths become text, and numbers that are not finite null, for JSON has none."""
    print(json.dumps(_finite(result), default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
