"""The losses of both heads: the score map's, and the box head's score and box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastops
from tracker.data.augment import Batch
from tracker.geometry import INSTANCE, STRIDE, cell_offsets
from tracker.network.box_head import BoxOutput, boxes_of

BOX_LOSSES = ("focal_eiou", "eiou", "ciou", "giou", "iou")
GAMMA = 0.5  # of Focal-EIoU


def losses_of(output: Any, batch: Batch, box_loss: str) -> dict[str, Tensor]:
    """The losses of what the network gives, by name; training minimises their sum."""
    if isinstance(output, BoxOutput):
        return box_head_loss(output, batch.box, box_loss)
    return {"score": score_loss(output, batch.box - INSTANCE / 2)}


def score_loss(score: Tensor, boxes: Tensor) -> Tensor:
    """Balanced logistic loss of score maps [N, 1, H, W]; the label is 1 within 16 pixels of the target's centre.

    Args:
        score: logits.
        boxes: [N, 4], x1, y1, x2, y2 in pixels from the middle of the instance crop.
    """
    centers = centers_of(boxes, score.shape[2:])
    return _ops().balanced_logistic_loss(score, stride=float(STRIDE), centers=centers)


def centers_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Row and column of the boxes' centres in cells of maps of `size`: [N, 2] of [N, 4], x1, y1, x2, y2 in pixels from
    the middle of the instance crop."""
    x1, y1, x2, y2 = boxes.unbind(1)
    rows, columns = size
    return torch.stack([(y1 + y2) / (2 * STRIDE) + (rows - 1) / 2, (x1 + x2) / (2 * STRIDE) + (columns - 1) / 2], 1)


def assign(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the targets are on maps of `size`.

    Args:
        boxes: [N, 4], x1, y1, x2, y2 in pixels from the middle of the instance crop.
        size: rows and columns of the maps.

    Returns:
        centers [N, 2], row and column of the target's centre in cells, as `fastops.balanced_logistic_loss` takes them:
        the score is 1 within 16 pixels of it; inside bool [N, H, W], the cells within the box, where it is regressed.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)  # [N, 1]
    y, x = (cell_offsets(n, device=boxes.device) for n in size)
    inside_y, inside_x = (y1 < y) & (y < y2), (x1 < x) & (x < x2)  # [N, H], [N, W]
    return centers_of(boxes, size), inside_y[:, :, None] & inside_x[:, None, :]


def box_head_loss(output: BoxOutput, boxes: Tensor, kind: str = "focal_eiou") -> dict[str, Tensor]:
    r"""Losses of the box head; train on their sum.

    .. math:: L_{score} = \text{balanced logistic}, \qquad
        L_{box} = \frac{\sum_{u \in B} w_u L_u}{\sum_{u \in B} w_u}

    over the cells u within the target's box; w is IoU^0.5 for Focal-EIoU (paper 001, eq. 11) and 1 for the others.

    Args:
        output: what the model gives.
        boxes: [N, 4] float32, x1, y1, x2, y2 of the targets in pixels of the instance crop, which spans 0 to 255.
        kind: "focal_eiou", "eiou", "ciou", "giou" or "iou".

    Returns:
        "score" and "box", scalars. Targets without a cell add nothing to "box".

    Raises:
        ValueError: unknown kind, or boxes that are not [N, 4].

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
    score = score_loss(output.score, boxes)

    # All cells, those outside weighing nothing: picking the others out would wait for the device.
    pred = boxes_of(output.ltrb.float())
    target = boxes[:, None, None].expand_as(pred)
    weight = inside.float()
    if kind == "focal_eiou":
        weight = weight * (1 - ops.iou_loss(pred.detach(), target, reduction="none")).pow(GAMMA)
        kind = "eiou"
    losses = getattr(ops, f"{kind}_loss")(pred, target, reduction="none")
    # The least sum: one cell of IoU 1e-4, so that no weights give no loss, and not NaN.
    return {"score": score, "box": (weight * losses).sum() / weight.sum().clamp(min=1e-2)}


def _ops():
    """The fused ops, or the same in plain PyTorch where the compiled library is missing."""
    return fastops if fastops.load_error is None else fastops.reference
