"""Paper 000: what Mish, channel attention and gradient centralization each add to SiamFC, everything else equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from tracker.data.datasets import open_dataset
from tracker.data.pairs import PairDataset
from tracker.data.sequence import Sequence as Video
from tracker.experiments.report import Row, draw_bars, report
from tracker.network.model import SiamFC
from tracker.training.config import DataConfig, TrainConfig, ValidationConfig
from tracker.training.loop import scale_responses, train
from tracker.training.validation import validate, validation_sequences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Activation, attention and optimizer.
VARIANTS = {
    "ReLU": ("relu", "none", "sgd"),
    "+ Mish": ("mish", "none", "sgd"),
    "+ SE": ("relu", "se", "sgd"),
    "+ GC": ("relu", "none", "sgd_gc"),
    "all": ("mish", "se", "sgd_gc"),
}


@dataclass(frozen=True)
class Plan:
    """What is run: every variant from every seed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    batch_size: int = 8
    width: float = 0.25
    videos: int = 16
    frames: int = 100
    workers: int = 2


QUICK = Plan(seeds=(0, 1), steps=24, batch_size=4, width=0.125, videos=2, frames=12, workers=0)


def open_data(folder: Path | None) -> list[Video]:
    """The OTB sequences in a folder of them; none without a folder."""
    return [] if folder is None else open_dataset("otb", folder)


def run(folder: Path, console: Console, real: list[Video], *, quick: bool = False) -> list[Row]:
    """Run the experiment, print its table and leave it in `folder`; return the rows of the table.

    Networks are trained on synthetic pairs and scored, by the mean success AUC, on other synthetic videos and on the
    `real` sequences.
    """
    plan = QUICK if quick else Plan()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console.print(
        f"{len(VARIANTS)} variants, {len(plan.seeds)} seeds, {plan.steps} steps each on {device}", highlight=False
    )
    synthetic = validation_sequences(ValidationConfig(synthetic=plan.videos, frames=plan.frames))
    runs = []
    for variant in VARIANTS:
        for seed in plan.seeds:
            model = train_one(variant, seed, plan, device)
            row: Row = {"variant": variant, "seed": seed, "auc": _mean_auc(model, synthetic)}
            if real:
                row["real_auc"] = _mean_auc(model, real)
            runs.append(row)
            console.print(f"  {variant}, seed {seed}: AUC {row['auc']:.3f}", highlight=False, markup=False)

    def draw(figure: Figure, rows: Sequence[Row]) -> None:
        draw_bars(figure, rows, "variant", values[-1], f"Success AUC after {plan.steps} steps")

    values = ("auc", "real_auc") if real else ("auc",)
    return report(console, folder, "tracking", runs, ["variant"], values, draw)


def train_one(variant: str, seed: int, plan: Plan, device: torch.device) -> SiamFC:
    """The same start, as far as the variants share layers, and the same pairs in the same order."""
    activation, attention, optimizer = VARIANTS[variant]
    pairs = PairDataset.synthetic(seed, plan.steps * plan.batch_size)
    torch.manual_seed(seed)
    model = SiamFC(activation, attention, width=plan.width).to(device)
    scale_responses(model, pairs=pairs)
    config = TrainConfig(
        seed=seed, steps=plan.steps, batch_size=plan.batch_size, lr=5e-2, final_lr=3e-3, optimizer=optimizer,
        data=DataConfig(workers=plan.workers), validation=ValidationConfig(every=0),
    )  # fmt: skip
    train(model, config, pairs=pairs)
    return model


def _mean_auc(model: SiamFC, videos: list[Video]) -> float:
    return float(np.mean(list(validate(model, videos).values())))
