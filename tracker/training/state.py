"""Checkpoints of a training run. They contain everything that a run needs to continue, and are never incomplete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tracker.io.files import write_whole

_NAME = re.compile(r"step-(\d{9})\.safetensors")


class TrainState:
    """The state of training: weights, optimizer, scaler, random numbers, and the steps done.

    Args:
        model: the network whose weights are saved, not a wrapper of it.
        optimizer: the optimizer of its parameters.
        scaler: the scaler of float16 training; a disabled one has no state.

    Attributes:
        step: number of steps done.
        progress: further values that a run needs to continue, as JSON: the pairs per epoch, the best validation so far.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.step = 0
        self.progress: dict[str, Any] = {}

    def to_bytes(self) -> bytes:
        """Write the state as one safetensors file, with tensors by name and all other values as JSON in its header."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        values: dict[str, dict[str, Any]] = {}
        for index, state in optimizer["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    values.setdefault(str(index), {})[name] = value
        # The loop does not draw from torch's generators. A model that does (dropout) continues with the same numbers.
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        header = {
            "step": self.step,
            "progress": self.progress,
            "optimizer_values": values,
            "optimizer_groups": optimizer["param_groups"],
            "scaler": self.scaler.state_dict(),
        }
        # Contiguous copies, because safetensors stores no strides and tensors may share storage.
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        return save(copies, {"state": json.dumps(header, sort_keys=True)})

    def load(self, path: Path) -> None:
        """Load the state in `path`.

        Raises:
            ValueError: if the file is damaged or from another network or optimizer. The message names it.
        """
        tensors, header = _read(path)
        try:
            self._apply(tensors, header)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} must be of this network and optimizer, got {reason}") from error

    def _apply(self, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
        self.model.load_state_dict(_under("model.", tensors))
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in header["optimizer_values"].items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in _under("optimizer.", tensors).items():
            index, name = key.split(".", 1)
            if value.dim():  # with the strides of the parameter, like the optimizer's own states
                value = torch.empty_like(parameters[int(index)], dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": header["optimizer_groups"]})
        if header["scaler"]:
            self.scaler.load_state_dict(header["scaler"])
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.progress = header["step"], header["progress"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be a whole checkpoint of training, got {error}") from error


class Checkpoints:
    """The last checkpoints of a run, `step-000001000.safetensors` and so on, in their own folder.

    Args:
        folder: the folder, which the first checkpoint creates.
        keep: number of checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """The existing checkpoints, oldest first, without the leftovers of killed writes."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def newest(self) -> Path | None:
        """The checkpoint to continue from."""
        return max(self.paths(), default=None)

    def newest_step(self) -> int:
        """The step of the latest checkpoint; 0 if there is none."""
        newest = self.newest()
        return 0 if newest is None else int(_NAME.fullmatch(newest.name)[1])

    def save(self, state: TrainState) -> Path:
        """Write a checkpoint, then remove the oldest checkpoints beyond `keep` and the leftovers of killed writes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{state.step:09d}.safetensors"
        write_whole(path, state.to_bytes())
        for old in self.paths()[: -self.keep]:
            old.unlink()
        for left in self.folder.glob(".step-*"):
            left.unlink(missing_ok=True)
        return path
