"""The settings with which a network runs in 8-bit integers. They are in the metadata of the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1  # of the format
AUC_TOLERANCE = 0.01  # largest loss of AUC with which dtype "auto" may choose int8


@dataclass(frozen=True)
class LayerLevels:
    """The settings of one convolution.

    Attributes:
        range: lowest and highest value before the activation that the 256 levels cover; None for a last layer, whose
            results are float32.
        correction: one number per channel, which is added to the bias.
    """

    range: tuple[float, float] | None
    correction: tuple[float, ...]


@dataclass(frozen=True)
class Int8Settings:
    """Ranges and corrections of a network's layers. `tracker quantize` measures them.

    Attributes:
        layers: settings by layer: "conv1" to "conv5", and for a box head "score0", ..., "box0", ...
        correlation: range of a box head's correlated features, the input of its towers; None without a box head.
        auc: success AUC on held-out sequences, under "float32" and "int8"; None if it was not measured.
    """

    layers: dict[str, LayerLevels]
    correlation: tuple[float, float] | None = None
    auc: dict[str, float] | None = None

    @property
    def keeps_accuracy(self) -> bool:
        """Whether the measured AUC of int8 is within 0.01 of that of float32."""
        return self.auc is not None and self.auc["int8"] >= self.auc["float32"] - AUC_TOLERANCE

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Int8Settings:
        """Read the result of `to_json`.

        Raises:
            ValueError: if it is something else.

        Example:
            >>> settings = Int8Settings({"conv1": LayerLevels((-1.0, 2.0), (0.5, 0.0))})
            >>> Int8Settings.from_json(settings.to_json()) == settings
            True
        """
        try:
            values = json.loads(text)
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']!r}")
            layers = {
                str(name): LayerLevels(_pair(layer["range"]), tuple(_number(value) for value in layer["correction"]))
                for name, layer in values["layers"].items()
            }
            auc = values["auc"]
            if auc is not None:
                auc = {kind: _number(auc[kind]) for kind in ("float32", "int8")}
            return cls(layers, _pair(values["correlation"]), auc)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"int8 settings must be those of version {VERSION}, got {error}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} in place of a number")
    return float(value)


def _pair(values: Any) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = map(_number, values)
    return low, high
