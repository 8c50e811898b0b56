"""Settings of the tracker, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of `Tracker`; the defaults are those of SiamFC-3s.

    Sizes are in pixels. `exemplar_size` and `instance_size` are the sides of the network's two inputs; the rest of the
    geometry must fit them: ``response_size = (instance_size - exemplar_size) / total_stride + 1``.

    Args:
        exemplar_size: side of the template crop.
        instance_size: side of a search crop.
        context: margin around the target, as a part of (w + h).
        scale_num: number of scales searched per frame (odd).
        scale_step: ratio between neighbouring scales.
        scale_lr: how far the size moves towards the best scale, 0 to 1.
        scale_penalty: factor on the response of every scale but the middle one.
        window_influence: weight of the Hann window against the response, 0 to 1.
        box_lr: how far the size moves towards the box of a sure cell, 0 to 1; this and the next two are for networks
            with a box head, which search one scale and use none of the five above.
        box_penalty: weight of changes of size and aspect ratio against the score, at least 0.
        box_window: weight of the Hann window against the score, 0 to 1.
        response_size: side of the network's score map.
        response_up: upsampling factor of the score map.
        total_stride: stride of the backbone.
        out_scale: factor on the score map of models the tracker loads itself (a model passed in keeps its own).
        lost_score: a frame whose score is below this counts as a miss.
        lost_frames: number of misses in a row from which the target counts as lost.
        min_target_size: lower limit of the target's shorter side, unless the target starts smaller.
        max_target_ratio: upper limit of target side over image side, unless the target starts larger.

    Raises:
        ValueError: when a value is out of its range; the message names the field.

    Example:
        >>> TrackerConfig(scale_num=5).scale_num
        5
    """

    exemplar_size: int = 127
    instance_size: int = 255
    context: float = 0.5
    scale_num: int = 3
    scale_step: float = 1.0375
    scale_lr: float = 0.59
    scale_penalty: float = 0.9745
    window_influence: float = 0.176
    box_lr: float = 0.4
    box_penalty: float = 0.1
    box_window: float = 0.3
    response_size: int = 17
    response_up: int = 16
    total_stride: int = 8
    out_scale: float = 0.001
    lost_score: float = 0.35
    lost_frames: int = 5
    min_target_size: float = 4.0
    max_target_ratio: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), Integral if field.type == "int" else Real
            if isinstance(value, bool) or not isinstance(value, kind):
                word = "an integer" if kind is Integral else "a number"
                raise ValueError(f"TrackerConfig: {field.name} must be {word}, got {value!r}")
        for name in ("exemplar_size", "response_size", "response_up", "total_stride", "lost_frames"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("out_scale", "min_target_size", "max_target_ratio"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "positive and finite")
        for name in ("scale_lr", "scale_penalty", "window_influence", "box_lr", "box_window", "lost_score"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("context", "box_penalty"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "at least 0 and finite")
        self._require("scale_step", 1 < self.scale_step < float("inf"), "greater than 1 and finite")
        self._require("scale_num", self.scale_num >= 1 and self.scale_num % 2 == 1, "odd and at least 1")
        self._require("instance_size", self.instance_size >= self.exemplar_size, "at least exemplar_size")
        expected = (self.instance_size - self.exemplar_size) / self.total_stride + 1
        self._require(
            "response_size",
            self.response_size == expected,
            f"(instance_size - exemplar_size) / total_stride + 1 = {expected:g}",
        )

    def _require(self, name: str, ok: bool, rule: str) -> None:
        if not ok:
            raise ValueError(f"TrackerConfig: {name} must be {rule}, got {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrackerConfig:
        """Return the configuration with `values` in place of the defaults; an unknown key is a ValueError.

        Example:
            >>> TrackerConfig.from_dict({"scale_num": 1}).scale_num
            1
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"TrackerConfig: keys must be among {', '.join(known)}, got {', '.join(unknown)}")
        return cls(**values)


def box_settings(config: TrackerConfig) -> dict[str, float]:
    """The settings of `fastops.box_peak`, except `unit`.

    Example:
        >>> box_settings(TrackerConfig(box_lr=0.5))["box_lr"]
        0.5
    """
    names = ("exemplar_size", "instance_size", "context", "box_lr", "box_penalty", "box_window", "lost_score")
    return {name: getattr(config, name) for name in (*names, "lost_frames")} | {"stride": config.total_stride}
