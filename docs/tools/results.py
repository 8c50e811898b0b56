"""The measurements on the site: rows of benchmarks/results, from the last commit of each benchmark."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"

Row = dict[str, str]


def last_rows(benchmark: str, ops: Iterable[str] = ()) -> list[list[Row]]:
    """Rows of a benchmark, or of some of its ops in this order: a list for each device, all of one commit.

    Raises:
        ValueError: if there are none.
    """
    ops, found = tuple(ops), []
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
        if not rows:
            continue
        rows = [row for row in rows if row["commit"] == rows[-1]["commit"]]
        if ops and (missing := set(ops) - {row["op"] for row in rows}):
            raise ValueError(f"last_rows: ops must be measured, got {', '.join(sorted(missing))} not in {path.name}")
        if ops:
            rows = sorted((row for row in rows if row["op"] in ops), key=lambda row: ops.index(row["op"]))
        found.append(rows)
    if not found:
        raise ValueError(f"last_rows: benchmark must be one that {RESULTS.name} has, got {benchmark!r}")
    return found


def all_rows(benchmark: str) -> list[Row]:
    """Rows of a benchmark from all commits, for results that depend on the weights and not on the speed of the code.

    Raises:
        ValueError: if there are none.
    """
    rows = []
    for path in sorted(RESULTS.glob("*.csv")):
        with path.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["benchmark"] == benchmark]
    if not rows:
        raise ValueError(f"all_rows: benchmark must be one that {RESULTS.name} has, got {benchmark!r}")
    return rows


def source_of(row: Row) -> str:
    """The line below a table or chart of these rows."""
    return f"{row['device']}, {row['backend']}, torch {row['torch']}, commit {row['commit']}"
