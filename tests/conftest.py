"""Fixtures of all tests; for the op tests devices, and errors that kernel and fake kernel must raise alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import DATA, MISSING, ROOT, WEIGHTS

# Set before torch loads OpenMP: on a busy machine, spinning threads make small samples six times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

# Set before torch.compile's modules load triton: without a GPU, test_triton.py uses Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._pytree import tree_map_only  # noqa: E402

# By default cuDNN multiplies float32 convolutions in TF32, of 11 bits, which no tolerance for float32 allows.
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.cuda))


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _threads():
    """A test may change the number of threads."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


def _raises(op: Callable, args: tuple, message: str) -> None:
    pattern = f"^{re.escape(message)}(\n|$)"
    with pytest.raises(RuntimeError, match=pattern):
        op(*args)
    with FakeTensorMode() as mode, pytest.raises(RuntimeError, match=pattern):
        op(*tree_map_only(Tensor, mode.from_tensor, args))


@pytest.fixture
def raises_everywhere() -> Callable[[Callable, tuple, str], None]:
    """Checks that op(*args) raises RuntimeError with exactly this message, eagerly and in FakeTensorMode."""
    return _raises


RUN_SELECTED = """
import sys, pytest, fastops
capability, file, selection = sys.argv[1:]
assert fastops.build_info()["cpu_capability"] == capability, fastops.build_info()["cpu_capability"]
sys.exit(pytest.main([file, "-q", "-x", "-p", "no:cacheprovider", "-m", "not cuda", "-k", selection]))
"""


def _run_with_instruction_set(capability: str, file: str, selection: str) -> None:
    import fastops

    order = ["baseline", "avx2", "avx512"]
    here = fastops.build_info()["cpu_capability"]
    if order.index(here) <= order.index(capability):
        pytest.skip(f"the instruction set in use is already {here}")
    path = Path(file).resolve()
    environment = dict(os.environ, FASTOPS_CPU_CAPABILITY=capability, OMP_NUM_THREADS="1")
    run = subprocess.run(
        [sys.executable, "-c", RUN_SELECTED, capability, str(path), selection],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.fixture
def run_with_instruction_set() -> Callable[[str, str, str], None]:
    """Runs selected tests of a file in a process whose CPU kernels use a lower instruction set."""
    return _run_with_instruction_set


@pytest.fixture(scope="module")
def one_thread():
    """One thread: for small networks on shared cores, a second thread mostly waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sequences and published weights; without it the test is skipped."""
    if not (WEIGHTS.is_file() and (DATA / "sequences").is_dir()):
        pytest.skip(MISSING)
    return DATA
