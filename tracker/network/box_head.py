"""The anchor-free box head of SiamFC: its layers, and the boxes that its maps stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker.geometry import cell_offsets

SIDE = 32.0  # distance in pixels that an output of 0 stands for: half a square target's side in the instance crop


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


def boxes_of(ltrb: Tensor) -> Tensor:
    """Distances [N, 4, H, W] as boxes [N, H, W, 4], x1, y1, x2, y2 in pixels from the middle of the instance crop."""
    y, x = (cell_offsets(n, device=ltrb.device) for n in ltrb.shape[2:])
    left, top, right, bottom = ltrb.unbind(1)
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], -1)
