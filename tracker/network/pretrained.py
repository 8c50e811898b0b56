"""The weights of the package. Their training data and scores are in `tracker/weights/README.md`."""

from __future__ import annotations

import os
from pathlib import Path

#: Names of the weights, and of their networks in tables: the original SiamFC; SiamFC with Mish and
#: squeeze-and-excitation; the same with a head for boxes; and that with 0.35 of the channels.
PRETRAINED = {
    "siamfc-relu": "ReLU",
    "siamfc-mish-se": "Mish + SE",
    "siamfc-box": "Mish + SE, box",
    "siamfc-box-small": "Mish + SE, box, small",
}
DEFAULT = "siamfc-box"


def find_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """The path of weights: `weights` is a file, a name in `PRETRAINED`, or None for `DEFAULT`.

    Example:
        >>> find_weights("siamfc-relu").name
        'siamfc-relu.safetensors'
    """
    name = DEFAULT if weights is None else os.fspath(weights)
    if name in PRETRAINED:
        return Path(__file__).parents[1] / "weights" / f"{name}.safetensors"
    return Path(name).expanduser()
