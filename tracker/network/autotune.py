"""The fastest dtype for a network on this machine, and the fastest form of its grouped convolutions on a GPU: measured
once and stored."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
import warnings
from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch

import fastops
from tracker.geometry import INSTANCE
from tracker.io.files import replacing
from tracker.network.capture import capture
from tracker.network.fused import FusedNetwork
from tracker.network.model import SiamFC
from tracker.network.quantized import QuantizedNetwork

CANDIDATES = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.float32, torch.bfloat16, torch.float16)}
ROUNDS = 5


def cache_path() -> Path:
    """The file that stores the choices: `$XDG_CACHE_HOME/siamfc-fastops/dtypes.json`, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamfc-fastops" / "dtypes.json"


def fastest_dtype(model: SiamFC, device: torch.device | str | None = None) -> torch.dtype:
    """The dtype in which three search crops pass through the network in the shortest time.

    float32 stays unless another type is at least 5 % faster. int8 is tried if the weights have settings for it, their
    measured AUC is within 0.01 of float32, and the CPU has instructions for it. The choice is stored in `cache_path()`,
    by device, number of threads, versions and network.
    """
    device = torch.device(device or next(model.parameters()).device)
    candidates = CANDIDATES.get(device.type, (torch.float32,))
    if device.type == "cpu" and model.int8 is not None and model.int8.keeps_accuracy and _int8_is_fast():
        candidates = (*candidates, torch.int8)
    key = f"{_key(model, device)}, {' '.join(str(t) for t in candidates)}"
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


def dense_convolutions(model: SiamFC, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """The grouped convolutions of the backbone that are faster in one group, with weights of zero across the groups.

    cuDNN may have no kernel for tensor cores that runs groups. A convolution stays grouped unless three search crops
    pass through the network in 2 % less time without. The choice is kept as that of `fastest_dtype`.
    """
    grouped = [name for name, block in model.backbone.named_children() if block[0].groups > 1]
    key = f"{_key(model, device)}, {dtype}, dense"
    remembered = _read().get(key)
    if remembered is None:
        seconds = _measure(model, device, dtype, ())
        remembered = " ".join(name for name in grouped if _measure(model, device, dtype, [name]) < 0.98 * seconds)
        _remember(key, remembered)
    return tuple(name for name in grouped if name in remembered.split())


def make_network(
    model: SiamFC, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
) -> FusedNetwork:
    """The fused network in a dtype: a floating-point one, torch.int8 or "int8", or "auto" for the fastest.

    Raises:
        ValueError: for int8 with a network without settings for it, or on a GPU.
    """
    if dtype == "auto":
        dtype = fastest_dtype(model, device)
    first = next(model.parameters())
    device = torch.device(device or first.device)
    if dtype not in ("int8", torch.int8):
        dense = dense_convolutions(model, device, dtype or first.dtype) if device.type == "cuda" else ()
        return FusedNetwork(model, device=device, dtype=dtype, dense=dense)
    if device.type != "cpu":
        raise ValueError(f"dtype int8 must go with device cpu, got {device}")
    network = QuantizedNetwork(model)
    if not _int8_is_fast():
        name = fastops.build_info()["int8_capability"]
        warnings.warn(
            f"int8 gives the same results here but is not faster than float32: this CPU ({name}) has neither VNNI "
            "nor AMX",
            stacklevel=2,
        )
    return network


def _int8_is_fast() -> bool:
    return bool(fastops.build_info().get("int8_is_fast"))


def _key(model: SiamFC, device: torch.device) -> str:
    info = fastops.build_info()
    name = (
        f"{torch.cuda.get_device_name(device)} replayed"
        if device.type == "cuda"
        else f"{_cpu_name()} {info['cpu_capability']}"
    )
    settings = " ".join(f"{k}={v}" for k, v in model.settings().items())
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {info['version']}, {settings}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "cpu")


@torch.inference_mode()
def _measure(model: SiamFC, device: torch.device, dtype: torch.dtype, dense: Collection[str] | None = None) -> float:
    """Seconds for three search crops. `dense`: as for `FusedNetwork`; None is the fastest choice."""
    if dense is None:
        network = make_network(model, device, dtype)
    else:
        network = FusedNetwork(model, device=device, dtype=dtype, dense=dense)
    shape = 3, network.crop_channels, INSTANCE, INSTANCE
    crops = torch.zeros(shape, dtype=network.crop_dtype, device=device).contiguous(memory_format=torch.channels_last)
    run, sync = partial(network.features, crops), lambda: None
    if device.type == "cuda":  # as the tracker runs it: eager calls take as long as the host, whatever the dtype
        with torch.cuda.device(device):
            graph, _ = capture(run, torch.cuda.Stream(device))
        run, sync = graph.replay, partial(torch.cuda.synchronize, device)
    seconds = []
    for _ in range(2 + ROUNDS):  # two to warm up
        sync()
        start = time.perf_counter()
        run()
        sync()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def _read() -> dict[str, str]:
    try:
        choices = json.loads(cache_path().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _remember(key: str, choice: str) -> None:
    """Store a choice. If the folder cannot be written, the next start measures again, which takes a second."""
    with contextlib.suppress(OSError, RuntimeError), replacing(cache_path()) as temporary:
        temporary.write_text(json.dumps({**_read(), key: choice}, indent=1))
