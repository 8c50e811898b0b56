"""The Triton kernels of gradient centralization and the optimizer steps against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_centralize import CENTRALIZED, REFERENCE, STEPS, TENSORS, make, run_step, step_lists

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="the triton package is not installed")
if DEVICE == "cpu":
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sigmoid, InterpretedFunction):
        pytest.skip("no GPU, and triton was imported without its interpreter before", allow_module_level=True)

from fastops.triton.centralize import OPS  # noqa: E402

# Of the relative L2 error. The interpreter truncates to bfloat16 where a GPU rounds.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 6e-3}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))


def assert_close(tensors, expected) -> None:
    for t, e in zip(tensors, expected, strict=True):
        error = (t.double() - e.double()).norm() / e.double().norm().clamp_min(1e-6)
        assert error <= TOLERANCE[t.dtype], f"of shape {list(t.shape)}: relative L2 error {error:.2e}"


@each_dtype
def test_centralize(dtype):
    tensors, channels = make(CENTRALIZED, dtype, DEVICE)
    expected = [t.double() for t in tensors]
    REFERENCE["centralize_"](expected, channels)
    OPS["centralize_"](tensors, channels)
    assert_close(tensors, expected)


@each_dtype
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("scaled", [False, True])
def test_step(kind, scaled, dtype):
    lists, channels = step_lists(kind, TENSORS, dtype, DEVICE)
    expected = [[t.double() for t in tensors] for tensors in lists[:5]] + [[t.clone() for t in lists[-1]]]
    expected = expected[: len(lists)]
    scalars = {}
    if scaled:
        scalars = {"lr_tensor": torch.tensor(0.1), "grad_scale": torch.tensor(4.0), "found_inf": torch.tensor([0.0])}
        scalars = {name: t.to(DEVICE) for name, t in scalars.items()}
    run_step(kind, expected, channels, REFERENCE, **scalars)
    run_step(kind, lists, channels, OPS, **scalars)
    for tensors, wanted in zip(lists, expected, strict=True):
        assert_close(tensors, wanted)


@pytest.mark.parametrize("kind", STEPS)
def test_found_inf_leaves_everything_as_it_was(kind):
    lists, channels = step_lists(kind, ["conv", "sliced", "bias", "empty"], torch.float32, DEVICE)
    before = [[t.clone() for t in tensors] for tensors in lists]
    run_step(kind, lists, channels, OPS, found_inf=torch.ones((), device=DEVICE))
    for tensors, wanted in zip(lists, before, strict=True):
        assert all(torch.equal(t, e) for t, e in zip(tensors, wanted, strict=True))


def test_empty_lists():
    OPS["centralize_"]([], [])
    OPS["centralize_"](*make(["empty_inputs"], torch.float32, DEVICE))
    run_step("sgd", [[], [], []], [], OPS)
    run_step("adamw", [[], [], [], [], [], []], [], OPS)


def test_gradients_of_another_layout():
    (weight,), _ = make(["channels_last"], torch.float32, DEVICE)
    plain = weight.clone()
    grad = weight.detach().contiguous()
    run_step("sgd", [[weight], [grad], []], [0], OPS)
    run_step("sgd", [[plain], [grad], []], [0], REFERENCE)
    assert_close([weight], [plain])
