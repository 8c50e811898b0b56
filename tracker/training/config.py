"""Settings of training. They are typed and checked, read from TOML and `key=value`, and saved with the run."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from tracker.config import NOT_NEGATIVE, POSITIVE, Rule, at_least, check_settings, one_of
from tracker.data.augment import AugmentConfig
from tracker.data.crops import CROP_SIZE
from tracker.data.pairs import MAX_GAP
from tracker.geometry import INSTANCE
from tracker.training.losses import BOX_LOSSES, SCORE_LOSSES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTIMIZERS = ("sgd_gc", "sgd_gcc", "adamw_gc", "adamw_gcc", "sgd", "adamw")
SCHEDULES = ("exponential", "cosine")
PRECISIONS = ("float32", "bfloat16", "float16")
#: Defaults of `load_config` for head "box". A box head must see targets away from the middle, and at sizes that differ
#: from the tracker's last estimate. Crops of 383 px are large enough for both.
BOX_HEAD = {"data": {"crop_size": 383}, "augment": {"stretch": 0.25, "shift": 48.0}}


@dataclass(frozen=True)
class ModelConfig:
    """The network and its initial weights.

    Args:
        activation, attention, head, width, se_reduction: as in `tracker.SiamFC`.
        se_bias: whether the attention's two linear layers learn a bias. Otherwise their biases stay 0, as in equation 8
            of Zhang and Wang.
        weights: checkpoint to start from; "" means a new network.
        response_deviation: initial standard deviation of a new network's responses; see
            `tracker.training.loop.scale_responses`. 0 keeps the network as it is initialised.
    """

    activation: str = "mish"
    attention: str = "se"
    head: str = "xcorr"
    width: float = 1.0
    se_reduction: int = 16
    se_bias: bool = True
    weights: str = ""
    response_deviation: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self, {"response_deviation": at_least(0)})


@dataclass(frozen=True)
class DataConfig:
    """The sources of the training pairs.

    Args:
        synthetic: number of pairs from synthetic videos per epoch; 0 for none.
        pictures: folders or patterns of pictures for these videos; see `tracker.data.pictures`.
        archives: files that `tracker prepare` wrote.
        sequences: "layout:root" or "layout:root:split", read frame by frame; see `tracker.data.datasets.open_place`.
        leave_out: names of sequences that are not used for training. They must include those of `validation`.
        stills: number of pairs per epoch of two random views of one of `pictures`; see `tracker.data.stills`.
        repeat: pairs per sequence and epoch.
        max_gap: the distance of the two frames of a pair is below this, in frames.
        crop_size: side of the crops from the frames, in pixels. The shifts and stretches of `augment` must fit into it.
            The crops of archives must have the same size.
        skip_bad: skip annotations and frames that cannot be read, with a warning, instead of stopping.
        workers: processes that load pairs; with 0 the training process does it.
    """

    synthetic: int = 4096
    pictures: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    stills: int = 0
    repeat: int = 1
    max_gap: int = MAX_GAP
    crop_size: int = CROP_SIZE
    skip_bad: bool = False
    workers: int = 2

    def __post_init__(self) -> None:
        check_settings(
            self,
            {
                "synthetic stills workers": at_least(0),
                "repeat max_gap": at_least(1),
                "crop_size": at_least(INSTANCE),
            },
        )
        if self.stills and not self.pictures:
            raise ValueError(f"stills must be 0 where there are no pictures, got {self.stills}")


@dataclass(frozen=True)
class ValidationConfig:
    """The validation during training: the mean success AUC on sequences that are not in the training data.

    Args:
        every: steps between validations. The last step has a validation too. 0 means no validation.
        synthetic: number of synthetic videos, with seeds that training never uses.
        frames: length of these videos, and the largest number of frames from each of `sequences`.
        sequences: as in `DataConfig`.
        only: names of the `sequences` to use; empty means all.
    """

    every: int = 1000
    synthetic: int = 8
    frames: int = 60
    sequences: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, {"every synthetic": at_least(0), "frames": at_least(2)})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `tracker.training.loop.train` and `tracker train`.

    Args:
        seed: decides the initial weights, the pairs, their order and their augmentation.
        epochs: number of passes over all pairs.
        steps: number of batches, which overrides `epochs`; 0 means that `epochs` decides.
        batch_size: pairs per step, of all processes together.
        optimizer: "sgd_gc" or "adamw_gc", with gradient centralization in one kernel; "sgd_gcc" or "adamw_gcc", which
            centralize only the gradients of convolutions; torch's "sgd" or "adamw".
        lr, final_lr: learning rate after the warm-up, and at the last step.
        schedule: how the learning rate falls from `lr` to `final_lr`, "exponential" or "cosine".
        warmup: number of steps in which the learning rate rises linearly to `lr`.
        backbone_lr: factor on the learning rate of backbone and attention. With 0 they are frozen, with their batch
            norms, to train a head for a trained network. A step then takes about a third of the time.
        teacher: checkpoint of a network to learn from, or the name of one in the package; "" for none. See
            `tracker.training.teacher`.
        teacher_weight: weight of the error of the features relative to the teacher's.
        teacher_map_weight: weight of the error of the score map, and of the boxes, relative to the teacher's.
        label_weight: weight of the losses for the true boxes.
        momentum: momentum of SGD.
        weight_decay: weight decay of the optimizer.
        clip: largest norm of all gradients together, above which they are scaled down; 0 means no limit.
        precision: "float32", or "bfloat16" or "float16" for torch.autocast (the latter with a GradScaler).
        score_loss: "balanced" or "mean". With "balanced", the positive and the negative cells of a score map each have
            half of the weight. "mean" is the mean over the cells, equation 3 of Zhang and Wang.
        box_loss: loss of head "box"; see `tracker.training.losses.box_head_loss`.
        box_weight: weight of the box loss relative to the score loss.
        gamma: exponent of "focal_eiou" and "focal_eiou_star".
        beta: beta of "focal_l1" and "focal_eiou_v1", between 1/e and 1.
        sync_batch_norm: compute the statistics of batch norms over the batches of all processes.
        winograd: on a CPU in float32, compute the large convolutions by Winograd's minimal filtering, which is less
            exact (1e-5); see `fastops.nn.WinogradConv2d`.
        compile: compile the network with torch.compile.
        overfit: repeat the first batch at a constant learning rate, as a test of the whole loop.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: write a checkpoint after this many minutes too; 0 means never.
        keep: number of checkpoints to keep. The weights of the best validation are kept too.
        model, data, augment, validation: settings of these parts, which are tables in the TOML file.

    Raises:
        ValueError: if a value has another type or is out of range. The message names the setting.

    Source: Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function",
    section 4.1: SGD, learning rate 1e-2 to 1e-4, weight decay 5e-4, momentum .9, batches of 8, 50 epochs.

    Example:
        >>> TrainConfig(steps=200, lr=5e-2).batch_size
        8
    """

    seed: int = 0
    epochs: int = 50
    steps: int = 0
    batch_size: int = 8
    optimizer: str = "sgd_gc"
    lr: float = 1e-2
    final_lr: float = 1e-4
    schedule: str = "exponential"
    warmup: int = 0
    backbone_lr: float = 1.0
    teacher: str = ""
    teacher_weight: float = 1.0
    teacher_map_weight: float = 0.3
    label_weight: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0
    precision: str = "float32"
    score_loss: str = "balanced"
    box_loss: str = "focal_eiou"
    box_weight: float = 1.0
    gamma: float = 0.5
    beta: float = 0.8
    sync_batch_norm: bool = True
    winograd: bool = True
    compile: bool = False
    overfit: bool = False
    checkpoint_every: int = 500
    checkpoint_minutes: float = 10.0
    keep: int = 3
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        check_settings(
            self,
            {
                "epochs batch_size lr final_lr checkpoint_every keep": POSITIVE,
                "seed steps momentum weight_decay clip warmup backbone_lr checkpoint_minutes": NOT_NEGATIVE,
                "teacher_weight teacher_map_weight label_weight box_weight gamma": NOT_NEGATIVE,
                "beta": Rule("between 1/e and 1", lambda value: 1 / math.e <= value <= 1),
                "optimizer": one_of(OPTIMIZERS),
                "schedule": one_of(SCHEDULES),
                "precision": one_of(PRECISIONS),
                "score_loss": one_of(SCORE_LOSSES),
                "box_loss": one_of(BOX_LOSSES),
            },
        )

    def total_steps(self, pairs: int) -> int:
        """The number of steps with `pairs` pairs per epoch. Pairs that do not fill a batch are skipped."""
        return self.steps or self.epochs * (pairs // self.batch_size)

    def weight_of(self, loss: str) -> float:
        """The weight of the loss `name` in the sum that training minimises."""
        if loss == "features":
            return self.teacher_weight
        if loss in ("map", "teacher_box"):
            return self.teacher_map_weight
        return self.label_weight * (self.box_weight if loss == "box" else 1.0)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate at step `step` of `steps`, counted from 1."""
        if self.overfit or steps <= 1:
            return self.lr
        if step <= self.warmup:
            return self.lr * step / self.warmup
        done = (step - 1 - self.warmup) / max(1, steps - 1 - self.warmup)
        if self.schedule == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2
        return self.lr * (self.final_lr / self.lr) ** done


# ---- reading -------------------------------------------------------------------------------------------------


def load_config(path: Path | None = None, settings: Iterable[str] = ()) -> TrainConfig:
    """Read the settings of a TOML file and override them by those in `settings`, each "key=value".

    Keys of tables are written with a dot: "model.width=0.5". A value is read as TOML, or as a string if it is not valid
    TOML: "model.activation=relu" needs no quotes. With model.head = "box", `BOX_HEAD` has the defaults.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for an unknown key, with the most similar known one, and for a value of another type or range.

    Example:
        >>> load_config(settings=["lr=0.05", "model.activation=relu"]).model.activation
        'relu'
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} must be TOML, got {error}") from error
    apply_settings(values, settings)
    if isinstance(values.get("model"), dict) and values["model"].get("head") == "box":
        for name, defaults in BOX_HEAD.items():
            if isinstance(values.setdefault(name, {}), dict):
                values[name] = defaults | values[name]
    return from_dict(TrainConfig, values)


def apply_settings(values: dict[str, Any], settings: Iterable[str]) -> None:
    """Write `settings`, each "key=value", into `values`, in the way of `load_config`.

    Raises:
        ValueError: for a setting in another form.

    Example:
        >>> values = {"lr": 1.0}
        >>> apply_settings(values, ["lr=0.05", "model.activation=relu"])
        >>> values
        {'lr': 0.05, 'model': {'activation': 'relu'}}
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"a setting must be key=value, got {setting!r}")
        *tables, name = key.strip().split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{part} must be a table to hold {key.strip()}, got {table!r}")
        table[name] = _parse(text.strip())


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def from_dict(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build the dataclass `kind`, and the dataclasses in it, from `values`. `prefix` is their table, for messages.

    Raises:
        ValueError: the same as `load_config`.
    """
    types_of = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ValueError(f"unknown setting {prefix}{key}: did you mean {prefix}{near[0]}?")
    return kind(**{key: _typed(types_of[key], value, prefix + key) for key, value in values.items()})


def _typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`. An integer becomes a float and a list a tuple if `kind` is one. Nothing else is converted."""
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{key} must be a table, got {value!r}")
        return from_dict(kind, value, f"{key}.")
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        parts = typing.get_args(kind)
        parts = [parts[0]] * len(value) if parts[-1:] == (Ellipsis,) else list(parts)
        if len(parts) == len(value):
            return tuple(_typed(part, item, key) for part, item in zip(parts, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    if isinstance(kind, types.UnionType) and any(type(value) is part for part in typing.get_args(kind)):
        return value
    name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    raise ValueError(f"{key} must be of type {name}, got {value!r}")


# ---- writing -------------------------------------------------------------------------------------------------


def to_toml(config: TrainConfig) -> str:
    """All settings as TOML that `load_config` reads back to an equal configuration."""
    lines, tables = [], []
    for name, value in _values(config):
        if is_dataclass(value):
            tables += ["", f"[{name}]", *(f"{key} = {_toml(item)}" for key, item in _values(value))]
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join([*lines, *tables, ""])


def _values(config: Any) -> list[tuple[str, Any]]:
    """Names and values. TOML has no None, so settings that are None are omitted."""
    pairs = ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    return [(name, value) for name, value in pairs if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)  # basic strings of TOML are strings of JSON
    return repr(value)
