"""The anchor-free box head of SiamFC: its layers, and the conversion of its maps to boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker.geometry import cell_offsets

SCORE_OFFSET = -4.0  # at the start; a trained score map is about 8 at the target and 1.5 on average
SIDE = 32.0  # distance in pixels for an output of 0: half the side of a square target in the instance crop


class BoxOutput(NamedTuple):
    """The box head's prediction for every cell of the map.

    Attributes:
        score: [N, 1, 17, 17] logits of the target's centre being in the cell.
        ltrb: [N, 4, 17, 17] distances from the cell to the left, top, right and bottom edge of the target, in pixels
            of the instance crop, positive.
    """

    score: Tensor
    ltrb: Tensor


def conv_block(inputs: int, outputs: int, activation: Callable[[], nn.Module], padding: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())


def distances(outputs: Tensor) -> Tensor:
    r"""Convert the tower's outputs to positive distances in pixels.

    $$
    d = 32 \frac{\ln(1 + e^x)}{\ln 2}
    $$

    It grows exponentially for negative x and linearly for positive x. So the large outputs of the first training steps
    do not overflow.
    """
    return F.softplus(outputs) * (SIDE / math.log(2))


class BoxHead(nn.Module):
    """Predicts the box of a target in every cell, in addition to SiamFC's score map.

    The score is SiamFC's score map times a learned factor plus a learned offset. A tower of convolutions instead was
    better on the training targets and worse on others: on 13 sequences that no network was trained on, the success AUC
    was .58 with a tower and .64 with the score map.

    For the box, template and search features each pass through a 3x3 convolution without padding. They are correlated
    channel by channel. A tower of 3x3 convolutions follows, which predicts the distances to the edges of the box.

    Args:
        channels: channels of the features.
        activation: makes an activation layer of the tower.
        xcorr: depthwise cross-correlation.
        depth: number of hidden convolutions in the tower.

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
        hidden = max(16, 3 * channels // 8)
        self._xcorr = xcorr
        self.score_factor = nn.Parameter(torch.ones(1))
        self.score_offset = nn.Parameter(torch.full((1,), SCORE_OFFSET))
        self.template, self.search = (conv_block(channels, hidden, nn.Identity, padding=0) for _ in range(2))
        last = nn.Conv2d(hidden, 4, 3, padding=1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.box = nn.Sequential(*(conv_block(hidden, hidden, activation) for _ in range(depth)), last)

    def forward(self, z: Tensor, x: Tensor, score_map: Tensor) -> BoxOutput:
        """Predict maps for N*S searches.

        Args:
            z, x: template features [N, C, h, w] and search features [N*S, C, H, W].
            score_map: score map of the same features, [N*S, 1, H-h+1, W-w+1].
        """
        y = correlate(self._xcorr, self.template(z), self.search(x))
        return BoxOutput(score_map * self.score_factor + self.score_offset, distances(self.box(y)))


def correlate(xcorr: Callable[[Tensor, Tensor], Tensor], z: Tensor, x: Tensor) -> Tensor:
    """Depthwise correlation, divided by sqrt(h w): normalised features then give unit variance."""
    return xcorr(z * (z.shape[2] * z.shape[3]) ** -0.5, x)


def boxes_of(ltrb: Tensor) -> Tensor:
    """Convert distances [N, 4, H, W] to boxes [N, H, W, 4]: x1, y1, x2, y2 in pixels from the crop's centre."""
    y, x = (cell_offsets(n, device=ltrb.device) for n in ltrb.shape[2:])
    left, top, right, bottom = ltrb.unbind(1)
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], -1)
