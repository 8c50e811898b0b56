"""Zhang et al. (EIoU): the losses of box regression in the tracker's box head, all else equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from tracker.experiments.report import Row, draw_bars, write_report
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

LOSSES = {"IoU": "iou", "GIoU": "giou", "CIoU": "ciou", "EIoU": "eiou", "Focal-EIoU": "focal_eiou"}
STRETCH = 1.6  # of the videos: aspect ratios change by up to 1.6^4 = 6.6
CROP = 383  # room to shift and stretch the instance crop of 255
#: A box head must see targets off the middle and of other sizes than the tracker's last guess.
AUGMENT = {"stretch": 0.25, "shift": 48.0}
HELD_OUT = 2_000_000  # seeds of the test videos, from here on; training draws from all of [0, 2^63)


@dataclass(frozen=True)
class Plan:
    """What is run: every loss from every seed."""

    losses: tuple[str, ...] = tuple(LOSSES)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 600
    batch_size: int = 8
    width: float = 0.25
    pairs: int = 256  # held out
    videos: int = 12
    frames: int = 80
    workers: int = 2


QUICK = Plan(seeds=(0, 1), steps=24, batch_size=4, width=0.125, pairs=16, videos=1, frames=20, workers=0)


class StretchedPairs:
    """The source of a `PairDataset`: two frames of a `StretchedVideo`, another one for every pair."""

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
    """Refuse data: the videos are synthetic."""
    raise ValueError("--data and --eval must be left out: box-loss makes its own videos")


def runs_of(plan: Plan) -> Iterator[Row]:
    """All losses from one seed before the next seed."""
    return ({"loss": loss, "seed": seed} for seed in plan.seeds for loss in plan.losses)


def run_one(run: Row, plan: Plan, opened: None, where: Where) -> Row:
    """Train with one loss from one seed, and score the network."""
    return evaluate(train_one(run["loss"], run["seed"], plan, where), plan)


def report(console: Console, folder: Path, rows: list[Row], plan: Plan) -> list[Row]:
    """The table of all losses, and their overlaps as a plot."""

    def draw(figure: Figure, table: Sequence[Row]) -> None:
        draw_bars(figure, table, "loss", "video_iou", f"Tracking with the box head, {plan.steps} steps")

    values = ("pair_iou", "video_iou", "aspect_error")
    return write_report(console, folder, "box-loss", rows, ["loss"], values, draw)


def train_one(name: str, seed: int, plan: Plan, where: Where) -> SiamFC:
    """The same network, trained on the same pairs in the same order whatever the loss."""
    torch.manual_seed(seed)
    model = SiamFC("mish", "se", "box", plan.width).to(where.device)
    config = TrainConfig(
        seed=seed, steps=plan.steps, batch_size=plan.batch_size, lr=5e-2, final_lr=2.5e-3, box_loss=LOSSES[name],
        augment=AugmentConfig(**AUGMENT), data=DataConfig(workers=plan.workers),
    )  # fmt: skip
    train(model, config, pairs=PairDataset(StretchedPairs(plan.steps * plan.batch_size), seed), folder=where.scratch)
    return model


def evaluate(model: SiamFC, plan: Plan) -> Row:
    """Score a trained network.

    Returns:
        pair_iou, the overlap of the best cell's box with the truth, mean over held-out pairs; video_iou, the same of
        the tracker over held-out videos; aspect_error, the mean of abs(log(w / h) - log(w' / h')) there.
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
    plans={"quick": QUICK, "default": Plan()},
    times={"quick": "1 minute on one core", "default": "2 hours on two cores"},
    key=("loss", "seed"),
    choices=("losses", "seeds"),
    with_data=with_data,
    open=lambda plan: None,
    runs=runs_of,
    run=run_one,
    report=report,
)
