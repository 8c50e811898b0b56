"""Paths of the repository, and of real sequences and weights, which are not part of it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SIAMFC_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights/siamfc3s_color_pretrained_deq_alexnetv1.pth"
MISSING = (
    f"needs real sequences and weights, and {DATA} has none: SIAMFC_DATA must name a folder with them "
    "(CONTRIBUTING.md, Real sequences)"
)
