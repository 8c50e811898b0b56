"""The CUDA kernels on the CPU, under AddressSanitizer: every op of the table through them (tests/cuda_host/run.py), and
the faults that the layer must find."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

LAYER = Path(__file__).resolve().parents[1] / "cuda_host"
sys.path.insert(0, str(LAYER))
import layer  # noqa: E402
import run  # noqa: E402

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which(layer.compiler()) is None,
    reason=f"the layer needs Linux and {layer.compiler()} with its sanitizers",
)

SHARDS = 2


@pytest.fixture(scope="module")
def built() -> tuple[Path, Path]:
    """The library of all kernels, the program of faults.cu."""
    return layer.build()


def kernels_of_the_sources() -> set[str]:
    text = "\n".join(path.read_text() for path in (layer.ROOT / "csrc" / "cuda").iterdir())
    names = re.findall(r"__global__[^{;]*?\b(\w+_kernel)\(", text)
    assert len(names) == text.count("__global__"), "a kernel's name must end in _kernel"
    return set(names)


@pytest.mark.slow
def test_every_op_through_the_cuda_kernels(built, tmp_path):
    def shard(number: int) -> subprocess.CompletedProcess:
        environment = run.environment(built[0]) | {
            "CUDA_HOST_SHARD": f"{number}/{SHARDS}",
            "CUDA_HOST_KERNELS": str(tmp_path / f"{number}.txt"),
        }
        command = run.command(["-q", "-x", *run.default_arguments()])
        return subprocess.run(command, cwd=layer.ROOT, env=environment, capture_output=True, text=True)

    with ThreadPoolExecutor(SHARDS) as pool:
        for done in pool.map(shard, range(1, SHARDS + 1)):
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
            print(done.stdout.splitlines()[-1])
    ran = {name for path in tmp_path.iterdir() for name in path.read_text().split()}
    assert ran == kernels_of_the_sources()


# fault -> what must be said about it
FAULTS = {
    "no_fault": "^0 wrong values",
    "read_past_the_end": r"heap-buffer-overflow(.|\n)*READ of size 4(.|\n)*cuda_host: in kernel .*read_past_the_end",
    "write_past_the_end": r"heap-buffer-overflow(.|\n)*WRITE of size 4(.|\n)*cuda_host: in kernel .*write_past_the_end",
    "past_a_shared_array": r"faults.cu:\d+.*(insufficient space for an object|use-after-poison)",
    "past_dynamic_shared": r"use-after-poison(.|\n)*in kernel .*past_dynamic_shared_kernel.* thread \(32, 0, 0\)",
    "misaligned": "misaligned address .* requires 16 byte alignment",
    "diverged_barrier": r"a __syncthreads .* is not reached by kernel .*diverged_barrier_kernel.* thread \(37, 0, 0\)",
    "diverged_shuffle": r"not reached by all lanes of its mask; one waits in kernel .*diverged_shuffle_kernel",
    "left_out_of_mask": r"a thread that its mask leaves out: kernel .*left_out_of_mask_kernel",
    "too_much_shared": r"a GPU refuses this launch, with 49153 bytes of shared memory: kernel .*too_much_shared_kernel",
    "missing_barrier": r"^[1-9]\d* wrong values",
    "uninitialised_shared": "^1 wrong values",
    "needs_the_whole_grid": r"^[1-9]\d* wrong values",
    "needs_the_order_of_blocks": r"^[1-9]\d* wrong values",
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_layer_finds(built, name):
    done = subprocess.run([built[1], name], capture_output=True, text=True)
    assert re.search(FAULTS[name], done.stdout + done.stderr, re.MULTILINE), done.stdout + done.stderr
    assert (done.returncode == 0) == ("wrong values" in FAULTS[name])


def test_the_product_knows_nothing_of_the_layer():
    sources = [layer.ROOT / "setup.py", *(layer.ROOT / "csrc").rglob("*.*")]
    assert [str(path) for path in sources if "cuda_host" in path.read_text().lower()] == []
