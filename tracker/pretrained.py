"""The weights that come with the package; what they learned from and how they score is told in weights/README.md."""

from __future__ import annotations

import os
from pathlib import Path

#: Names of the weights in the package, the default first.
PRETRAINED = ("siamfc-mish-se", "siamfc-relu")


def find_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """Path of weights: of a file as it is, of one of `PRETRAINED` by its name, of the first of them for None.

    Example:
        >>> find_weights("siamfc-relu").name
        'siamfc-relu.safetensors'
    """
    name = PRETRAINED[0] if weights is None else os.fspath(weights)
    if name in PRETRAINED:
        return Path(__file__).parent / "weights" / f"{name}.safetensors"
    return Path(name)
