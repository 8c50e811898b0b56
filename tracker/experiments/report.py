"""Reports an experiment: tables of means over the seeds, printed and as CSV and Markdown files, and plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from tracker.installed import install_hint
from tracker.io.files import write_whole
from tracker.io.report import Row, write_csv, write_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def summarise(runs: Sequence[Row], by: Sequence[str], values: Sequence[str]) -> list[Row]:
    """Make a row for each combination of the columns `by`, in the order of their first appearance.

    A row has the number of runs and, for each of `values`, the mean and the standard deviation over the runs (with
    n - 1 degrees of freedom; NaN for one run).

    Example:
        >>> runs = [{"net": "a", "score": 1.0}, {"net": "a", "score": 3.0}, {"net": "b", "score": 5.0}]
        >>> summarise(runs[:2], ["net"], ["score"])
        [{'net': 'a', 'runs': 2, 'score': 2.0, 'score_std': 1.4142135623730951}]
    """
    groups: dict[tuple, list[Row]] = {}
    for run in runs:
        groups.setdefault(tuple(run[key] for key in by), []).append(run)
    rows = []
    for key, members in groups.items():
        row = dict(zip(by, key, strict=True)) | {"runs": len(members)}
        for value in values:
            numbers = np.array([member[value] for member in members], np.float64)
            row[value] = float(numbers.mean())
            row[f"{value}_std"] = float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan
        rows.append(row)
    return rows


def print_table(console: Console, title: str, rows: Sequence[Row], digits: int = 3) -> None:
    """Print rows of `summarise`. Each value is shown as mean ± standard deviation."""
    table = RichTable(title=title)
    columns = [column for column in rows[0] if not column.endswith("_std")]
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_cell(row, column, digits) for column in columns))
    console.print(table)


def _cell(row: Row, column: str, digits: int = 3) -> str:
    value, deviation = row.get(column), row.get(f"{column}_std")
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if abs(value) >= 10:  # for frames per second and seconds, three digits are enough
        digits = min(digits, 1 if abs(value) < 100 else 0)
    if deviation is None or math.isnan(deviation):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ± {deviation:.{digits}f}"


def markdown_table(rows: Sequence[Row], digits: int = 3) -> str:
    """Format rows of `summarise` as a Markdown table. Each value is shown as mean ± standard deviation.

    Example:
        >>> print(markdown_table([{"net": "a", "score": 2.0, "score_std": 0.5}]))
        | net | score |
        |---|---:|
        | a | 2.000 ± 0.500 |
    """
    columns = [column for column in rows[0] if not column.endswith("_std")]
    lines = [
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + "|".join("---" if isinstance(rows[0][column], str) else "---:" for column in columns) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row, column, digits) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


Table = Sequence[Row]


def write_report(
    console: Console,
    folder: Path,
    name: str,
    runs: Sequence[Row],
    by: Sequence[str],
    values: Sequence[str],
    draw: Callable[[Figure, Table], None] | None = None,
    *,
    size: tuple[float, float] = (9, 4),
    extra: Mapping[str, Callable[[Table], Table]] | None = None,
    plots: Mapping[str, Callable[[Figure], None]] | None = None,
    show: bool = True,
) -> list[Row]:
    """Print the tables of an experiment, and write `<name>.csv`, `<name>.md` and the plots to `folder`.

    Args:
        runs: one row per run.
        by: the columns that identify a variant.
        values: the columns that are averaged over the seeds.
        draw: draws the rows of the main table on the figure of `<name>.png`.
        size: size of that figure in inches.
        extra: further tables by title, made from the rows of the main table.
        plots: further plots, `<name>_<key>.png`.
        show: print the main table.

    Returns:
        The rows of the main table.
    """
    rows = summarise(runs, by, values)
    tables = {name: rows} | {title: make(rows) for title, make in (extra or {}).items()}
    tables = {title: table for title, table in tables.items() if table}
    if show:
        print_table(console, name, rows)
    for title, table in list(tables.items())[1:]:
        print_table(console, title, table)
    write_csv(folder / f"{name}.csv", rows)
    text = "\n\n".join(f"## {title}\n\n{markdown_table(table)}" for title, table in tables.items())
    write_whole(folder / f"{name}.md", f"{text}\n".encode())
    files = [f"{name}.csv", f"{name}.md"]
    drawn = {} if draw is None else {f"{name}.png": (lambda figure: draw(figure, rows), size)}
    drawn |= {f"{name}_{key}.png": (paint, (11, 6)) for key, paint in (plots or {}).items()}
    for file, (paint, inches) in drawn.items():
        if not write_plot(folder / file, paint, inches):
            console.print(f"no plot: matplotlib is missing, {install_hint('plot')}", markup=False)
            break
        files.append(file)
    console.print(f"wrote {', '.join(str(folder / file) for file in files)}", soft_wrap=True, markup=False)
    return rows


#: What stands on the axes of plots for the columns of tables, alone or after the name of a data set.
_WORDS = {
    "pair_iou": "mean IoU on held-out pairs",
    "video_iou": "mean IoU on held-out videos",
    "weight": "weight of the box loss",
    "beta": "β of the loss",
    "gamma": "γ of the loss",
    "ao": "average overlap",
    "auc": "area under the success curve",
    "eao": "expected average overlap",
    "fps": "frames per second",
    "iou": "IoU",
    "success": "area under the success curve",
}


def in_words(column: str) -> str:
    """What a column of a table is called on the axes of a plot.

    Example:
        >>> in_words("video_iou"), in_words("OTB_success")
        ('mean IoU on held-out videos', 'OTB: area under the success curve')
    """
    place, _, measure = column.rpartition("_")
    if column in _WORDS:
        return _WORDS[column]
    return f"{place.replace('_', ' ')}: {_WORDS[measure]}" if measure in _WORDS else column.replace("_", " ")


def draw_bars(figure: Figure, rows: Sequence[Row], label: str, value: str, title: str) -> None:
    """Draw a bar per row, with the standard deviation as its whisker."""
    axes = figure.add_subplot()
    deviations = [0.0 if math.isnan(row[f"{value}_std"]) else row[f"{value}_std"] for row in rows]
    axes.bar([row[label] for row in rows], [row[value] for row in rows], yerr=deviations, capsize=4, color="tab:green")
    axes.set(ylabel=in_words(value), title=title)
    axes.grid(axis="y", alpha=0.3)
