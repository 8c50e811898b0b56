"""Report of [`fastops.accelerate`][]: changed and unchanged modules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """A fused module: its name in the model, its old class, its new class."""

    name: str
    was: str
    now: str


@dataclass(frozen=True)
class LeftAlone:
    """A module that looks fusible but was not fused: its name in the model, its class, the reason."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class AccelerationReport:
    """The result of [`fastops.acceleration_report`][]. Its `str` is a table."""

    changed: tuple[Change, ...]
    left_alone: tuple[LeftAlone, ...]

    def __str__(self) -> str:
        rows = [("changed", change.name, change.was, f"-> {change.now}") for change in self.changed]
        rows += [("left alone", left.name or "the model", left.kind, left.reason) for left in self.left_alone]
        return "\n".join([f"{len(self.changed)} changed, {len(self.left_alone)} left alone", *_aligned(_grouped(rows))])


def _grouped(rows: Iterable[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Merge rows that differ in the name only."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for what, name, kind, result in rows:
        groups.setdefault((what, kind, result), []).append(name)
    grouped = []
    for (what, kind, result), names in groups.items():
        shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
        grouped.append((f"{what} {len(names)}", kind, result, shown))
    return grouped


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
