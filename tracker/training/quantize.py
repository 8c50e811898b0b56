"""Helps to quantize a network to 8-bit integers: a sample of crops, and the accuracy of int8 on held-out sequences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence as Sequences
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tracker.data.crops import read_crop, usable_frames
from tracker.data.sequence import Sequence
from tracker.geometry import EXEMPLAR, INSTANCE
from tracker.network.int8_settings import Int8Settings
from tracker.network.model import SiamFC
from tracker.training.validation import validate

SPREAD = (5**0.5 - 1) / 2  # the fractional parts of its multiples are spread over [0, 1), for any number of them


def sample_crops(sequences: Sequences[Sequence], count: int) -> tuple[Tensor, Tensor]:
    """Exemplars uint8 [count, 3, 127, 127] and searches uint8 [count, 3, 255, 255], channels_last, around targets.

    The sequences take turns, and the frames of each are spread over its length. The same call gives the same crops.

    Raises:
        ValueError: if no sequence has a frame with a usable target.
    """
    usable = [(sequence, frames) for sequence in sequences if len(frames := usable_frames(sequence))]
    if not usable:
        raise ValueError("sequences must have frames with a target of at least 8 px, got none")
    crops: dict[int, list[np.ndarray]] = {EXEMPLAR: [], INSTANCE: []}
    for i in range(count):
        sequence, frames = usable[i % len(usable)]
        for size, offset in ((EXEMPLAR, 0.0), (INSTANCE, 0.5)):  # template and search come from different frames
            place = (i * SPREAD + offset) % 1.0
            crops[size].append(read_crop(sequence, int(frames[int(place * len(frames))]), size)[0])
    exemplars, searches = (torch.from_numpy(np.stack(crops[size])).permute(0, 3, 1, 2) for size in (EXEMPLAR, INSTANCE))
    return exemplars, searches


def with_auc(settings: Int8Settings, model: SiamFC, sequences: list[Sequence]) -> Int8Settings:
    """The settings, with the mean success AUC of the sequences in float32 and in int8."""
    before = model.int8
    model.int8 = settings
    try:
        auc = {
            name: statistics.fmean(validate(model, sequences, dtype=dtype).values())
            for name, dtype in (("float32", torch.float32), ("int8", torch.int8))
        }
    finally:
        model.int8 = before
    return replace(settings, auc={name: round(value, 4) for name, value in auc.items()})
