"""Numbers and curves, the result of every protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """A measure over a threshold or a length, and the number shown in the legend."""

    label: str
    across: str
    thresholds: list[float]
    values: list[float]
    score: float | None


@dataclass
class Scores:
    """The numbers of one tracker. Rows hold plain numbers, None if one is undefined."""

    name: str
    overall: Row = field(default_factory=dict)
    sequences: dict[str, Row] = field(default_factory=dict)
    attributes: dict[str, Row] = field(default_factory=dict)  # empty if the data set has none
    curves: dict[str, Curve] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything as a dictionary for JSON."""
        curves = {key: vars(curve) for key, curve in self.curves.items()}
        return {**vars(self), "curves": curves}


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the defined values, or None.

    Example:
        >>> mean([1.0, None, 2.0])
        1.5
    """
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else None
