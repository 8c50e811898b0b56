"""box_peak against plain Python and the reference; choice, state, layouts, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import fastops
from fastops import reference
from fastops.ops.response import Result, State
from tests.ops.test_response import each_dtype, randn, targets
from tracker import TrackerConfig

op = torch.ops.fastops.box_peak_.default
DEFAULTS = (8, None, 127, 255, 0.5, 0.26, 0.83, 0.39, 0.35, 5)


def maps_of(k: int, h: int = 17, w: int = 17, *, unit=None, dtype=torch.float32, device="cpu", seed=0):
    """Scores and distances of k targets; distances are pixels up to 80, or what stands for them."""
    values = randn(k, 5, h, w, seed=seed)
    edges = values[:, 1:] if unit is not None else 80 * values[:, 1:].sigmoid()
    return (2 * values[:, :1]).to(device, dtype), edges.to(device, dtype)


def random_targets(k: int, device: str = "cpu", seed: int = 1) -> Tensor:
    """Targets of many sizes and places, in the middle of their limits, at the border of the image or at a limit."""
    state, share = targets(k), torch.rand(k, 6, generator=torch.Generator().manual_seed(seed))
    state[:, State.CENTER_X], state[:, State.CENTER_Y] = share[:, 0] * 1000, share[:, 1] * 800
    sides = 4 * 200 ** share[:, 2:4]
    state[:, State.WIDTH : State.HEIGHT + 1] = sides
    context = sides.sum(1) / 2
    state[:, State.SEARCH_SIZE] = ((sides[:, 0] + context) * (sides[:, 1] + context)).sqrt() * 255 / 127
    state[:, State.OWN_CONTRAST] = 40 * share[:, 4] + 0.1
    state[:, State.MISSES] = (6 * share[:, 5]).floor()
    return state.to(device)


def in_plain_python(scores, ltrb, row, settings) -> tuple[list[float], int]:
    """The centre, sides and search size of one target, and the cell that was chosen: the equations, cell by cell."""
    o = reference.box_peak.__kwdefaults__ | settings
    cx, cy, w, h, search_size, _, _, min_side, max_w, max_h, image_w, image_h = row.tolist()
    side = max(round(search_size), 1)
    pixels = side / o["instance_size"]
    rows, columns = scores.shape

    def hann(i, n):
        return 1.0 if n == 1 else 0.5 - 0.5 * math.cos(2 * math.pi * i / (n - 1))

    def distance(x):
        return x if o["unit"] is None else o["unit"] * math.log2(1 + math.exp(x))

    def area_side(w, h):
        return math.sqrt((w + o["context"] * (w + h)) * (h + o["context"] * (w + h)))

    best, best_value = None, -math.inf
    for i in range(rows):
        for j in range(columns):
            left, top, right, bottom = (distance(x) for x in ltrb[:, i, j].tolist())
            new_w, new_h = (min(max(d * pixels, 1e-3), 1e6) for d in (left + right, top + bottom))
            size, aspect = area_side(new_w, new_h) / area_side(w, h), new_w / new_h / (w / h)
            change = max(size, 1 / size) * max(aspect, 1 / aspect)
            trust = math.exp(-o["box_penalty"] * (change - 1)) / (1 + math.exp(-scores[i, j].item()))
            value = (1 - o["box_window"]) * trust + o["box_window"] * hann(i, rows) * hann(j, columns)
            if value > best_value:
                best_value, cell = value, i * columns + j
                x = o["stride"] * (j - (columns - 1) / 2) + (right - left) / 2
                y = o["stride"] * (i - (rows - 1) / 2) + (bottom - top) / 2
                best = x, y, new_w, new_h, o["box_lr"] * trust
    x, y, new_w, new_h, rate = best
    half = (side - 1) / 2
    x, y = (round(c - half) + half + offset * pixels for c, offset in ((cx, x), (cy, y)))
    w = min(max(w + rate * (new_w - w), min_side), max_w)
    h = min(max(h + rate * (new_h - h), min_side), max_h)
    center = [min(max(x, 0), image_w - 1), min(max(y, 0), image_h - 1)]
    return [*center, w, h, area_side(w, h) * o["instance_size"] / o["exemplar_size"]], cell


# ---- the choice ----------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("settings", [{}, {"unit": 32.0, "box_penalty": 1.0, "box_window": 0.0}], ids=str)
def test_boxes_are_those_of_plain_python(settings, dtype, device):
    k = 12
    scores, ltrb = maps_of(k, 7, 5, unit=settings.get("unit"), dtype=dtype, device=device)
    state = random_targets(k, device)
    expected = [
        in_plain_python(s[0], e, row, settings)[0]
        for s, e, row in zip(scores.double().cpu(), ltrb.double().cpu(), state.double().cpu(), strict=True)
    ]
    fastops.box_peak(scores, ltrb, state, **settings)
    torch.testing.assert_close(state[:, :5].cpu(), torch.tensor(expected), rtol=3e-6, atol=2e-4)


@pytest.mark.parametrize("unit", [None, 32.0])
@pytest.mark.parametrize("penalty", [0.0, 0.1, 1.0])
def test_2000_boxes_are_those_of_the_reference(penalty, unit, device):
    """The centre tells the cell: those of two cells are pixels apart."""
    scores, ltrb = maps_of(2000, unit=unit, device=device, seed=3)
    state = random_targets(2000, device, seed=4)
    expected_state = state.clone()
    expected = reference.box_peak(scores.double(), ltrb.double(), expected_state, unit=unit, box_penalty=penalty)
    results = fastops.box_peak(scores, ltrb, state, unit=unit, box_penalty=penalty)
    torch.testing.assert_close(state, expected_state, rtol=3e-6, atol=2e-4)
    torch.testing.assert_close(results, expected, rtol=3e-6, atol=3e-4)
    assert 100 < results[:, Result.LOST].sum() < 1900


@pytest.mark.kernels
@each_dtype
def test_equal_cells_give_the_first(dtype, device):
    scores = torch.full((1, 1, 9, 9), -3.0, dtype=dtype, device=device)
    ltrb = torch.full((1, 4, 9, 9), 16.0, dtype=dtype, device=device)
    scores[0, 0, 2, 5] = scores[0, 0, 6, 1] = scores[0, 0, 7, 8] = 1
    state = targets(1, device)
    fastops.box_peak(scores, ltrb, state, box_window=0.0)
    assert state[0, :2].tolist() == [500 + 8, 400 - 16]
    scores.fill_(0)
    fastops.box_peak(scores, ltrb, state := targets(1, device), box_window=0.0)
    assert state[0, :2].tolist() == [500 - 32, 400 - 32]


@each_dtype
def test_logits_far_from_zero_give_distances(dtype, device):
    """log2(1 + e^x) is 0 to the left and a line to the right, and overflows nowhere."""
    scores = torch.full((1, 1, 1, 1), 50.0, dtype=dtype, device=device)
    for logit, pixels in ((-80.0, 0.0), (0.0, 32.0), (80.0, 80 / math.log(2) * 32)):
        ltrb = torch.full((1, 4, 1, 1), logit, dtype=dtype, device=device)
        state = targets(1, device, MAX_WIDTH=1e5, MIN_SIDE=0)
        fastops.box_peak(scores, ltrb, state, unit=32.0, box_lr=1.0, box_penalty=0.0)
        torch.testing.assert_close(state[0, State.WIDTH].item(), max(2 * pixels, 1e-3), rtol=1e-6, atol=1e-4)


def test_the_window_alone_gives_the_middle(device):
    scores, ltrb = maps_of(4, device=device)
    ltrb.fill_(20.0)
    state = targets(4, device)
    fastops.box_peak(scores, ltrb, state, box_window=1.0)
    assert state[:, :2].tolist() == [[500, 400]] * 4


# ---- against the reference -----------------------------------------------------------------------------------

CASES = {
    "siamfc": (3, 17, 17, {}),
    "logits": (3, 17, 17, {"unit": 32.0}),
    "all settings": (
        2, 9, 9,
        {"stride": 4, "unit": 10.0, "exemplar_size": 64, "instance_size": 96, "context": 0.3, "box_lr": 0.9,
         "box_penalty": 0.7, "box_window": 0.6, "lost_score": 0.8, "lost_frames": 2},
    ),
    "a cell": (2, 1, 1, {}),
    "a row": (2, 1, 6, {"unit": 20.0}),
    "two columns": (2, 5, 2, {}),
    "largest": (1, 128, 128, {"unit": 32.0}),
}  # fmt: skip


def assert_tracks_as_the_reference(run, case: str, dtype: torch.dtype, device: str) -> None:
    """Two calls, so that the second continues from the first's state, with a target in its first frame among them."""
    k, h, w, settings = CASES[case]
    state = random_targets(k, device)
    state[0, State.OWN_CONTRAST] = -1
    expected_state = state.clone()
    for seed in range(2):
        scores, ltrb = maps_of(k, h, w, unit=settings.get("unit"), dtype=dtype, device=device, seed=seed)
        expected = reference.box_peak(scores.double(), ltrb.double(), expected_state, **settings)
        torch.testing.assert_close(run(scores, ltrb, state, **settings), expected, rtol=4e-6, atol=2e-4)
        torch.testing.assert_close(state, expected_state, rtol=4e-6, atol=2e-4)


@pytest.mark.kernels
@pytest.mark.parametrize("case", CASES)
@each_dtype
def test_tracks_as_the_reference(dtype, case, device):
    assert_tracks_as_the_reference(fastops.box_peak, case, dtype, device)


def test_the_reference_as_backend(device):
    with fastops.set_backend("reference", "box_peak"):
        assert_tracks_as_the_reference(fastops.box_peak, "logits", torch.float64, device)


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_other_instruction_sets(capability, run_with_instruction_set):
    run_with_instruction_set(capability, __file__, "test_tracks or test_2000 or test_equal")


def test_the_defaults_are_the_trackers():
    cfg = TrackerConfig()
    names = (
        *("exemplar_size", "instance_size", "context", "box_lr", "box_penalty", "box_window", "lost_score"),
        "lost_frames",
    )
    assert (cfg.total_stride, None, *(getattr(cfg, name) for name in names)) == DEFAULTS
    for function in (fastops.box_peak, reference.box_peak):
        assert tuple(function.__kwdefaults__.values()) == DEFAULTS


# ---- the state -----------------------------------------------------------------------------------------------


@each_dtype
def test_first_frame(dtype, device):
    """Sets the contrast and leaves the rest, whatever the maps say."""
    scores, ltrb = maps_of(2, dtype=dtype, device=device)
    state = targets(2, device, OWN_CONTRAST=-1, MISSES=6)
    before = state.clone()
    results = fastops.box_peak(scores, ltrb, state)
    contrast = scores.double().amax((1, 2, 3)) - scores.double().mean((1, 2, 3))
    torch.testing.assert_close(state[:, State.OWN_CONTRAST], contrast.float(), rtol=1e-6, atol=0)
    state[:, State.OWN_CONTRAST] = before[:, State.OWN_CONTRAST]
    assert torch.equal(state, before)
    assert results.tolist() == [[500 - 29.5, 400 - 39.5, 60, 80, 1, 0]] * 2


def test_score_misses_and_lost(device):
    scores, ltrb = torch.zeros(1, 1, 3, 3, device=device), torch.full((1, 4, 3, 3), 32.0, device=device)
    scores[..., 1, 1] = 9  # contrast 8
    state = targets(1, device, OWN_CONTRAST=8)
    seen = []
    for scale in (1.0, 0.36, 0.34, -0.5, 2.0, 0.0, 0.0, 0.0):
        results = fastops.box_peak(scores * scale, ltrb, state, lost_frames=3)
        seen.append((round(results[0, Result.SCORE].item(), 3), int(state[0, State.MISSES]), int(results[0, -1])))
    expected = [(1, 0, 0), (0.36, 0, 0), (0.34, 1, 0), (0.062, 2, 0), (1, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 1)]
    assert seen == expected


def test_limits(device):
    """The centre stays in the image and the sides within their limits; only then is the search size set."""
    scores, ltrb = torch.full((2, 1, 17, 17), -9.0, device=device), torch.full((2, 4, 17, 17), 1.0, device=device)
    scores[0, 0, 0, 0] = scores[1, 0, 16, 16] = 9
    ltrb[1] = 500
    state = targets(2, device, IMAGE_WIDTH=100, IMAGE_HEIGHT=90, CENTER_X=50, CENTER_Y=40)
    state[:, State.MAX_WIDTH], state[:, State.MAX_HEIGHT], state[0, State.MIN_SIDE] = 90, 85, 50
    fastops.box_peak(scores, ltrb, state, box_lr=1.0, box_penalty=0.0, box_window=0.0)
    assert state[:, :4].tolist() == [[0, 0, 50, 50], [99, 89, 90, 85]]
    sizes = [math.sqrt((w + (w + h) / 2) * (h + (w + h) / 2)) * 255 / 127 for w, h in ((50, 50), (90, 85))]
    torch.testing.assert_close(state[:, State.SEARCH_SIZE].cpu(), torch.tensor(sizes))


@pytest.mark.kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("own_contrast", [-1, 4])
@pytest.mark.parametrize("unit", [None, 32.0])
def test_non_finite_maps(value, own_contrast, unit, device):
    """Of any map and in any cell: nothing changes. Only a logit of -infinity is a distance, 0."""
    scores, ltrb = maps_of(5, 5, 5, unit=unit, device=device)
    state = targets(5, device, OWN_CONTRAST=own_contrast)
    before, expected_state = state.clone(), state[:1].clone()
    expected = fastops.box_peak(scores[:1], ltrb[:1], expected_state, unit=unit)
    scores[1, 0, 0, 0] = scores[2, 0, 4, 4] = value
    ltrb[3, 0, 2, 3] = ltrb[4, 3, 4, 4] = value
    results = fastops.box_peak(scores, ltrb, state, unit=unit)
    bad = slice(1, 3 if unit is not None and value == float("-inf") else 5)
    assert results[bad, :-1].isnan().all() and (results[bad, Result.LOST] == 1).all()
    assert torch.equal(state[bad], before[bad])
    assert torch.equal(results[:1], expected) and torch.equal(state[:1], expected_state)
    assert results[bad.stop :].isfinite().all()


# ---- calls ---------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@each_dtype
def test_targets_alone_and_together(dtype, device):
    """Bit for bit, whatever the other targets and the threads."""
    k = 5
    scores, ltrb = maps_of(k, dtype=dtype, device=device)
    state = random_targets(k, device)
    alone_state = state.clone()
    torch.set_num_threads(1)
    alone = [fastops.box_peak(scores[i, None], ltrb[i, None], alone_state[i, None]) for i in range(k)]
    torch.set_num_threads(4)
    together = fastops.box_peak(scores, ltrb, state)
    assert torch.equal(together, torch.cat(alone)) and torch.equal(state, alone_state)


@pytest.mark.kernels
@each_dtype
def test_targets_in_all_layouts(dtype, device):
    scores, ltrb = maps_of(3, 7, 5, dtype=dtype, device=device)
    state = targets(3, device)
    expected = fastops.box_peak(scores, ltrb, state)
    together = torch.cat([scores, ltrb], 1)
    last = together.contiguous(memory_format=torch.channels_last)
    apart = torch.stack((together, together), -1)[..., 0]
    turned = together.mT.contiguous().mT
    single = ltrb.contiguous(memory_format=torch.channels_last)
    for s, e in ((scores, single), *((m[:, :1], m[:, 1:]) for m in (together, last, apart, turned))):
        other = targets(3, device)
        assert torch.equal(fastops.box_peak(s, e, other), expected)
        assert torch.equal(other, state)


def test_rows_of_a_larger_state(device):
    scores, ltrb = maps_of(2, device=device)
    state = targets(4, device)
    before = state.clone()
    fastops.box_peak(scores, ltrb, state[1:3])
    assert torch.equal(state[::3], before[::3]) and not torch.equal(state[1:3], before[1:3])


def test_no_targets(device):
    results = fastops.box_peak(*maps_of(0, device=device), targets(0, device))
    assert results.shape == (0, 6) and results.dtype == torch.float32


def test_no_gradient(device):
    scores, ltrb = maps_of(1, device=device)
    assert not fastops.box_peak(scores.requires_grad_(), ltrb, targets(1, device)).requires_grad


@pytest.mark.parametrize("settings", [DEFAULTS, (8, 32.0, *DEFAULTS[2:])])
@pytest.mark.parametrize("k", [0, 2])
def test_opcheck(k, settings, device):
    torch.library.opcheck(op, (*maps_of(k, device=device), targets(k, device), *settings))


def test_compile(device):
    def track(scores, ltrb, state):
        results = fastops.box_peak(scores * 2, ltrb, state)
        return results + 1, state[:, 0] * 2

    torch._dynamo.reset()
    maps, state = maps_of(2, device=device), targets(2, device)
    expected_state = state.clone()
    expected = track(*maps, expected_state)
    actual = torch.compile(track, fullgraph=True, backend="aot_eager")(*maps, state)
    for a, e in zip((*actual, state), (*expected, expected_state), strict=True):
        assert torch.equal(a, e)


SCORES, LTRB = torch.zeros(2, 1, 17, 17), torch.zeros(2, 4, 17, 17)


@pytest.mark.parametrize(
    "scores, ltrb, state, settings, message",
    [
        (SCORES.int(), LTRB, targets(2), {}, "scores must have dtype float32, float64, float16 or bfloat16, got int32"),
        (SCORES, LTRB.half(), targets(2), {}, "ltrb must have the dtype of scores (float32), got float16"),
        (SCORES, LTRB.to("meta"), targets(2), {}, "ltrb must be on the device of scores (cpu), got meta"),
        (SCORES, LTRB, targets(2).double(), {}, "state must have dtype float32, got float64"),
        (SCORES, LTRB, targets(2).to("meta"), {}, "state must be on the device of scores (cpu), got meta"),
        (SCORES, LTRB, targets(2)[:, :11], {}, "state must have shape [K, 12], got [2, 11]"),
        (SCORES, LTRB, targets(4)[::2], {}, "state must be contiguous, got strides [24, 1]"),
        (LTRB, LTRB, targets(2), {}, "scores must have shape [K, 1, h, w] with K = 2, got [2, 4, 17, 17]"),
        (SCORES, LTRB, targets(3), {}, "scores must have shape [K, 1, h, w] with K = 3, got [2, 1, 17, 17]"),
        (SCORES[0], LTRB, targets(2), {}, "scores must have shape [K, 1, h, w] with K = 2, got [1, 17, 17]"),
        (SCORES, SCORES, targets(2), {}, "ltrb must have shape [2, 4, 17, 17], got [2, 1, 17, 17]"),
        (SCORES, LTRB[..., 1:], targets(2), {}, "ltrb must have shape [2, 4, 17, 17], got [2, 4, 17, 16]"),
        (
            torch.zeros(2, 1, 129, 1), LTRB, targets(2), {},
            "scores must have h and w from 1 to 128, got [2, 1, 129, 1]",
        ),
        (SCORES, LTRB, targets(2), {"stride": 0}, "stride must be at least 1, got 0"),
        (SCORES, LTRB, targets(2), {"unit": 0.0}, "unit must be None, or finite and above 0, got 0"),
        (SCORES, LTRB, targets(2), {"unit": float("nan")}, "unit must be None, or finite and above 0, got nan"),
        (SCORES, LTRB, targets(2), {"exemplar_size": 0}, "exemplar_size must be at least 1, got 0"),
        (SCORES, LTRB, targets(2), {"instance_size": -1}, "instance_size must be at least 1, got -1"),
        (SCORES, LTRB, targets(2), {"context": -0.5}, "context must be finite and at least 0, got -0.5"),
        (SCORES, LTRB, targets(2), {"box_lr": 1.5}, "box_lr must be between 0 and 1, got 1.5"),
        (
            SCORES, LTRB, targets(2), {"box_penalty": float("inf")},
            "box_penalty must be finite and at least 0, got inf",
        ),
        (SCORES, LTRB, targets(2), {"box_window": -1.0}, "box_window must be between 0 and 1, got -1"),
        (SCORES, LTRB, targets(2), {"lost_score": 2.0}, "lost_score must be between 0 and 1, got 2"),
        (SCORES, LTRB, targets(2), {"lost_frames": 0}, "lost_frames must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_errors(scores, ltrb, state, settings, message, raises_everywhere):
    arguments = {**reference.box_peak.__kwdefaults__, **settings}
    raises_everywhere(op, (scores, ltrb, state, *arguments.values()), f"box_peak: {message}")


def test_plain_python_chooses_all_over_the_map():
    """What the tests above compare with: with distances and targets of all sizes, many cells are the best."""
    scores, ltrb = maps_of(40, 7, 5)
    rows = random_targets(40).double()
    cells = {in_plain_python(s[0], e, row, {})[1] for s, e, row in zip(scores, ltrb, rows, strict=True)}
    assert len(cells) > 8 and np.ptp(list(cells)) > 20
