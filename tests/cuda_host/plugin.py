"""pytest plugin of run.py: the CUDA kernels, built for the CPU, replace the CPU kernels."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest

LIBRARY = os.environ["CUDA_HOST_LIBRARY"]
#: "1/2" runs every second test, from the first.
SHARD = os.environ.get("CUDA_HOST_SHARD", "1/1")
#: The names of the kernels that ran are written to this file.
KERNELS = os.environ.get("CUDA_HOST_KERNELS")


def pytest_configure(config: pytest.Config) -> None:
    import torch

    import fastops  # noqa: F401  # its CPU kernels come first, so that these take their place

    torch.ops.load_library(LIBRARY)
    # New memory is NaN, so values that a kernel does not write are NaN.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first, step = map(int, SHARD.split("/"))
    items[:] = items[first - 1 :: step]


def kernels() -> set[str]:
    """The names of the kernels launched so far, without namespaces and template arguments."""
    function = ctypes.CDLL(LIBRARY).cuda_host_kernels
    function.restype = ctypes.c_size_t
    text = ctypes.create_string_buffer(function(None, ctypes.c_size_t(0)))
    function(text, ctypes.c_size_t(len(text)))
    return {match[1] for line in text.value.decode().splitlines() if (match := re.search(r"(\w+_kernel)\b", line))}


def pytest_sessionfinish() -> None:
    if KERNELS:
        Path(KERNELS).write_text("\n".join(sorted(kernels())) + "\n")
