"""The weights that come with the package; what they learned from and how they score is told in weights/README.md."""

from __future__ import annotations

import os
from pathlib import Path

#: Names of the weights in the package, and their networks for people: the original SiamFC, and the one with Mish and
#: squeeze-and-excitation.
PRETRAINED = {"siamfc-relu": "ReLU", "siamfc-mish-se": "Mish + SE"}
DEFAULT = "siamfc-mish-se"


def find_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """Path of weights: of a file as it is, of one of `PRETRAINED` by its name, of `DEFAULT` for None.

    Example:
        >>> find_weights("siamfc-relu").name
        'siamfc-relu.safetensors'
    """
    name = DEFAULT if weights is None else os.fspath(weights)
    if name in PRETRAINED:
        return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    return Path(name).expanduser()
