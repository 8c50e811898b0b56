"""Reads and writes weights, without ever running a pickle."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tracker.io.files import write_whole
from tracker.network.int8_settings import Int8Settings
from tracker.network.model import BASE_CHANNELS, CHANNEL_MULTIPLE, SiamFC
from tracker.network.pretrained import PRETRAINED

#: Names under which programs store the weights together with other data, and prefixes that they add to every key.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
_SETTINGS = {"activation": str, "attention": str, "head": str, "width": float, "se_reduction": int}
_BATCHES = "num_batches_tracked"


def _read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = Path(path)
    if not path.is_file():
        known = ", ".join(PRETRAINED)
        raise FileNotFoundError(f"path must be an existing file, got {path} (the package has the weights {known})")
    with path.open("rb") as file:
        start = file.read(512)
    metadata: dict[str, str] = {}
    if _is_safetensors(start):
        try:
            with safe_open(path, framework="pt") as file:
                found, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"path must be a safetensors file, got {path}, a damaged one ({error})") from error
    else:
        _refuse_no_weights(path, start)
        try:
            # Opened here, because torch would decide by the suffix of a path.
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the error below describes the file
                found = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # pickle may raise any error
            # torch's message is not used: it suggests loading the file anyway, which may run code in it.
            raise ValueError(f"path must be a file of plain weights, got {path}") from error
    return _state_in(found, path), metadata


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts with the length of a header and a header in JSON."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40


def _refuse_no_weights(path: Path, start: bytes) -> None:
    """Raise an error that describes the file if its first bytes show that it has no weights of torch."""
    text = start.lstrip().lower()
    if not start:
        what = "an empty file"
    elif start.startswith(b"version https://git-lfs"):
        what = "a git-lfs pointer in place of the file (git lfs pull fetches it)"
    elif text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        what = "a web page in place of the file (the download needs its direct address)"
    elif start.startswith(b"PK") and not zipfile.is_zipfile(path):
        what = "a truncated or damaged one"
    elif path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80")):
        raise ValueError(f"path must be a safetensors file, got {path}, which does not begin as one")
    else:
        return
    raise ValueError(f"path must be a file of plain weights, got {path}, {what}")


def _state_in(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in the content of a file, without other data and without prefixes of its keys."""
    while not _holds_tensors(found):
        inner = {key: value for key, value in found.items() if isinstance(value, dict)} if _is_named(found) else {}
        wrapper = next((name for name in _WRAPPERS if name in inner), None)
        if wrapper is None:
            states = [key for key, value in inner.items() if _holds_tensors(value)]
            wrapper = states[0] if len(states) == 1 else None
        if wrapper is None:
            keys = f" with the keys {_some(map(str, found))}" if isinstance(found, dict) and found else ""
            raise ValueError(f"path must hold a dictionary of tensors, got {path}, a {type(found).__name__}{keys}")
        found = inner[wrapper]
    state = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    while prefix := next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _is_named(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(key, str) for key in found)


def _holds_tensors(found: Any) -> bool:
    """Whether a dictionary is a state dict itself: all values that are not plain numbers are tensors."""
    if not _is_named(found):
        return False
    values = [value for value in found.values() if not isinstance(value, (int, float, str, type(None)))]
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def load_state(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict on the CPU, from a file of torch (weights only) or safetensors with any suffix.

    A dictionary under a name such as "state_dict" or "model_state_dict" is unwrapped. A prefix such as "module." of
    every key is removed. Numbers and text are skipped.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a dictionary of tensors, or if loading it would run a pickle. The message
            describes the file.
    """
    return _read(path)[0]


def save_state(model: SiamFC, path: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write the model's weights and settings as safetensors. The file appears complete or not at all.

    Args:
        model: stays as it is.
        path: of the file.
        dtype: what floating-point parameters are rounded to, such as torch.float16; None keeps theirs. The statistics
            of batch normalisation keep theirs anyway: variances of a first layer, whose inputs go up to 255, can be
            beyond float16. `load_model` gives a float32 network of either.

    Raises:
        ValueError: when the name does not end in .safetensors, or a parameter overflows in `dtype`.

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
        parameters = {key for key, value in model.named_parameters() if value.is_floating_point()}
        wide, state = state, {key: value.to(dtype) if key in parameters else value for key, value in state.items()}
        if bad := [key for key in state if wide[key].isfinite().all() and not state[key].isfinite().all()]:
            raise ValueError(f"dtype must hold all weights, got {dtype}, in which {_some(bad)} overflow")
    metadata = {"format": "pt", **{key: str(value) for key, value in model.settings().items()}}
    if model.int8 is not None:
        metadata["int8"] = model.int8.to_json()
    write_whole(path, sorted_header(save(state, metadata)))


def sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its metadata sorted by key.

    The library writes them in random order, so equal weights would give different files.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _settings_from_keys(state: dict[str, Tensor], path: str | PathLike[str]) -> dict[str, str | float | int]:
    """Infer width, attention and head from keys and shapes. They do not show the activation, so it is ReLU."""
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
    """Build the variant of `SiamFC` in a checkpoint, load it strictly and put it in eval mode.

    The variant comes from the metadata that `save_state` writes. Without metadata, width, attention and head come from
    keys and shapes. These do not show the activation: it is that of `activation`, or ReLU.

    `num_batches_tracked` of a batch norm may be missing, as in files of torch before 0.4.1.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not plain weights, weights are not floating-point, or keys or shapes do not match.
            The message names them and the nearest network.
    """
    state, metadata = _read(path)
    if "activation" in metadata:
        settings = {key: kind(metadata[key]) for key, kind in _SETTINGS.items() if key in metadata}
    else:
        settings = _settings_from_keys(state, path)
    as_measured = activation in (None, settings.get("activation"))
    if activation is not None:
        settings["activation"] = activation
    model = SiamFC(**settings, out_scale=out_scale, ops=ops).float()  # for any default dtype
    if "int8" in metadata and as_measured:
        try:
            model.int8 = Int8Settings.from_json(metadata["int8"])
        except ValueError as error:
            raise ValueError(f"{error} in {path}") from error
    wanted = model.state_dict()
    state = {key: value for key, value in wanted.items() if key.endswith(_BATCHES)} | state
    floats = [key for key, value in wanted.items() if value.is_floating_point()]
    if integers := [key for key in floats if key in state and not state[key].is_floating_point()]:
        raise ValueError(
            f"weights must be floating-point, got {state[integers[0]].dtype} for {_some(integers)} in {path}"
        )
    problems = []
    if missing := wanted.keys() - state.keys():
        problems.append(f"missing {_some(missing)}")
    if extra := state.keys() - wanted.keys():
        problems.append(f"unexpected {_some(extra)}")
    shapes = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if shapes:
        problems.append(f"other shapes for {_some(shapes)}")
    if problems:
        nearest = ", ".join(f"{name}={value!r}" for name, value in model.settings().items())
        raise ValueError(
            f"keys must match the network, got {'; '.join(problems)} in {path}; "
            f"the nearest network is SiamFC({nearest})"
        )
    model.load_state_dict(state, strict=True)
    return model.eval()
