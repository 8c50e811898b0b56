"""The anchor-free box head of SiamFC: its layers, what they are trained to give, and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8  # pixels of the instance crop per cell of the maps
INSTANCE = 255
LOSSES = ("focal_eiou", "eiou", "ciou", "giou", "iou")
SIDE = 32.0  # distance in pixels that an output of 0 stands for: half a square target's side in the instance crop
GAMMA = 0.5  # of Focal-EIoU


class BoxOutput(NamedTuple):
    """What the box head says of every cell of the map.

    Attributes:
        score: [N, 1, 17, 17] logits: is the target's centre here.
        ltrb: [N, 4, 17, 17] distances from the cell to the left, top, right and bottom edge of the target, in pixels
            of the instance crop, positive.
    """

    score: Tensor
    ltrb: Tensor


def conv_block(inputs: int, outputs: int, kernel: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


def distances(outputs: Tensor) -> Tensor:
    """The tower's outputs as positive pixels: log(1 + e^x) / log 2 * 32.

    Near 0 it grows like an exponential, above like a line: an output far off, as in the first steps, overflows nowhere.
    """
    return F.softplus(outputs) * (SIDE / math.log(2))


class BoxHead(nn.Module):
    """Score and box of a target from depthwise cross-correlated features.

    Template and search features pass through a 1x1 convolution each, are correlated channel by channel, and go through
    two towers of 3x3 convolutions, one for the score and one for the distances to the box's edges.

    Args:
        channels: of the features.
        activation: makes the activation layers of the towers.
        xcorr: depthwise cross-correlation.
        depth: hidden convolutions of each tower.

    Source: Li et al., SiamRPN++ (depthwise correlation); Tian et al., FCOS (distances to the edges, no anchors).
    """

    def __init__(
        self,
        channels: int,
        activation: Callable[[], nn.Module],
        xcorr: Callable[[Tensor, Tensor], Tensor],
        depth: int = 2,
    ) -> None:
        super().__init__()
        hidden = max(16, channels // 2)
        self._xcorr = xcorr
        self.template, self.search = (conv_block(channels, hidden, 1, nn.Identity) for _ in range(2))

        def tower(outputs: int) -> nn.Sequential:
            last = nn.Conv2d(hidden, outputs, 3, padding=1)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
            return nn.Sequential(*(conv_block(hidden, hidden, 3, activation) for _ in range(depth)), last)

        self.score, self.box = tower(1), tower(4)

    def forward(self, z: Tensor, x: Tensor) -> BoxOutput:
        """Template features [N, C, h, w] and search features [N*S, C, H, W] to maps of N*S."""
        y = correlate(self._xcorr, self.template(z), self.search(x))
        return BoxOutput(self.score(y), distances(self.box(y)))


def correlate(xcorr: Callable[[Tensor, Tensor], Tensor], z: Tensor, x: Tensor) -> Tensor:
    """Depthwise correlation at unit variance: a sum over h w products of normalised features, over sqrt(h w)."""
    return xcorr(z * (z.shape[2] * z.shape[3]) ** -0.5, x)


# ---- training ------------------------------------------------------------------------------------------------


def cell_offsets(size: int, *, device: torch.device | None = None) -> Tensor:
    """[size] places of a map's cells in the instance crop: pixels from its middle, where the middle cell is."""
    cells = torch.arange(size, dtype=torch.float32, device=device)
    return STRIDE * (cells - (size - 1) / 2)


def boxes_of(ltrb: Tensor) -> Tensor:
    """Distances [N, 4, H, W] as boxes [N, H, W, 4], x1, y1, x2, y2 in pixels from the middle of the instance crop."""
    y, x = (cell_offsets(n, device=ltrb.device) for n in ltrb.shape[2:])
    left, top, right, bottom = ltrb.unbind(1)
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], -1)


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
    rows, columns = size
    centers = [(y1 + y2) / (2 * STRIDE) + (rows - 1) / 2, (x1 + x2) / (2 * STRIDE) + (columns - 1) / 2]
    return torch.cat(centers, 1), inside_y[:, :, None] & inside_x[:, None, :]


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
    # Imported here: the model must work where the compiled library is missing, and so must its losses.
    import fastops

    if kind not in LOSSES:
        raise ValueError(f"box_head_loss: kind must be one of {', '.join(LOSSES)}, got {kind!r}")
    if boxes.shape != (len(output.score), 4):
        raise ValueError(f"box_head_loss: boxes must be [{len(output.score)}, 4], got {list(boxes.shape)}")
    ops = fastops if fastops.load_error is None else fastops.reference
    boxes = boxes.float() - INSTANCE / 2
    centers, inside = assign(boxes, output.score.shape[2:])
    score = ops.balanced_logistic_loss(output.score, stride=float(STRIDE), centers=centers)

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
