"""The anchor-free box head of SiamFC: its layers, and the conversion of its maps to boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker.geometry import cell_offsets

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


def conv_block(inputs: int, outputs: int, kernel: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
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
    """Predicts the score and the box of a target from depthwise cross-correlated features.

    Template and search features each pass through a 1x1 convolution. They are correlated channel by channel. Two towers
    of 3x3 convolutions follow: one predicts the score, the other the distances to the edges of the box.

    Args:
        channels: channels of the features.
        activation: makes an activation layer of the towers.
        xcorr: depthwise cross-correlation.
        depth: number of hidden convolutions in each tower.

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
        """Predict maps for N*S searches from template features [N, C, h, w] and search features [N*S, C, H, W]."""
        y = correlate(self._xcorr, self.template(z), self.search(x))
        return BoxOutput(self.score(y), distances(self.box(y)))


def correlate(xcorr: Callable[[Tensor, Tensor], Tensor], z: Tensor, x: Tensor) -> Tensor:
    """Depthwise correlation, divided by sqrt(h w): normalised features then give unit variance."""
    return xcorr(z * (z.shape[2] * z.shape[3]) ** -0.5, x)


def boxes_of(ltrb: Tensor) -> Tensor:
    """Convert distances [N, 4, H, W] to boxes [N, H, W, 4]: x1, y1, x2, y2 in pixels from the crop's centre."""
    y, x = (cell_offsets(n, device=ltrb.device) for n in ltrb.shape[2:])
    left, top, right, bottom = ltrb.unbind(1)
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], -1)
