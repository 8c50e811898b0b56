"""The Triton kernel of response_peak against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_response import CASES, DEFAULTS, HALF_CASES, assert_tracks_as_the_reference, randn, targets
from tests.support.op_table import DTYPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="the triton package is not installed")
if DEVICE == "cpu":
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sigmoid, InterpretedFunction):
        pytest.skip("no GPU, and triton was imported without its interpreter before", allow_module_level=True)

import fastops  # noqa: E402
import fastops.triton.response as triton_response  # noqa: E402
from fastops import reference  # noqa: E402
from fastops.triton.response import OPS  # noqa: E402


@pytest.fixture(autouse=True)
def _wide_blocks(monkeypatch):
    """The interpreter takes as long for a block of any length."""
    if DEVICE == "cpu":
        monkeypatch.setattr(triton_response, "BLOCK", 8 * triton_response.BLOCK)


def run(responses, state, **settings):
    return OPS["response_peak_"](responses, state, *(reference.response_peak.__kwdefaults__ | settings).values())


@pytest.mark.parametrize(
    "dtype, case", [(d, c) for d in DTYPES for c in CASES if d == torch.float32 or c in HALF_CASES], ids=str
)
def test_tracks_as_the_reference(dtype, case):
    assert_tracks_as_the_reference(run, case, dtype, DEVICE)


@pytest.mark.parametrize("value", [0.37, -1.1])
def test_a_constant_map_gives_the_middle_of_the_window(value):
    state = targets(1, DEVICE)
    run(torch.full((1, 1, 17, 17), value, device=DEVICE), state, stride=16)
    assert state[0, :2].tolist() == [499.5, 399.5]  # the first of its four places


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("own_contrast", [-1, 4])
def test_a_response_that_is_not_finite(value, own_contrast):
    responses, state = randn(2, 3, 5, 5, device=DEVICE), targets(2, DEVICE, OWN_CONTRAST=own_contrast)
    responses[1, 2, 4, 3] = value
    before = state.clone()
    results = run(responses, state)
    assert results[1, :5].isnan().all() and results[1, 5] == 1
    assert torch.equal(state[1], before[1])
    assert results[0].isfinite().all() and not torch.equal(state[0], before[0])


def test_as_a_backend():
    """Through the dispatcher, with its checks."""
    responses, state, expected_state = randn(2, 3, 5, 5, device=DEVICE), targets(2, DEVICE), targets(2, DEVICE)
    expected = run(responses, expected_state)
    with fastops.set_backend("triton", "response"):
        assert torch.equal(fastops.response_peak(responses, state), expected)
        with pytest.raises(RuntimeError, match="response_peak: up must be from 1 to 32, got 33"):
            fastops.response_peak(responses, state, up=33)
    assert torch.equal(state, expected_state)


def test_no_targets():
    assert OPS["response_peak_"](randn(0, 3, 5, 5, device=DEVICE), targets(0, DEVICE), *DEFAULTS).shape == (0, 6)
