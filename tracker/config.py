"""`TrackerConfig`, the settings of the tracker, and the checks of all settings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, NamedTuple

from tracker.geometry import CONTEXT, EXEMPLAR, INSTANCE, RESPONSE, STRIDE


class Rule(NamedTuple):
    """A rule for a setting: in words, for the error message, and as a test."""

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Rule("positive and finite", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Rule("at least 0 and finite", lambda value: 0 <= value < math.inf)
FRACTION = Rule("between 0 and 1", lambda value: 0 <= value <= 1)


def at_least(low: int) -> Rule:
    return Rule(f"at least {low}", lambda value: value >= low)


def one_of(choices: Collection[str]) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def check_settings(settings: Any, rules: Mapping[str, Rule]) -> None:
    """Check a dataclass of settings: every number is a number or an integer, as its field says, and every rule holds.

    Args:
        settings: the dataclass.
        rules: from field names, separated by spaces, to the rule for these fields.

    Raises:
        ValueError: if a rule does not hold. The message names the field, the rule and the value.
    """
    for field in fields(settings):
        value, kind = getattr(settings, field.name), {"int": Integral, "float": Real}.get(field.type)
        if kind and (isinstance(value, bool) or not isinstance(value, kind)):
            raise ValueError(f"{field.name} must be {'an integer' if kind is Integral else 'a number'}, got {value!r}")
    for names, rule in rules.items():
        for name in names.split():
            if not rule.holds(value := getattr(settings, name)):
                raise ValueError(f"{name} must be {rule.words}, got {value!r}")


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of `Tracker`; the defaults are those of SiamFC-3s.

    Sizes are in pixels. `exemplar_size` and `instance_size` are the sides of the network's two inputs. The other sizes
    must fit them: `response_size = (instance_size - exemplar_size) / total_stride + 1`.

    Args:
        exemplar_size: side of the template crop.
        instance_size: side of a search crop.
        context: margin around the target, as a fraction of (w + h).
        scale_num: number of scales searched per frame (odd).
        scale_step: ratio between neighbouring scales.
        scale_lr: how far the size moves towards the best scale, 0 to 1.
        scale_penalty: factor on the response of every scale except the middle one.
        window_influence: weight of the Hann window against the response, 0 to 1.
        box_lr: how far the size moves towards the box of a cell with full confidence, 0 to 1. This and the next two
            settings are for networks with a box head; these search one scale and ignore the five settings above.
        box_penalty: weight of changes of size and aspect ratio against the score, at least 0.
        box_window: weight of the Hann window against the score, 0 to 1.
        box_calibrate: whether boxes are corrected by the box head's result for the first frame, whose box is known; see
            `tracker.engines.calibration`.
        response_size: side of the network's score map.
        response_up: upsampling factor of the score map.
        total_stride: stride of the backbone.
        out_scale: factor on the score map of models that the tracker loads (a given model keeps its own factor).
        lost_score: a frame whose score is below this counts as a miss.
        lost_frames: number of misses in a row after which the target counts as lost.
        redetect: whether a lost target is searched for in the whole frame; see `tracker.engines.redetect`.
        redetect_score: lowest score of a target that is found again, 0 to 1.
        min_target_size: lower limit of the target's shorter side, unless the target starts smaller.
        max_target_ratio: upper limit of target side / image side, unless the target starts larger.

    Raises:
        ValueError: if a value is out of range. The message names the field.

    Example:
        >>> TrackerConfig(scale_num=5).scale_num
        5
    """

    exemplar_size: int = EXEMPLAR
    instance_size: int = INSTANCE
    context: float = CONTEXT
    scale_num: int = 3
    scale_step: float = 1.0375
    scale_lr: float = 0.59
    scale_penalty: float = 0.9745
    window_influence: float = 0.176
    box_lr: float = 0.26
    box_penalty: float = 0.83
    box_window: float = 0.39
    box_calibrate: bool = True
    response_size: int = RESPONSE
    response_up: int = 16
    total_stride: int = STRIDE
    out_scale: float = 0.001
    lost_score: float = 0.35
    lost_frames: int = 5
    redetect: bool = True
    redetect_score: float = 0.7
    min_target_size: float = 4.0
    max_target_ratio: float = 2.0

    def __post_init__(self) -> None:
        check_settings(
            self,
            {
                "exemplar_size response_size response_up total_stride lost_frames": at_least(1),
                "out_scale min_target_size max_target_ratio": POSITIVE,
                "scale_lr scale_penalty window_influence box_lr box_window lost_score redetect_score": FRACTION,
                "context box_penalty": NOT_NEGATIVE,
                "redetect box_calibrate": Rule("true or false", lambda value: isinstance(value, bool)),
                "scale_step": Rule("greater than 1 and finite", lambda value: 1 < value < math.inf),
                "scale_num": Rule("odd and at least 1", lambda value: value >= 1 and value % 2 == 1),
                "instance_size": Rule("at least exemplar_size", lambda value: value >= self.exemplar_size),
            },
        )
        expected = (self.instance_size - self.exemplar_size) / self.total_stride + 1
        words = f"(instance_size - exemplar_size) / total_stride + 1 = {expected:g}"
        check_settings(self, {"response_size": Rule(words, lambda value: value == expected)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrackerConfig:
        """Return the configuration with `values` in place of the defaults. An unknown key raises a ValueError.

        Example:
            >>> TrackerConfig.from_dict({"scale_num": 1}).scale_num
            1
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"keys must be among {', '.join(known)}, got {', '.join(unknown)}")
        return cls(**values)


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """The values of texts KEY=VALUE, for `TrackerConfig.from_dict`.

    Raises:
        ValueError: if a text has another form. The message names it.

    Example:
        >>> parse_settings(["scale_num=1", "box_lr=0.3"])
        {'scale_num': 1, 'box_lr': 0.3}
    """
    values = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            values[key] = json.loads(value)
        except ValueError:
            raise ValueError(f"settings must be KEY=VALUE with a number as the value, got {pair!r}") from None
    return values


def box_settings(config: TrackerConfig) -> dict[str, float]:
    """The settings of `fastops.box_peak`, except `unit`.

    Example:
        >>> box_settings(TrackerConfig(box_lr=0.5))["box_lr"]
        0.5
    """
    names = ("exemplar_size", "instance_size", "context", "box_lr", "box_penalty", "box_window", "lost_score")
    return {name: getattr(config, name) for name in (*names, "lost_frames")} | {"stride": config.total_stride}
