"""What the op tests share: devices, and errors that must read the same from the kernel and the fake kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

# Before torch loads OpenMP: on a busy machine spinning threads make the small samples six times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

# Before torch.compile's modules load triton: without a GPU test_triton.py runs through the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from torch import Tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._pytree import tree_map_only  # noqa: E402

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


@pytest.fixture(scope="module")
def one_thread():
    """For small networks on shared cores: a second thread waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
