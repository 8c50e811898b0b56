"""Zhang et al. (EIoU): the losses of box regression in a small detector, all else equal, by the AP of COCO."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tracker.experiments.box_loss import L1_LOSSES, LOSSES, PAPER, PAPER_COLUMNS
from tracker.experiments.boxed_images import BoxedImages, Boxes, open_boxed_images
from tracker.experiments.detector import STRIDES, Detector, detect, losses_of
from tracker.experiments.report import Row, draw_bars, write_report
from tracker.experiments.runs import Experiment, Where
from tracker.installed import install_hint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLDS = [round(0.5 + 0.05 * k, 2) for k in range(10)]  # of the IoU, whose mean COCO's AP is
#: The rate drops to a tenth after these parts of the training: 50,000, 70,000 and 80,000 of 90,000 steps.
DROPS = (5 / 9, 7 / 9, 8 / 9)
WARMUP = 20  # steps
OPTIMIZERS = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.AdamW}


@dataclass(frozen=True)
class Plan:
    """What is run: every loss from every seed.

    Args:
        losses: names of `box_loss.LOSSES`.
        seeds: each decides the start of the network, the order of the images and which are mirrored.
        weight: of a loss of the IoU against the classes' and the centerness's; the paper's is 2.5.
        l1_weight: the same of a loss of offsets; the paper's is 1.
        beta: of FocalL1 and Focal-EIoU v1.
        gamma: of Focal-EIoU and Focal-EIoU*.
        centerness: weigh the box loss by the centerness, as FCOS does and the paper's RetinaNet does not.
        steps, batch_size, lr: of the training.
        optimizer: "sgd", with momentum 0.9, or "adam", which learns more in few steps; weight decay 1e-4.
        channels: of the pyramid and the heads.
        size: images are resized to fit a square of that side, a multiple of 32.
        images, test_images: how many of the set's are used; 0 for all.
        data: `coco:ROOT` or `voc:ROOT`; "" for drawn shapes.
        workers: processes that load images.
    """

    losses: tuple[str, ...] = tuple(LOSSES)
    seeds: tuple[int, ...] = (0, 1, 2)
    weight: float = 2.5
    l1_weight: float = 1.0
    beta: float = 0.8
    gamma: float = 0.5
    centerness: bool = False
    steps: int = 300
    batch_size: int = 16
    lr: float = 3e-3
    optimizer: str = "adam"
    channels: int = 16
    size: int = 96
    images: int = 0
    test_images: int = 0
    data: str = ""
    workers: int = 0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.losses if name not in LOSSES]:
            raise ValueError(f"losses must be among {', '.join(LOSSES)}, got {unknown[0]!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.size < STRIDES[-1] or self.size % STRIDES[-1]:
            raise ValueError(f"size must be a multiple of {STRIDES[-1]}, got {self.size}")
        for field in ("steps", "batch_size", "lr"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0, got {getattr(self, field)}")


QUICK = Plan(seeds=(0,), steps=6, batch_size=4, channels=8, size=64, images=24, test_images=8)
#: Section 5.2: 90,000 steps of 16 images, rate .01. The paper's network is larger, and so are its images.
FULL = Plan(steps=90_000, lr=0.01, optimizer="sgd", channels=128, size=512, workers=8)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """A plan that trains and tests on the detection set `data`."""
    if evaluate or len(data) != 1:
        raise ValueError("--data must be one of coco:ROOT and voc:ROOT, and --eval be left out, for detection")
    return replace(plan, data=data[0])


def open_images(plan: Plan) -> tuple[BoxedImages, BoxedImages]:
    """The images that the plan names, to train on and to test on."""
    _coco()
    return open_boxed_images(plan.data, plan.size, plan.images, plan.test_images)


def _coco():
    """pycocotools: its classes COCO and COCOeval."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "detection must have pycocotools, of the extra experiments, to score: " + install_hint("experiments")
        ) from error
    return COCO, COCOeval


def runs_of(plan: Plan) -> Iterator[Row]:
    """All losses from one seed before those of the next."""
    for seed in plan.seeds:
        for loss in plan.losses:
            yield {"loss": loss, "seed": seed}


def run_one(run: Row, plan: Plan, opened: tuple[BoxedImages, BoxedImages], where: Where) -> Row:
    """Train a detector with one loss from one seed, and score it."""
    train, test = opened
    model = train_one(run["loss"], run["seed"], plan, train, where.device)
    return evaluate(model, plan, test, where.device)


class Fitted(Dataset):
    """Images that fit a square, in its upper left corner, with what they show there.

    Items are the image uint8 [3, size, size], boxes float32 [N, 4], labels int64 [N] and the factor of the size. Crowds
    and difficult objects are left out.
    """

    def __init__(self, images: BoxedImages, size: int) -> None:
        self._images, self._size = images, size

    def __len__(self) -> int:
        return self._images.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, float]:
        image, shown = self._images.load(index)
        height, width = image.shape[:2]
        factor = self._size / max(height, width)
        if factor != 1:
            sides = max(1, round(width * factor)), max(1, round(height * factor))
            image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        square = np.zeros((self._size, self._size, 3), np.uint8)
        square[: image.shape[0], : image.shape[1]] = image
        known = ~shown.ignored
        boxes, labels = torch.from_numpy(shown.boxes[known] * np.float32(factor)), torch.from_numpy(shown.labels[known])
        return torch.from_numpy(square.transpose(2, 0, 1).copy()), boxes, labels, factor


def _together(items: list[tuple]) -> tuple:
    images, *rest = zip(*items, strict=True)
    return torch.stack(images), *map(list, rest)


def rate_at(step: int, plan: Plan) -> float:
    """The learning rate of a step, the first being 0."""
    drops = sum(step >= part * plan.steps for part in DROPS)
    return plan.lr * 0.1**drops * min(1.0, (step + 1) / WARMUP)


def train_one(loss: str, seed: int, plan: Plan, images: BoxedImages, device: torch.device) -> Detector:
    """The same network, trained on the same images in the same order whatever the loss."""
    torch.manual_seed(seed)
    model = Detector(len(images.classes), plan.channels).to(device)
    optimizer = OPTIMIZERS[plan.optimizer](model.parameters(), lr=plan.lr, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    order = [torch.randperm(images.count, generator=generator)]
    while sum(map(len, order)) < plan.steps * plan.batch_size:
        order.append(torch.randperm(images.count, generator=generator))
    batches = torch.cat(order)[: plan.steps * plan.batch_size].view(plan.steps, plan.batch_size).tolist()
    mirrored = (torch.rand(plan.steps, plan.batch_size, generator=generator) < 0.5).tolist()
    loader = DataLoader(
        Fitted(images, plan.size), batch_sampler=batches, num_workers=plan.workers, collate_fn=_together
    )
    weight = plan.l1_weight if loss in L1_LOSSES else plan.weight
    options = {"centerness": plan.centerness, "gamma": plan.gamma, "beta": plan.beta}
    for step, (batch, boxes, labels, _) in enumerate(loader):
        for n, mirror in enumerate(mirrored[step]):
            if mirror:
                batch[n] = batch[n].flip(-1)
                boxes[n] = boxes[n][:, [2, 1, 0, 3]] * boxes[n].new_tensor([-1, 1, -1, 1]) + boxes[n].new_tensor(
                    [plan.size, 0, plan.size, 0]
                )
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, plan)
        shown = [(b.to(device), c.to(device)) for b, c in zip(boxes, labels, strict=True)]
        parts = losses_of(model(batch.to(device)), shown, plan.size, LOSSES[loss], **options)
        total = parts["classes"] + weight * parts["box"] + parts["centerness"]
        if not math.isfinite(total.item()):
            raise ValueError(f"lr must be smaller: with {loss} from seed {seed} the loss of step {step} is not finite")
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model.eval()


def evaluate(model: Detector, plan: Plan, images: BoxedImages, device: torch.device) -> Row:
    """AP of a detector on all images, as `average_precision`."""
    loader = DataLoader(Fitted(images, plan.size), plan.batch_size, num_workers=plan.workers, collate_fn=_together)
    found = []
    for batch, _, _, factors in loader:
        for (boxes, labels, scores), factor in zip(detect(model, batch.to(device)), factors, strict=True):
            found.append((boxes / factor, labels, scores))
    return average_precision([images.load(i)[1] for i in range(images.count)], found, len(images.classes))


def average_precision(truth: Sequence[Boxes], found: Sequence[tuple[np.ndarray, ...]], classes: int) -> Row:
    """COCO's AP in percent, by pycocotools.

    Args:
        truth: what each image shows. Ignored objects are COCO's crowds.
        found: boxes [K, 4], x1, y1, x2, y2, labels [K] and scores [K] of each image.
        classes: how many.

    Returns:
        AP, the mean over the IoU thresholds .5 to .95; AP50 and AP75, of one of them; APS, APM and APL, of objects of
        an area below 32^2, up to 96^2 and above, NaN where there are none; by_iou, the AP of each threshold.
    """
    coco, evaluator = _coco()
    annotations = []
    for image, shown in enumerate(truth):
        for (x1, y1, x2, y2), label, area, ignored in zip(
            shown.boxes.tolist(), shown.labels.tolist(), shown.areas.tolist(), shown.ignored.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(ignored),
                }
            )
    rows = [
        np.column_stack([np.full(len(boxes), image), boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores, labels])
        for image, (boxes, labels, scores) in enumerate(found)
    ]
    rows = np.concatenate([*rows, np.empty((0, 7))])
    if not len(rows):  # pycocotools cannot tell what these are
        return dict.fromkeys(PAPER_COLUMNS, 0.0) | {"by_iou": [0.0] * len(THRESHOLDS)}
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco()
        gt.dataset = {
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": annotations,
        }
        gt.createIndex()
        run = evaluator(gt, gt.loadRes(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = [100 * float(value) if value >= 0 else math.nan for value in run.stats[:6]]
    precision = run.eval["precision"][..., 0, -1]  # thresholds, recalls, classes; of all sizes, 100 boxes an image
    by_iou = [float(100 * part[part >= 0].mean()) if (part >= 0).any() else math.nan for part in precision]
    return dict(zip(PAPER_COLUMNS, values, strict=True)) | {"by_iou": by_iou}


def report(console: Console, folder: Path, rows: list[Row], plan: Plan) -> list[Row]:
    """The table of all losses, Tables 1 and 2 of the paper beside it, AP as bars and against the IoU threshold."""
    where = plan.data or f"drawn shapes, {plan.steps} steps"

    def draw(figure: Figure, table: Sequence[Row]) -> None:
        draw_bars(figure, table, "loss", "AP", f"Detection: AP of COCO on {where}")

    def beside(table: Sequence[Row]) -> list[Row]:
        ours = {row["loss"]: row for row in table}
        lines = []
        for name, values in PAPER.items():
            if name in ours:
                lines.append({"loss": name, "source": "paper"} | dict(zip(PAPER_COLUMNS, values, strict=True)))
                lines.append({"source": "here"} | {key: ours[name][key] for key in ours[name] if key != "runs"})
        return lines

    title = "Tables 1 and 2 of the paper: COCO AP of RetinaNet, beside ours"
    plots = {"by_iou": partial(_draw_by_iou, rows=rows)}
    return write_report(
        console, folder, "detection", rows, ["loss"], PAPER_COLUMNS, draw, size=(12, 4), extra={title: beside},
        plots=plots,
    )  # fmt: skip


def _draw_by_iou(figure: Figure, rows: Sequence[Row]) -> None:
    """How exact the boxes are: AP against the IoU from which a box counts, less the mean of all losses."""
    axes = figure.add_subplot()
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    curves = {loss: np.mean([row["by_iou"] for row in rows if row["loss"] == loss], 0) for loss in losses}
    mean = np.mean(list(curves.values()), 0)
    for loss, curve in curves.items():
        axes.plot(THRESHOLDS, curve - mean, label=loss, linestyle="--" if loss in L1_LOSSES else "-")
    axes.set(xlabel="a box counts from this IoU", ylabel="AP, less the mean of the losses")
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)


EXPERIMENT = Experiment(
    name="detection",
    paper="Zhang et al., Focal and efficient IOU loss for accurate bounding box regression",
    about="losses of box regression in a small anchor-free detector: AP of COCO",
    plans={"quick": QUICK, "default": Plan(), "paper": FULL},
    times={
        "quick": "half a minute on one core",
        "default": "15 minutes on one core, on drawn shapes",
        "paper": "weeks on a GPU; needs --data",
    },
    key=("loss", "seed"),
    choices=("losses", "seeds"),
    with_data=with_data,
    open=open_images,
    runs=runs_of,
    run=run_one,
    report=report,
)
