"""Reading and writing weights; never by running a pickle."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tracker.io.files import write_whole
from tracker.network.model import BASE_CHANNELS, CHANNEL_MULTIPLE, SiamFC

_PREFIXES = ("module.", "net.")
_WRAPPERS = ("state_dict", "model")
_SETTINGS = {"activation": str, "attention": str, "head": str, "width": float, "se_reduction": int}


def _read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing file, got {path}")
    metadata: dict[str, str] = {}
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                state, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"path must be a safetensors file, got {path} ({error})") from error
    elif path.suffix in (".pth", ".pt"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the file is, where it is none: the error tells
                state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # pickle raises whatever it stumbles over
            # Not torch's own words: they advise to load it all the same, which may run what is in the file.
            raise ValueError(f"path must be a file of plain weights, got {path}") from error
    else:
        raise ValueError(f"path must end in .pth, .pt or .safetensors, got {path}")
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not (isinstance(state, dict) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"path must hold a dictionary of tensors, got {path}")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, metadata


def load_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from .pth or .pt (weights only) or .safetensors, on the CPU.

    A dictionary kept under "state_dict" or "model" is unwrapped; a prefix "module." or "net." on every key is removed.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not a dictionary of tensors, or would need a pickle to be run.
    """
    return _read(path)[0]


def save_state(model: SiamFC, path: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write the model's weights and settings as safetensors; the file appears whole or not at all.

    Args:
        model: stays as it is.
        path: of the file.
        dtype: what floating-point weights are rounded to, such as torch.float16; None keeps theirs. `load_model`
            gives a float32 network of either.

    Raises:
        ValueError: when the name does not end in .safetensors, or a weight overflows in `dtype`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_state(SiamFC("mish", width=0.25, ops="reference"), f"{folder}/net.safetensors")
        ...     load_model(f"{folder}/net.safetensors", ops="reference").activation
        'mish'
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if dtype is not None:
        wide, state = state, {key: v.to(dtype) if v.is_floating_point() else v for key, v in state.items()}
        if bad := [key for key in state if wide[key].isfinite().all() and not state[key].isfinite().all()]:
            raise ValueError(f"dtype must hold all weights, got {dtype}, in which {_some(bad)} overflow")
    metadata = {"format": "pt", **{key: str(value) for key, value in model.settings().items()}}
    write_whole(path, save(state, metadata))


def _settings_from_keys(state: dict[str, Tensor], path: str | PathLike[str]) -> dict[str, str | float | int]:
    """Infer what keys and shapes tell: width, attention, head. They do not tell the activation, taken as ReLU."""
    try:
        channels = [state[f"backbone.conv{i}.0.weight"].shape[0] for i in range(1, 6)]
    except KeyError as error:
        raise ValueError(f"weights must have the key {error}, got {_some(state)} in {path}") from error
    # Each layer allows the widths that round to its channel count; the model's width is one that all layers allow.
    half = CHANNEL_MULTIPLE / 2
    low = max((c - half) / base for c, base in zip(channels, BASE_CHANNELS, strict=True))
    high = min((c + half) / base for c, base in zip(channels, BASE_CHANNELS, strict=True))
    settings: dict[str, str | float | int] = {"width": round((low + high) / 2, 6)}
    if "attention.w1" in state:
        hidden, features = state["attention.w1"].shape
        settings |= {"attention": "se", "se_reduction": features // hidden}
    if "box_head.search.0.weight" in state:
        settings["head"] = "box"
    return settings


def _some(keys: Iterable[str], limit: int = 6) -> str:
    names = sorted(keys)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def load_model(
    path: str | PathLike[str],
    *,
    activation: str | None = None,
    ops: str = "fastops",
    out_scale: float = 0.001,
) -> SiamFC:
    """Build the variant of `SiamFC` that a checkpoint holds, load it strictly and put it in eval mode.

    The variant comes from the metadata that `save_state` writes; without it, width, attention and head come from keys
    and shapes, and the activation, which leaves no trace in them, is ReLU unless `activation` says otherwise.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is not plain weights, or keys or shapes do not match; the message names them.
    """
    state, metadata = _read(path)
    if "activation" in metadata:
        settings = {key: kind(metadata[key]) for key, kind in _SETTINGS.items() if key in metadata}
    else:
        settings = _settings_from_keys(state, path)
    if activation is not None:
        settings["activation"] = activation
    model = SiamFC(**settings, out_scale=out_scale, ops=ops)
    wanted = model.state_dict()
    problems = []
    if missing := wanted.keys() - state.keys():
        problems.append(f"missing {_some(missing)}")
    if extra := state.keys() - wanted.keys():
        problems.append(f"unexpected {_some(extra)}")
    shapes = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if shapes:
        problems.append(f"other shapes for {_some(shapes)}")
    if problems:
        raise ValueError(f"keys must match the network, got {'; '.join(problems)} in {path}")
    model.load_state_dict(state, strict=True)
    return model.eval()
