"""Scores the results of a data set by its protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracker.data.sequence import Sequence
from tracker.eval.got10k import score_got10k
from tracker.eval.ope import score_ope
from tracker.eval.scores import Scores
from tracker.eval.vot import score_vot


def score(layout: str, sequences: list[Sequence], folder: Path, name: str | None = None, **options: Any) -> Scores:
    """Score the results in `folder` by the protocol of the data set.

    Args:
        layout: otb, lasot and folder: one-pass evaluation (`tracker.eval.ope`); got10k: `tracker.eval.got10k`; vot:
            `tracker.eval.vot`.
        sequences: the sequences; all of them must have a result.
        folder: folder with the layout of `tracker.eval.results`.
        name: name of the tracker; the default is the folder's name.
        options: options of the protocol: VOT's interval of lengths.

    Raises:
        ValueError: if a file is malformed or has another length. The message names file and line.
        FileNotFoundError: if a result is missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"results must be an existing folder, got {folder}")
    protocols: dict[str, Callable[..., Scores]] = {"got10k": score_got10k, "vot": score_vot}
    return protocols.get(layout, score_ope)(layout, sequences, folder, name or folder.resolve().name, **options)
