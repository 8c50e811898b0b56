"""What the commands show: results on stdout, progress on stderr and only where that is a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def print_json(result: Mapping[str, Any]) -> None:
    """Print a result as one line; paths become text."""
    print(json.dumps(result, default=str))
