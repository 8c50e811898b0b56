"""Cross-correlation module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastops.ops.xcorr import xcorr


class CrossCorrelation(nn.Module):
    r"""Score maps of templates in searches, $y = \mathrm{scale} \, (z \star x) + b$; see [`fastops.xcorr`][].

    Args:
        scale: factor of the correlation (SiamFC: 0.001).
        bias: learn one offset `bias`, starting at 0.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.CrossCorrelation(0.001)(torch.ones(1, 4, 6, 6), torch.ones(3, 4, 22, 22)).shape
        torch.Size([3, 1, 17, 17])
    """

    def __init__(self, scale: float = 1.0, bias: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        self.scale = scale
        self.bias = nn.Parameter(torch.zeros(1, device=device, dtype=dtype)) if bias else None

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return xcorr(z, x, self.scale, self.bias)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, bias={self.bias is not None}"
