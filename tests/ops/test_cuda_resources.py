"""What the compiler made of the CUDA kernels: no spills anywhere, 128-bit loads where memory is the limit."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import fastops
from tests.support import kernel_resources
from tests.support.op_samples import OPS

LIBRARY = Path(fastops.__file__).parent / "_cuda.so"

pytestmark = pytest.mark.skipif(
    not (kernel_resources.LOG.exists() and LIBRARY.exists()), reason="built without a CUDA toolkit"
)


def test_no_kernel_spills():
    kernels = kernel_resources.read()
    archs = {kernel.arch for kernel in kernels}
    assert len(archs) >= len(fastops.build_info()["cuda_archs"].split())
    names = {kernel.name for kernel in kernels}
    assert {(kernel.name, kernel.arch) for kernel in kernels} == {(name, arch) for name in names for arch in archs}
    spilling = [kernel for kernel in kernels if kernel.spills]
    assert not spilling, kernel_resources.table(spilling)


@cache
def wide_loads() -> dict[str, dict[str, int]]:
    """kernel -> instantiation -> number of its 128-bit global loads, of one architecture."""
    triton = pytest.importorskip("triton", reason="no cuobjdump: the triton package, which has one, is not installed")
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not cuobjdump.exists():
        pytest.skip("no cuobjdump in this triton package")
    archs = [re.sub(r"\D", "", a.partition("+")[0]) for a in fastops.build_info()["cuda_archs"].split()]
    arch = "90" if "90" in archs else archs[0]
    command = [cuobjdump, "-sass", "-arch", f"sm_{arch}", LIBRARY]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, *parts = re.split(r"Function : (\w+)", sass)
    names, texts = parts[::2], parts[1::2]
    found: dict[str, dict[str, int]] = {}
    for name, text in zip(kernel_resources.demangle(names), texts, strict=True):
        found.setdefault(name.partition("<")[0], {})[name] = len(re.findall(r"\bLDG\.\S*128\b", text))
    return found


STEP = {"long_sums_kernel", "step_kernel"}  # of the optimizers, which are not in the table of ops


@pytest.mark.parametrize("kernel", sorted(STEP.union(*(row.memory_bound_kernels for row in OPS.values()))))
def test_memory_bound_kernels_load_128_bits_at_once(kernel):
    """In one instantiation for each dtype: those for unaligned data cannot."""
    by_dtype: dict[str, int] = {}
    for name, count in wide_loads()[kernel].items():
        dtype = re.search(r"\b(float|double|half|bfloat16)\b", name)[1]
        by_dtype[dtype] = by_dtype.get(dtype, 0) + count
    assert set(by_dtype) == {"float", "double", "half", "bfloat16"}
    assert all(by_dtype.values()), by_dtype
