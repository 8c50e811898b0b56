"""The geometry of SiamFC, shared by crops, network, labels and tracker.

The network gets two squares around a target: the exemplar, which is the template, and the instance, which is searched.
Both have the same scale, at which the target with its context fills the exemplar.

Source: Bertinetto et al., Fully-Convolutional Siamese Networks for Object Tracking, section 3.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

EXEMPLAR = 127  # side of the template crop in pixels
INSTANCE = 255  # side of the search crop in pixels
STRIDE = 8  # pixels of the instance crop per cell of the network's maps
CONTEXT = 0.5  # margin around the target, as a fraction of w + h
RESPONSE = (INSTANCE - EXEMPLAR) // STRIDE + 1  # side of the network's maps in cells

Side = TypeVar("Side", float, np.ndarray, Tensor)


def region_side(w: Side, h: Side, context: float = CONTEXT) -> Side:
    r"""Side of the square around a target of w x h and its context.

    $$
    \sqrt{(w + p)(h + p)}, \quad p = \text{context} \, (w + h)
    $$

    Example:
        >>> float(region_side(60.0, 40.0)) == (110 * 90) ** 0.5
        True
    """
    margin = context * (w + h)
    area = (w + margin) * (h + margin)
    return area.sqrt() if isinstance(area, Tensor) else np.sqrt(area)


def cell_offsets(size: int, *, device: torch.device | None = None) -> Tensor:
    """Positions [size] of a map's cells in the instance crop, in pixels from its centre."""
    cells = torch.arange(size, dtype=torch.float32, device=device)
    return STRIDE * (cells - (size - 1) / 2)
