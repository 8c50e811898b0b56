"""The fastest floating-point type for a network on this machine, measured once and stored."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from pathlib import Path

import torch

import fastops
from tracker.geometry import INSTANCE
from tracker.io.files import replacing
from tracker.network.fused import FusedNetwork
from tracker.network.model import SiamFC

CANDIDATES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
ROUNDS = 5


def cache_path() -> Path:
    """The file that stores the choices: `$XDG_CACHE_HOME/siamfc-fastops/dtypes.json`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamfc-fastops" / "dtypes.json"


def fastest_dtype(model: SiamFC, device: torch.device | str | None = None) -> torch.dtype:
    """The dtype in which three search crops pass through the network in the shortest time.

    It is float32 unless another type is at least 5 % faster. The choice is stored in `cache_path()` for each device,
    number of threads, version and network.
    """
    device = torch.device(device or next(model.parameters()).device)
    candidates = CANDIDATES.get(device.type, (torch.float32,))
    key = _key(model, device)
    remembered = _read().get(key)
    for dtype in candidates:
        if str(dtype) == remembered:
            return dtype
    seconds = {dtype: _measure(model, device, dtype) for dtype in candidates}
    best = min(seconds, key=seconds.get)
    if seconds[best] > 0.95 * seconds[torch.float32]:
        best = torch.float32
    _remember(key, str(best))
    return best


def _key(model: SiamFC, device: torch.device) -> str:
    info = fastops.build_info()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()} {info['cpu_capability']}"
    settings = " ".join(f"{k}={v}" for k, v in model.settings().items())
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {info['version']}, {settings}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")


@torch.inference_mode()
def _measure(model: SiamFC, device: torch.device, dtype: torch.dtype) -> float:
    network = FusedNetwork(model, device=device, dtype=dtype)
    crops = torch.zeros((3, 3, INSTANCE, INSTANCE), dtype=dtype, device=device).contiguous(
        memory_format=torch.channels_last
    )
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(2 + ROUNDS):  # two to warm up
        sync()
        start = time.perf_counter()
        network.features(crops)
        sync()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def _read() -> dict[str, str]:
    try:
        choices = json.loads(cache_path().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _remember(key: str, dtype: str) -> None:
    """Store a choice. If the folder cannot be written, the next start measures again, which takes a second."""
    with contextlib.suppress(OSError, RuntimeError), replacing(cache_path()) as temporary:
        temporary.write_text(json.dumps({**_read(), key: dtype}, indent=1))
