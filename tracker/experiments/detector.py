"""A small anchor-free detector of one stage, after FCOS: network, targets, losses, boxes.

Source: Tian et al., "FCOS: Fully convolutional one-stage object detection", 2019.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
import fastops.nn
from tracker.training import box_losses
from tracker.training.losses import FUSED_BOX_LOSSES

STRIDES = (8, 16, 32)
REACH = 4  # strides: a level finds objects up to so far from the cell to their farthest edge; the last one all larger
RADIUS = 1.5  # strides: cells so near an object's centre, along both axes, are its own
GROUPS = 4  # of the heads' group normalisation
#: Cells less sure than that give no box; at most so many boxes enter the suppression of those that overlap by more
#: than that, and at most so many leave it.
LEAST_SCORE, CANDIDATES, OVERLAP, MOST_BOXES = 0.05, 200, 0.6, 100


class Output(NamedTuple):
    """Of each cell, all levels one after the other: class logits [N, P, C], distances to the left, top, right and
    bottom edge in pixels [N, P, 4], logits of the centerness [N, P]."""

    classes: Tensor
    ltrb: Tensor
    centerness: Tensor


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), fastops.nn.BatchNormMish2d(outputs)
    )


def _tower(channels: int) -> nn.Sequential:
    # The levels share it: batch statistics of one would not suit the others.
    layers = []
    for _ in range(2):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, channels), fastops.nn.Mish()
        ]  # fmt: skip
    return nn.Sequential(*layers)


class Detector(nn.Module):
    """Convolutions with Mish, a feature pyramid of strides 8, 16 and 32, and heads that its levels share.

    Args:
        classes: number of classes.
        channels: of the pyramid and the heads, a multiple of 4; the backbone has half as many to four times as many.

    Example:
        >>> output = Detector(3, 8)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
        >>> [tuple(part.shape) for part in output]  # 8 x 8, 4 x 4 and 2 x 2 cells
        [(1, 84, 3), (1, 84, 4), (1, 84)]
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        if channels < GROUPS or channels % GROUPS:
            raise ValueError(f"channels must be a multiple of {GROUPS}, got {channels}")
        c = channels
        self.stem = nn.Sequential(_conv(3, c // 2, 2), _conv(c // 2, c, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(_conv(a, b, 2), _conv(b, b)) for a, b in ((c, 2 * c), (2 * c, 3 * c), (3 * c, 4 * c))
        )
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, c, 1) for inputs in (2 * c, 3 * c, 4 * c))
        self.smooth = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in STRIDES)
        self.class_tower, self.box_tower = _tower(c), _tower(c)
        self.classes = nn.Conv2d(c, classes, 3, padding=1)
        self.ltrb = nn.Conv2d(c, 4, 3, padding=1)
        self.centerness = nn.Conv2d(c, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))
        for layer in (self.classes, self.ltrb, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.classes.bias, -math.log(19))  # every class has the probability .05
        nn.init.constant_(self.ltrb.bias, REACH / 2)

    def forward(self, images: Tensor) -> Output:
        """Images uint8 [N, 3, H, W], H and W multiples of 32."""
        x = self.stem(images.float() / 64 - 2)
        maps = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for k in (1, 0):
            maps[k] = maps[k] + F.interpolate(maps[k + 1], scale_factor=2.0)
        outputs = []
        for map_, smooth, scale, stride in zip(maps, self.smooth, self.scales, STRIDES, strict=True):
            map_ = smooth(map_)
            boxes = self.box_tower(map_)
            ltrb = stride * F.softplus(scale * self.ltrb(boxes))
            parts = (self.classes(self.class_tower(map_)), ltrb, self.centerness(boxes))
            outputs.append([part.flatten(2).mT for part in parts])
        classes, ltrb, centerness = (torch.cat(parts, 1) for parts in zip(*outputs, strict=True))
        return Output(classes, ltrb, centerness[..., 0])


def cells(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres [P, 2], x and y in pixels, and strides [P] of the cells of an image of `size` x `size` pixels."""
    centres, strides = [], []
    for stride in STRIDES:
        at = (torch.arange(size // stride, device=device) + 0.5) * stride
        y, x = torch.meshgrid(at, at, indexing="ij")
        centres.append(torch.stack([x, y], -1).flatten(0, 1))
        strides.append(torch.full((len(centres[-1]),), float(stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def assign(boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Which object each cell belongs to: the index [P] of its box, -1 for none.

    A cell is an object's if it lies in the box and near its centre, and if the object is of its level's size. Of
    several it is the smallest one's.

    Args:
        boxes: [N, 4], x1, y1, x2, y2.
        centres, strides: as `cells` gives them.
    """
    if len(boxes) == 0:
        return torch.full((len(centres),), -1, device=centres.device)
    ltrb = torch.cat([centres[:, None] - boxes[:, :2], boxes[:, 2:] - centres[:, None]], -1)  # [P, N, 4]
    offset = (centres[:, None] - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1)
    farthest, step = ltrb.amax(-1), strides[:, None]
    fits = (farthest <= REACH * step) | (step == STRIDES[-1])
    fits &= (farthest > REACH * step / 2) | (step == STRIDES[0])
    own = (ltrb.amin(-1) > 0) & (offset < RADIUS * step) & fits
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand_as(own).masked_fill(~own, math.inf)
    least, index = areas.min(1)
    return index.masked_fill(least == math.inf, -1)


def box_loss(
    kind: str, pred: Tensor, target: Tensor, weight: Tensor | None = None, *, gamma: float = 0.5, beta: float = 0.8
) -> Tensor:
    """The mean box loss of pairs [K, 4], weighted by `weight` [K] where it is given; 0 of no pairs.

    Focal-EIoU is divided by the sum of its own weights, as in equation 11 of Zhang et al.
    """
    if kind in FUSED_BOX_LOSSES:
        # The same functions in plain PyTorch where the compiled library is missing.
        ops = fastops if fastops.load_error is None else fastops.reference
        focal = {"gamma": gamma, "reduction": "weighted"} if kind == "focal_eiou" else {}
        return getattr(ops, f"{kind}_loss")(pred, target, weight=weight, **focal)
    options = {"gamma": gamma} if kind == "focal_eiou_star" else {"beta": beta} if "focal" in kind else {}
    losses = getattr(box_losses, kind)(pred, target, **options)
    weight = torch.ones_like(losses) if weight is None else weight
    return (weight * losses).sum() / weight.sum().clamp(min=1e-9)


def losses_of(
    output: Output,
    shown: list[tuple[Tensor, Tensor]],
    size: int,
    kind: str,
    centerness: bool = False,
    **options: float,
) -> dict[str, Tensor]:
    """The losses "classes" (focal loss of Lin et al.), "box" and "centerness" of a batch, scalars.

    Args:
        output: of the detector.
        shown: boxes [N, 4] and labels [N] of each image.
        size: side of the images in pixels.
        kind: of the box loss; a name of `tracker.training.losses.BOX_LOSSES`.
        centerness: weigh the box loss of a cell by the centerness that it should have, as FCOS does.
        options: gamma and beta of `box_loss`.
    """
    centres, strides = cells(size, output.ltrb.device)
    wanted = torch.zeros_like(output.classes)
    pred, target, logits = [], [], []
    for n, (boxes, labels) in enumerate(shown):
        index = assign(boxes, centres, strides)
        own = (index >= 0).nonzero()[:, 0]
        wanted[n, own, labels[index[own]]] = 1
        ltrb = output.ltrb[n, own]
        pred.append(torch.cat([centres[own] - ltrb[:, :2], centres[own] + ltrb[:, 2:]], 1))
        target.append(torch.cat([boxes[index[own]], centres[own]], 1))
        logits.append(output.centerness[n, own])
    pred, logits = torch.cat(pred), torch.cat(logits)
    target, at = torch.cat(target).split((4, 2), 1)
    count = max(1, len(pred))

    # alpha (1 - p)^2 for what is there, (1 - alpha) p^2 for what is not; alpha = 1/4.
    p = output.classes.sigmoid()
    factor = torch.where(wanted > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    classes = (factor * F.binary_cross_entropy_with_logits(output.classes, wanted, reduction="none")).sum() / count

    first, last = at - target[:, :2], target[:, 2:] - at
    ratio = torch.minimum(first, last) / torch.maximum(first, last)
    center = ratio.prod(1).sqrt()
    return {
        "classes": classes,
        "box": box_loss(kind, pred, target, center if centerness else None, **options),
        "centerness": F.binary_cross_entropy_with_logits(logits, center, reduction="sum") / count,
    }


@torch.inference_mode()
def detect(model: Detector, images: Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes [K, 4], x1, y1, x2, y2, labels [K] and scores [K] of each image uint8 [N, 3, S, S], the surest first."""
    size = images.shape[-1]
    output = model(images)
    centres, _ = cells(size, images.device)
    boxes = torch.cat([centres - output.ltrb[..., :2], centres + output.ltrb[..., 2:]], -1).clamp(0, size)
    scores = (output.classes.sigmoid() * output.centerness.sigmoid()[..., None]).sqrt().flatten(1)
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        best, index = image_scores.topk(min(CANDIDATES, len(image_scores)))
        index = index[best > LEAST_SCORE]
        chosen = image_boxes[index // output.classes.shape[-1]].cpu().numpy()
        labels = (index % output.classes.shape[-1]).cpu().numpy()
        values = best[: len(index)].cpu().numpy()
        corner_and_size = np.hstack([chosen[:, :2], chosen[:, 2:] - chosen[:, :2]])
        kept = cv2.dnn.NMSBoxesBatched(corner_and_size, values, labels, LEAST_SCORE, OVERLAP) if len(index) else ()
        kept = np.array(kept, np.int64)[:MOST_BOXES]
        found.append((chosen[kept], labels[kept], values[kept]))
    return found
