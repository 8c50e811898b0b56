"""The losses of both heads: of the score map, and of the box head's score and box."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastops
from tracker.data.augment import Batch
from tracker.geometry import INSTANCE, STRIDE, cell_offsets
from tracker.network.box_head import BoxOutput, boxes_of
from tracker.training import box_losses

SCORE_LOSSES = ("balanced", "mean")
FUSED_BOX_LOSSES = ("focal_eiou", "eiou", "ciou", "diou", "giou", "iou")
BOX_LOSSES = (*FUSED_BOX_LOSSES, "focal_l1", "smooth_l1", "balanced_l1", "focal_eiou_v1", "focal_eiou_star")
GAMMA, BETA = 0.5, 0.8  # defaults of Focal-EIoU and FocalL1
RADIUS = 16.0  # cells of the score map within this distance of the target's centre are positives, in pixels


def losses_of(output: Any, batch: Batch, box_loss: str, score: str = "balanced", **options: float) -> dict[str, Tensor]:
    """The losses of a network's output, by name. Training minimises their weighted sum.

    Args:
        output: the score map, or the output of the box head.
        batch: the batch that the network got.
        box_loss: `kind` of `box_head_loss`.
        score: `kind` of `score_loss`.
        options: further arguments of `box_head_loss`.
    """
    if isinstance(output, BoxOutput):
        return box_head_loss(output, batch.box, box_loss, score, **options)
    return {"score": score_loss(output, batch.box - INSTANCE / 2, score)}


def score_loss(score: Tensor, boxes: Tensor, kind: str = "balanced") -> Tensor:
    r"""Logistic loss of score maps. The label y is +1 within 16 pixels of the target's centre, else -1.

    $$L = \frac{1}{N} \sum_n \sum_{u} w_{nu} \ln(1 + e^{-y_{nu} v_{nu}})$$

    With "balanced", both labels have half of each map's weight. With "mean", all cells have the same weight, as in
    equation 3 of Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function".

    Args:
        score: logits v, [N, 1, H, W].
        boxes: [N, 4], x1, y1, x2, y2 in pixels, relative to the middle of the instance crop.
        kind: "balanced" or "mean".

    Returns:
        The loss, a scalar.

    Example:
        >>> box = torch.tensor([[-32.0, -32.0, 32.0, 32.0]])
        >>> round(float(score_loss(torch.zeros(1, 1, 17, 17), box, "mean")), 4)
        0.6931
    """
    centers = centers_of(boxes, score.shape[2:])
    if kind == "balanced":
        return _ops().balanced_logistic_loss(score, radius=RADIUS, stride=float(STRIDE), centers=centers)
    rows, columns = (torch.arange(n, device=score.device, dtype=torch.float32) for n in score.shape[2:])
    distance = torch.hypot(rows[:, None] - centers[:, :1, None], columns - centers[:, 1:, None])  # [N, H, W]
    label = torch.where(distance * STRIDE <= RADIUS, 1.0, -1.0)
    return F.softplus(-label * score[:, 0].to(torch.promote_types(score.dtype, torch.float32))).mean()


def centers_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Row and column [N, 2] of the boxes' centres, in cells of maps of `size`.

    The boxes are [N, 4], x1, y1, x2, y2 in pixels, relative to the middle of the instance crop.
    """
    x1, y1, x2, y2 = boxes.unbind(1)
    rows, columns = size
    return torch.stack([(y1 + y2) / (2 * STRIDE) + (rows - 1) / 2, (x1 + x2) / (2 * STRIDE) + (columns - 1) / 2], 1)


def assign(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The positions of the targets on maps of `size`.

    Args:
        boxes: [N, 4], x1, y1, x2, y2 in pixels, relative to the middle of the instance crop.
        size: rows and columns of the maps.

    Returns:
        `centers` [N, 2], row and column of the target's centre in cells, for `fastops.balanced_logistic_loss`. Cells
        within 16 pixels of it are positives. `inside`, bool [N, H, W], marks the positives that are within the box.
        Boxes are only regressed in these cells: the tracker takes the box of a cell with a high score, and training
        other cells costs accuracy.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)  # [N, 1]
    y, x = (cell_offsets(n, device=boxes.device) for n in size)
    inside_y, inside_x = (y1 < y) & (y < y2), (x1 < x) & (x < x2)  # [N, H], [N, W]
    off_y, off_x = y - (y1 + y2) / 2, x - (x1 + x2) / 2
    near = torch.hypot(off_y[:, :, None], off_x[:, None, :]) <= RADIUS
    return centers_of(boxes, size), near & inside_y[:, :, None] & inside_x[:, None, :]


def box_head_loss(
    output: BoxOutput,
    boxes: Tensor,
    kind: str = "focal_eiou",
    score: str = "balanced",
    *,
    gamma: float = GAMMA,
    beta: float = BETA,
) -> dict[str, Tensor]:
    r"""Losses of the box head. Training minimises their weighted sum.

    $$L_{score} = \text{`score_loss`}, \qquad L_{box} = \frac{\sum_{u \in B} w_u L_u}{\sum_{u \in B} w_u}$$

    B are the cells within the target's box and within 16 pixels of its centre. The weight w is $\mathrm{IoU}^\gamma$
    for Focal-EIoU (equation 11 of Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression")
    and 1 for all other losses.

    Args:
        output: output of the model.
        boxes: [N, 4] float32, x1, y1, x2, y2 of the targets in pixels of the instance crop, which spans 0 to 255.
        kind: "iou", "giou", "diou", "ciou", "eiou" or "focal_eiou"; or a loss of `tracker.training.box_losses`:
            "smooth_l1", "balanced_l1", "focal_l1", "focal_eiou_v1" or "focal_eiou_star".
        score: `kind` of `score_loss`.
        gamma: exponent of "focal_eiou" and "focal_eiou_star".
        beta: beta of "focal_l1" and "focal_eiou_v1", between 1/e and 1.

    Returns:
        "score" and "box", scalars. A target without cells adds nothing to "box".

    Raises:
        ValueError: for an unknown kind, or boxes that are not [N, 4].

    Example:
        >>> output = BoxOutput(torch.zeros(1, 1, 17, 17), torch.full((1, 4, 17, 17), 32.0))
        >>> parts = box_head_loss(output, torch.tensor([[95.5, 95.5, 159.5, 159.5]]))
        >>> sorted(parts), round(float(parts["score"]), 4)
        (['box', 'score'], 0.6931)
    """
    if kind not in BOX_LOSSES:
        raise ValueError(f"kind must be one of {', '.join(BOX_LOSSES)}, got {kind!r}")
    if boxes.shape != (len(output.score), 4):
        raise ValueError(f"boxes must be [{len(output.score)}, 4], got {list(boxes.shape)}")
    ops = _ops()
    boxes = boxes.float() - INSTANCE / 2
    _, inside = assign(boxes, output.score.shape[2:])
    score_part = score_loss(output.score, boxes, score)

    # All cells are used, and those outside have a weight of 0: selecting cells would wait for the device.
    pred = boxes_of(output.ltrb.float())
    target = boxes[:, None, None].expand_as(pred)
    weight = inside.float()
    if kind not in FUSED_BOX_LOSSES:
        options = {"gamma": gamma} if kind == "focal_eiou_star" else {"beta": beta} if "focal" in kind else {}
        losses = getattr(box_losses, kind)(pred, target, **options)
        return {"score": score_part, "box": (weight * losses).sum() / weight.sum().clamp(min=1e-2)}
    if kind == "focal_eiou":
        weight = weight * (1 - ops.iou_loss(pred.detach(), target, reduction="none")).pow(gamma)
        kind = "eiou"
    losses = getattr(ops, f"{kind}_loss")(pred, target, reduction="none")
    # The lower bound of the sum is one cell with an IoU of 1e-4. So without weights the loss is 0 and not NaN.
    return {"score": score_part, "box": (weight * losses).sum() / weight.sum().clamp(min=1e-2)}


def _ops():
    """The fused ops, or the reference implementations if the compiled library is missing."""
    return fastops if fastops.load_error is None else fastops.reference
