"""What a folder of results scores on a data set, whichever protocol that has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracker.data.sequence import Sequence

Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """A measure over a threshold or a length, and the number that stands for it in the legend."""

    label: str
    across: str
    thresholds: list[float]
    values: list[float]
    score: float | None


@dataclass
class Scores:
    """One tracker's numbers; rows are of plain numbers, None where one is not defined."""

    name: str
    overall: Row = field(default_factory=dict)
    sequences: dict[str, Row] = field(default_factory=dict)
    attributes: dict[str, Row] = field(default_factory=dict)  # empty where the data set tells none
    curves: dict[str, Curve] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        curves = {key: vars(curve) for key, curve in self.curves.items()}
        return {**vars(self), "curves": curves}


def score(layout: str, sequences: list[Sequence], folder: Path, name: str | None = None, **options: Any) -> Scores:
    """Score the results in `folder` by the protocol of the data set.

    Args:
        layout: otb, lasot and folder: one-pass evaluation (`tracker.eval.ope`); got10k: `tracker.eval.got10k`; vot:
            `tracker.eval.vot`.
        sequences: all of them must have a result.
        folder: laid out as `tracker.eval.results` says.
        name: of the tracker; the folder's by default.
        options: of the protocol; VOT's interval of lengths.

    Raises:
        ValueError: names the file and line that is malformed or of another length.
        FileNotFoundError: when a result is missing.
    """
    # Imported here: they import this module.
    from tracker.eval.got10k import score_got10k
    from tracker.eval.ope import score_ope
    from tracker.eval.vot import score_vot

    if not folder.is_dir():
        raise FileNotFoundError(f"results must be an existing folder, got {folder}")
    protocols: dict[str, Callable[..., Scores]] = {"got10k": score_got10k, "vot": score_vot}
    return protocols.get(layout, score_ope)(layout, sequences, folder, name or folder.resolve().name, **options)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined, or None.

    Example:
        >>> mean([1.0, None, 2.0])
        1.5
    """
    known = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(known)) if known else None
