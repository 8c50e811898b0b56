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
def wide_accesses() -> dict[str, dict[str, dict[str, int]]]:
    """kernel -> instantiation -> numbers of its global loads (LDG) and stores (STG) of 128 bits, of its stores in all
    (stores) and of its products on tensor cores (HMMA), of one architecture."""
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
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, text in zip(kernel_resources.demangle(names), texts, strict=True):
        counts = {access: len(re.findall(rf"\b{access}\.\S*128\b", text)) for access in ("LDG", "STG")}
        counts["HMMA"] = len(re.findall(r"\bHMMA\b", text))
        counts["stores"] = len(re.findall(r"\bSTG\b", text))
        found.setdefault(name.partition("<")[0], {})[name] = counts
    return found


STEP = {"long_sums_kernel", "step_kernel"}  # of the optimizers, which are not in the table of ops


MEMORY_BOUND = sorted(STEP.union(*(row.memory_bound_kernels for row in OPS.values())))
#: They write a sum, or a value a box or map, and no more; a box of a half type is 8 bytes.
NARROW_RESULTS = {"long_sums_kernel", "balanced_logistic_loss_kernel", "box_loss_scale_kernel"}


def accesses_by_dtype(kernel: str, access: str) -> dict[str, int]:
    """How often the instantiations for each dtype load or store 128 bits: those for unaligned data cannot."""
    by_dtype: dict[str, int] = {}
    for name, counts in wide_accesses()[kernel].items():
        dtype = re.search(r"\b(float|double|half|bfloat16)\b", name)[1]
        by_dtype[dtype] = by_dtype.get(dtype, 0) + counts[access]
    return by_dtype


@pytest.mark.parametrize("access", ["LDG", "STG"])
@pytest.mark.parametrize("kernel", MEMORY_BOUND)
def test_memory_bound_kernels_move_128_bits_at_once(kernel, access):
    if access == "STG" and kernel in NARROW_RESULTS:
        pytest.skip("its results are few")
    by_dtype = accesses_by_dtype(kernel, access)
    assert set(by_dtype) == {"float", "double", "half", "bfloat16"}
    assert all(by_dtype.values()), by_dtype


#: Their instantiations for whole packs store all that they write as packs.
@pytest.mark.parametrize("kernel", ["map_pixels_kernel", "scale_pixels_kernel", "mish_max_pool2d_kernel"])
def test_packs_are_stored_whole(kernel):
    packed = {name: counts for name, counts in wide_accesses()[kernel].items() if counts["LDG"]}
    assert packed and all(counts["STG"] == counts["stores"] for counts in packed.values()), packed


def test_tensor_cores_are_used():
    """By xcorr of 16 bits, and fed by loads of 128 bits."""
    for access in ("LDG", "HMMA"):
        by_dtype = accesses_by_dtype("correlate_taps_kernel", access)
        assert set(by_dtype) == {"half", "bfloat16"} and all(by_dtype.values()), by_dtype
