"""Where the tests find the repository and the real sequences and weights."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Recorded sequences and published weights, which are too large for the repository; see CONTRIBUTING.md.
DATA = Path(os.environ.get("SIAMFC_DATA", ROOT.parent / "shared" / "data"))
