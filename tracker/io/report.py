"""Writes tables and plots as files that are complete or absent."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracker.io.files import replacing, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that have the same columns."""
    lines: list[str] = []

    class Lines:
        write = staticmethod(lines.append)

    writer = csv.DictWriter(Lines(), rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, "".join(lines).encode())


def write_plot(path: Path, draw: Callable[[Figure], None], size: tuple[float, float] = (9, 4)) -> bool:
    """Write a figure as PNG; return False, and write nothing, if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no display
    draw(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return True
