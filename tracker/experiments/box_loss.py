"""Zhang et al. (EIoU): a comparison of box regression losses in the tracker's box head, all else equal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from tracker.data.augment import AugmentConfig, augment, collate
from tracker.data.crops import crop_target
from tracker.data.pairs import Pair, PairDataset
from tracker.eval.metrics import iou
from tracker.experiments.report import Row, draw_bars, in_words, summarise, write_report
from tracker.experiments.runs import Experiment, Where
from tracker.experiments.videos import StretchedVideo
from tracker.geometry import INSTANCE
from tracker.network.box_head import boxes_of
from tracker.network.model import SiamFC
from tracker.tracker import Tracker
from tracker.training.config import DataConfig, TrainConfig
from tracker.training.loop import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name -> `box_loss` of `tracker train`. The first six are fused ops of the package, the others are baselines.
LOSSES = {
    "IoU": "iou",
    "GIoU": "giou",
    "DIoU": "diou",
    "CIoU": "ciou",
    "EIoU": "eiou",
    "Focal-EIoU": "focal_eiou",
    "Focal-EIoU v1": "focal_eiou_v1",
    "Focal-EIoU*": "focal_eiou_star",
    "FocalL1": "focal_l1",
    "BalancedL1": "balanced_l1",
    "SmoothL1": "smooth_l1",
}
L1_LOSSES = ("FocalL1", "BalancedL1", "SmoothL1")  # of offsets, not of the IoU
#: Tables 1 and 2 of the paper, RetinaNet with ResNet-50 on COCO; its baseline is SmoothL1. The second table has 55.5 as
#: the baseline's AP50.
PAPER_COLUMNS = ("AP", "AP50", "AP75", "APS", "APM", "APL")
PAPER = {
    "SmoothL1": (35.9, 55.2, 38.4, 21.2, 39.5, 48.4),
    "IoU": (36.5, 55.6, 38.9, 20.9, 40.1, 48.0),
    "GIoU": (36.5, 55.6, 39.0, 20.7, 40.2, 48.2),
    "CIoU": (36.7, 55.7, 39.2, 20.6, 40.4, 49.0),
    "FocalL1": (36.5, 55.8, 38.9, 21.2, 39.8, 48.8),
    "BalancedL1": (36.3, 55.3, 38.8, 20.5, 39.3, 48.5),
    "EIoU": (37.0, 55.7, 39.5, 20.7, 40.5, 49.5),
    "Focal-EIoU v1": (36.8, 55.4, 39.5, 20.9, 40.0, 49.1),
    "Focal-EIoU": (37.5, 56.1, 40.0, 21.1, 40.9, 49.8),
}
#: Figure 9: the weight of the box loss, beta of the FocalL1 losses, gamma of the focal EIoU losses. The paper's values
#: of the axes are not in its text; these span the ranges that it names.
SWEEPS = {
    "weight": (("EIoU",), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
    "beta": (("FocalL1", "Focal-EIoU v1"), (0.4, 0.6, 0.8, 1.0)),
    "gamma": (("Focal-EIoU", "Focal-EIoU*"), (0.25, 0.5, 1.0, 1.5, 2.0)),
}
STRETCH = 1.6  # stretch of the videos; aspect ratios change by up to 1.6^4 = 6.6
CROP = 383  # large enough to shift and stretch the instance crop of 255
#: A box head must see targets away from the middle, and at sizes that differ from the tracker's last estimate.
AUGMENT = {"stretch": 0.25, "shift": 48.0}
HELD_OUT = 2_000_000  # first seed of the test videos; training draws from [0, 2^63)


@dataclass(frozen=True)
class Plan:
    """The runs: every loss with every seed, then the sweeps.

    Args:
        losses: names of `LOSSES`.
        seeds: each seed decides the initial weights and the pairs.
        sweeps: names of `SWEEPS`. Each repeats some losses with several values of one setting.
        weight: weight of an IoU loss relative to the score loss; 2.5 in the paper.
        l1_weight: the same for a loss of offsets; 1 in the paper.
        beta: beta of FocalL1 and Focal-EIoU v1.
        gamma: gamma of Focal-EIoU and Focal-EIoU*.
        steps, batch_size, width, workers: settings of the training.
        pairs: number of held-out pairs.
        videos, frames: number and length of the held-out videos.
    """

    losses: tuple[str, ...] = tuple(LOSSES)
    seeds: tuple[int, ...] = (0, 1, 2)
    sweeps: tuple[str, ...] = ()
    weight: float = 1.0
    l1_weight: float = 1.0
    beta: float = 0.8
    gamma: float = 0.5
    steps: int = 600
    batch_size: int = 8
    width: float = 0.25
    pairs: int = 256
    videos: int = 12
    frames: int = 80
    workers: int = 2

    def __post_init__(self) -> None:
        for field, values, known in (("losses", self.losses, LOSSES), ("sweeps", self.sweeps, SWEEPS)):
            if unknown := [value for value in values if value not in known]:
                raise ValueError(f"{field} must be among {', '.join(known)}, got {unknown[0]!r}")


QUICK = Plan(seeds=(0, 1), steps=24, batch_size=4, width=0.125, pairs=16, videos=1, frames=20, workers=0)


class StretchedPairs:
    """A source for `PairDataset`: each pair is two frames of a new `StretchedVideo`."""

    def __init__(self, pairs: int) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return self._pairs

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        video = StretchedVideo(
            seed=int(rng.integers(2**63)),
            frames=64,
            size=(288, 288),
            stretch=STRETCH,
            period=64,
            target=rng.uniform(40, 64),
            occlusions=0,
            distractors=int(rng.integers(1, 4)),
            noise=float(rng.integers(6)),
        )
        (exemplar, exemplar_box), (search, search_box) = (
            crop_target(*video.frame(frame), CROP) for frame in rng.integers(0, len(video), size=2)
        )
        return Pair(exemplar, search, exemplar_box, search_box)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """Raise an error for given data, because the videos are synthetic."""
    raise ValueError("--data and --eval must be left out: box-loss makes its own videos")


def runs_of(plan: Plan) -> Iterator[Row]:
    """The runs: for each seed, all losses and then the sweeps. No run is listed twice."""
    for seed in plan.seeds:
        done = []
        swept = [
            (loss, _settings(loss, plan) | {sweep: value})
            for sweep in plan.sweeps
            for loss in SWEEPS[sweep][0]
            for value in SWEEPS[sweep][1]
        ]
        for loss, chosen in [*((loss, _settings(loss, plan)) for loss in plan.losses), *swept]:
            run = {"loss": loss, **chosen, "seed": seed}
            if run not in done:
                done.append(run)
                yield run


def _settings(loss: str, plan: Plan) -> Row:
    """The settings of a loss outside the sweeps."""
    weight = plan.l1_weight if loss in L1_LOSSES else plan.weight
    return {"weight": weight, "beta": plan.beta, "gamma": plan.gamma}


def _is_plain(row: Row, plan: Plan, but: str = "") -> bool:
    """Whether a row has the settings of the plan, except for one."""
    return all(row[key] == value for key, value in _settings(row["loss"], plan).items() if key != but)


def run_one(run: Row, plan: Plan, opened: None, where: Where) -> Row:
    """Train with one loss and one seed, and score the network."""
    settings = {"box_weight": run["weight"], "beta": run["beta"], "gamma": run["gamma"]}
    return evaluate(train_one(run["loss"], run["seed"], plan, where, **settings), plan)


def report(console: Console, folder: Path, rows: list[Row], plan: Plan) -> list[Row]:
    """The table of all losses with the paper's AP, a plot of their overlaps, and figure 9 if there are sweeps."""
    plain = [row for row in rows if _is_plain(row, plan)]
    values = ("pair_iou", "video_iou", "aspect_error")

    def draw(figure: Figure, table: Sequence[Row]) -> None:
        chosen = [row for row in table if _is_plain(row, plan)]
        draw_bars(figure, chosen, "loss", "video_iou", f"Tracking with the box head, {plan.steps} steps")

    def beside(table: Sequence[Row]) -> list[Row]:
        scores = {row["loss"]: row for row in summarise(plain, ["loss"], values)}
        return [
            {"loss": name, "AP in the paper": row[0], **scores[name]} for name, row in PAPER.items() if name in scores
        ]

    plots = {f"sweep_{sweep}": partial(_draw_sweep, rows=rows, sweep=sweep, plan=plan) for sweep in plan.sweeps}
    by = ["loss", "weight", "beta", "gamma"]
    title = "Tables 1 and 2 of the paper, COCO AP, beside overlaps here"
    return write_report(
        console, folder, "box-loss", rows, by, values, draw, size=(12, 4), extra={title: beside}, plots=plots
    )


def _draw_sweep(figure: Figure, rows: Sequence[Row], sweep: str, plan: Plan) -> None:
    """The overlap on held-out pairs against one setting. The other settings are those of the plan."""
    axes = figure.add_subplot()
    for loss in SWEEPS[sweep][0]:
        chosen = [row for row in rows if row["loss"] == loss and _is_plain(row, plan, but=sweep)]
        table = sorted(summarise(chosen, [sweep], ["pair_iou"]), key=lambda row: row[sweep])
        deviations = [0.0 if math.isnan(row["pair_iou_std"]) else row["pair_iou_std"] for row in table]
        axes.errorbar(
            [row[sweep] for row in table], [row["pair_iou"] for row in table], deviations, label=loss, capsize=4
        )
    axes.set(xlabel=in_words(sweep), ylabel=in_words("pair_iou"), title=f"Figure 9 of the paper: {sweep}")
    axes.grid(alpha=0.3)
    axes.legend()


def train_one(name: str, seed: int, plan: Plan, where: Where, **settings: float) -> SiamFC:
    """Train the same network on the same pairs in the same order for every loss, with `settings` of `TrainConfig`."""
    torch.manual_seed(seed)
    model = SiamFC("mish", "se", "box", plan.width).to(where.device)
    config = TrainConfig(
        seed=seed, steps=plan.steps, batch_size=plan.batch_size, lr=5e-2, final_lr=2.5e-3, box_loss=LOSSES[name],
        augment=AugmentConfig(**AUGMENT), data=DataConfig(workers=plan.workers), **settings,
    )  # fmt: skip
    train(model, config, pairs=PairDataset(StretchedPairs(plan.steps * plan.batch_size), seed), folder=where.scratch)
    return model


def evaluate(model: SiamFC, plan: Plan) -> Row:
    """Score a trained network.

    Returns:
        - pair_iou: overlap of the best cell's box with the true box, averaged over held-out pairs.
        - video_iou: overlap of the tracker's box with the true box, averaged over held-out videos.
        - aspect_error: mean of abs(log(w / h) - log(w' / h')) on these videos.
    """
    overlaps, errors = [], []
    for i in range(plan.videos):
        video = StretchedVideo(HELD_OUT + i, plan.frames, (320, 240), stretch=STRETCH, occlusions=0)
        boxes = np.array([result.box for result in Tracker(model).track(video.images(), video.boxes[0])])
        overlaps.append(iou(boxes, video.boxes).mean())
        ratios = np.log(boxes[:, 2] / boxes[:, 3]) - np.log(video.boxes[:, 2] / video.boxes[:, 3])
        errors.append(np.abs(ratios).mean())
    return {
        "pair_iou": _pair_iou(model, plan),
        "video_iou": float(np.mean(overlaps)),
        "aspect_error": float(np.mean(errors)),
    }


@torch.inference_mode()
def _pair_iou(model: SiamFC, plan: Plan) -> float:
    pairs = PairDataset(StretchedPairs(plan.pairs), seed=HELD_OUT)
    generator, device = torch.Generator().manual_seed(HELD_OUT), next(model.parameters()).device
    config = AugmentConfig(**AUGMENT)
    found = []
    for k in range(0, plan.pairs, 16):
        items = collate([pairs[i] for i in range(k, min(k + 16, plan.pairs))])
        batch = augment(items, generator, config, device=device)
        output = model(batch.exemplar, batch.instance)
        best = output.score.flatten(1).argmax(1)
        boxes = boxes_of(output.ltrb).flatten(1, 2)[torch.arange(len(best), device=device), best] + INSTANCE / 2
        found.append(iou(_corner_and_size(boxes), _corner_and_size(batch.box)))
    return float(np.concatenate(found).mean())


def _corner_and_size(boxes: Tensor) -> np.ndarray:
    boxes = boxes.cpu().numpy()
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])


EXPERIMENT = Experiment(
    name="box-loss",
    paper="Zhang et al., Focal and efficient IOU loss for accurate bounding box regression",
    about="losses of box regression in the tracker's box head: overlap on held-out synthetic videos",
    plans={"quick": QUICK, "default": Plan(), "paper": Plan(sweeps=tuple(SWEEPS), weight=2.5)},
    times={"quick": "1 minute on one core", "default": "3 hours on two cores", "paper": "10 hours on two cores"},
    key=("loss", "weight", "beta", "gamma", "seed"),
    choices=("losses", "seeds", "sweeps", "weight", "l1_weight", "beta", "gamma"),
    with_data=with_data,
    open=lambda plan: None,
    runs=runs_of,
    run=run_one,
    report=report,
)
