"""The Triton implementation of box_peak against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_box_peak import CASES, DEFAULTS, assert_tracks_as_the_reference, maps_of, random_targets
from tests.ops.test_response import each_dtype, targets

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="the triton package is not installed")
if DEVICE == "cpu":
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sigmoid, InterpretedFunction):
        pytest.skip("no GPU, and triton was imported without its interpreter before", allow_module_level=True)

import fastops  # noqa: E402
from fastops import reference  # noqa: E402
from fastops.triton.box_peak import OPS  # noqa: E402


def run(scores, ltrb, state, **settings):
    return OPS["box_peak_"](scores, ltrb, state, *(reference.box_peak.__kwdefaults__ | settings).values())


@pytest.mark.parametrize("case", CASES)
@each_dtype
def test_tracks_as_the_reference(dtype, case):
    assert_tracks_as_the_reference(run, case, dtype, DEVICE)


def test_equal_cells_give_the_first():
    scores, ltrb = torch.zeros(1, 1, 40, 30, device=DEVICE), torch.full((1, 4, 40, 30), 16.0, device=DEVICE)
    scores[0, 0, 2, 5] = scores[0, 0, 30, 1] = scores[0, 0, 39, 29] = 1  # in each of three blocks
    state = targets(1, DEVICE)
    run(scores, ltrb, state, box_window=0.0, stride=1)
    assert state[0, :2].tolist() == [500 + 5 - 14.5, 400 + 2 - 19.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("own_contrast", [-1, 4])
def test_maps_that_are_not_finite(value, own_contrast):
    scores, ltrb = maps_of(3, 5, 5, device=DEVICE)
    state = targets(3, DEVICE, OWN_CONTRAST=own_contrast)
    scores[1, 0, 4, 3] = ltrb[2, 3, 0, 0] = value
    before = state.clone()
    results = run(scores, ltrb, state)
    assert results[1:, :5].isnan().all() and (results[1:, 5] == 1).all()
    assert torch.equal(state[1:], before[1:])
    assert results[0].isfinite().all() and not torch.equal(state[0], before[0])


def test_channels_last():
    scores, ltrb = maps_of(2, 7, 5, device=DEVICE)
    expected_state, state = random_targets(2, DEVICE), random_targets(2, DEVICE)
    expected = run(scores, ltrb, expected_state)
    assert torch.equal(run(scores, ltrb.contiguous(memory_format=torch.channels_last), state), expected)
    assert torch.equal(state, expected_state)


def test_as_a_backend():
    """Through the dispatcher, with its checks."""
    maps, state, expected_state = maps_of(2, 5, 5, device=DEVICE), targets(2, DEVICE), targets(2, DEVICE)
    expected = run(*maps, expected_state)
    with fastops.set_backend("triton", "box_peak"):
        assert torch.equal(fastops.box_peak(*maps, state), expected)
        with pytest.raises(RuntimeError, match="box_peak: stride must be at least 1, got 0"):
            fastops.box_peak(*maps, state, stride=0)
    assert torch.equal(state, expected_state)


def test_no_targets():
    assert OPS["box_peak_"](*maps_of(0, device=DEVICE), targets(0, DEVICE), *DEFAULTS).shape == (0, 6)
