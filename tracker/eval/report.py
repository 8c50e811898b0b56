"""Scores for people and programs: tables on the screen, CSV, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tracker.eval.scores import Row, Scores
from tracker.io.files import replacing
from tracker.io.report import write_csv, write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 25  # of a table by attribute or sequence on the screen; all are in the CSV
HEADINGS = {
    "success_rate": "SR.50",
    "normalized_precision": "norm. precision",
    "ao": "AO",
    "sr_50": "SR.50",
    "sr_75": "SR.75",
    "eao": "EAO",
}
LOOKS = ("-", "--", "-.", ":")


def print_scores(console: Console, all_scores: Sequence[Scores], *, fps: bool = True) -> None:
    """Print a row per tracker, and for the first one a row per attribute and per sequence.

    Args:
        fps: print the speed too. It is not that of this machine if results of other runs are scored.
    """
    first, left_out = all_scores[0], () if fps else ("fps",)
    _print(console, "overall", {scores.name: scores.overall for scores in all_scores}, "tracker", left_out)
    if 0 < len(first.attributes) <= MAX_ROWS:
        _print(console, f"{first.name} by attribute", first.attributes, "attribute", left_out)
    if len(first.sequences) <= MAX_ROWS:
        _print(console, f"{first.name} by sequence", first.sequences, "sequence", left_out)


def write_report(folder: Path, all_scores: Sequence[Scores]) -> list[Path]:
    """Write report.json, overall.csv, sequences.csv, attributes.csv (if there are attributes) and a plot per curve.

    Returns:
        The files, without plots if matplotlib is missing.
    """
    files = [folder / "report.json"]
    with replacing(files[0]) as temporary:
        temporary.write_text(json.dumps([scores.as_dict() for scores in all_scores], indent=1, default=str) + "\n")
    tables = {
        "overall": [{"tracker": scores.name} | scores.overall for scores in all_scores],
        "sequences": _rows(all_scores, "sequence", "sequences"),
        "attributes": _rows(all_scores, "attribute", "attributes"),
    }
    for name, rows in tables.items():
        if rows:
            files.append(folder / f"{name}.csv")
            write_csv(files[-1], rows)
    for key in all_scores[0].curves:
        path = folder / f"{key}.png"
        if write_plot(path, lambda figure, key=key: draw_curves(figure, all_scores, key), (7, 5)):
            files.append(path)
    return files


def draw_curves(figure: Figure, all_scores: Sequence[Scores], key: str) -> None:
    """Plot one curve of all trackers. The best tracker is the first one in the legend."""
    axes = figure.add_subplot()
    curves = [(scores.name, scores.curves[key]) for scores in all_scores]
    curves.sort(key=lambda pair: -1.0 if pair[1].score is None else pair[1].score, reverse=True)
    for index, (name, curve) in enumerate(curves):
        label = f"{name} [{_cell(curve.score)}]"
        axes.plot(curve.thresholds, curve.values, LOOKS[index // 10 % len(LOOKS)], label=label)
    first = curves[0][1]
    axes.set(xlabel=first.across, ylabel=first.label.lower(), title=first.label, ylim=(0, 1), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def _rows(all_scores: Sequence[Scores], label: str, field: str) -> list[Row]:
    return [
        {"tracker": scores.name, label: name} | row
        for scores in all_scores
        for name, row in getattr(scores, field).items()
    ]


def _print(console: Console, title: str, rows: dict[str, Row], label: str, left_out: Sequence[str]) -> None:
    table = Table(title=title)
    table.add_column(label)
    columns = [column for column in next(iter(rows.values())) if column not in left_out]
    for column in columns:
        table.add_column(HEADINGS.get(column, column), justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_cell(row[column], 1 if column == "fps" else 3) for column in columns))
    console.print(table)


def _cell(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
