"""response_peak against OpenCV and NumPy, the trackers' own updates and the reference; state, layouts, errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import fastops
from fastops import reference
from fastops.ops.response import Result, State
from tests.support.op_table import DTYPES
from tracker import SiamFC, Tracker, TrackerConfig
from tracker.engines.reference import ReferenceTracker

op = torch.ops.fastops.response_peak_.default
DEFAULTS = (16, 8, 255, 1.0375, 0.9745, 0.59, 0.176, 0.35, 5)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def targets(k: int, device: str = "cpu", **columns: float) -> Tensor:
    """The state of k targets in the middle of a large image, far from all limits."""
    values = {
        "CENTER_X": 500, "CENTER_Y": 400, "WIDTH": 60, "HEIGHT": 80, "SEARCH_SIZE": 255, "OWN_CONTRAST": 4, "MISSES": 0,
        "MIN_SIDE": 4, "MAX_WIDTH": 2000, "MAX_HEIGHT": 1600, "IMAGE_WIDTH": 1000, "IMAGE_HEIGHT": 800,
    }  # fmt: skip
    values |= columns
    return torch.tensor([float(values[column.name]) for column in State], device=device).repeat(k, 1)


def randn(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)


def peaks(maps: Tensor, up: int = 16, **settings) -> list[tuple[int, int]]:
    """Row and column of the peak of each map [N, h, w]: one scale, an output a pixel, nothing clamped."""
    state = targets(len(maps), maps.device, CENTER_X=4096, CENTER_Y=4096, IMAGE_WIDTH=8192, IMAGE_HEIGHT=8192)
    fastops.response_peak(maps[:, None], state, up=up, stride=up, scale_lr=0, **settings)
    middle = (torch.tensor([maps.shape[2], maps.shape[1]]) * up - 1) / 2
    place = state[:, :2].cpu() - 4096 + middle
    return [(int(row), int(column)) for column, row in place.tolist()]


def blended(upsampled: np.ndarray, window_influence: float) -> np.ndarray:
    """As tracker/reference.py has it; the blend is float64, as the window is."""
    response = upsampled - upsampled.min()
    response /= response.sum() + 1e-16
    if window_influence == 0:
        return response
    window = np.outer(np.hanning(len(upsampled)), np.hanning(upsampled.shape[1]))
    return (1 - window_influence) * response + window_influence * (window / window.sum())


def as_opencv(score_map: Tensor, up: int = 16, window_influence: float = 0.176) -> tuple[int, int]:
    m = score_map.float().cpu().numpy()
    upsampled = cv2.resize(m, (up * m.shape[1], up * m.shape[0]), interpolation=cv2.INTER_CUBIC)
    return divmod(int(blended(upsampled, window_influence).argmax()), upsampled.shape[1])


def cubic_matrix(n: int, up: int) -> np.ndarray:
    """[n up, n]: the weights of cv2.INTER_CUBIC, from their definition."""
    matrix = np.zeros((n * up, n))
    for y in range(n * up):
        position = (y + 0.5) / up - 0.5
        for place in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            x = abs(position - place)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[y, min(max(place, 0), n - 1)] += near if x <= 1 else far
    return matrix


def in_double(score_map: Tensor, up: int = 16, window_influence: float = 0.176) -> tuple[int, int]:
    m = score_map.double().cpu().numpy()
    m = m - m.max()  # exact in what follows where the map is constant
    upsampled = cubic_matrix(len(m), up) @ m @ cubic_matrix(m.shape[1], up).T
    return divmod(int(blended(upsampled, window_influence).argmax()), upsampled.shape[1])


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(17, 17))


def bump(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:17, :17]
    cy, cx, sigma = *rng.uniform(0, 16, 2), rng.uniform(1, 4)
    return rng.uniform(0.1, 10) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2)) + rng.uniform(-3, 3)


def noisy_bump(rng: np.random.Generator) -> np.ndarray:
    return bump(rng) + rng.normal(scale=0.2, size=(17, 17))


def one_place(rng: np.random.Generator) -> np.ndarray:
    """Flat except in one cell. In steps of 1/64, which float64 upsamples exactly, so ties by symmetry are ties."""
    m = np.full((17, 17), rng.integers(-64, 64) / 64)
    m[tuple(rng.integers(17, size=2))] += rng.integers(1, 128) / 64
    return m


def maps_of(kind, count: int, device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = np.random.default_rng(0)
    return torch.tensor(np.stack([kind(rng) for _ in range(count)])).to(device, dtype)


# ---- the peak ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [noise, bump, noisy_bump])
def test_peak_of_1000_maps_is_that_of_opencv_and_numpy(kind, device):
    maps = maps_of(kind, 1000, device)
    assert peaks(maps) == [as_opencv(m) for m in maps]


@each_dtype
@pytest.mark.parametrize("kind", [noise, bump, noisy_bump, one_place])
def test_peak_is_that_of_float64(kind, dtype, device):
    maps = maps_of(kind, 250, device, dtype)
    assert peaks(maps) == [in_double(m) for m in maps]


@pytest.mark.parametrize("value", [0.0, 0.37, -1.1, 1e30, 1e-30])
def test_a_constant_map_gives_the_middle_of_the_window(value, device):
    """The first of its four places; without a window, the first of all."""
    maps = torch.full((1, 17, 17), value, device=device)
    assert peaks(maps) == [(135, 135)]
    assert peaks(maps, window_influence=0.0) == [(0, 0)]


@pytest.mark.parametrize("influence", [0.0, 1.0])
def test_the_map_alone_and_the_window_alone(influence, device):
    maps = maps_of(noisy_bump, 20, device)
    expected = [in_double(m, window_influence=influence) for m in maps]
    assert peaks(maps, window_influence=influence) == expected
    assert (set(expected) == {(135, 135)}) == (influence == 1)


SIZES = [(17, 17, 16), (1, 1, 5), (1, 9, 4), (3, 1, 7), (2, 5, 3), (4, 3, 1), (33, 20, 16), (64, 64, 5), (65, 7, 32)]


@pytest.mark.parametrize("h, w, up", SIZES)
def test_peak_at_every_size(h, w, up, device):
    maps = randn(10, h, w, device=device)
    assert peaks(maps, up=up) == [in_double(m, up=up) for m in maps]


@pytest.mark.parametrize("h, w, up", [(2, 17, 1), (1, 6, 2), (2, 2, 1)])
def test_two_outputs_have_no_window(h, w, up, device):
    """Hann's is 0 there, and its sum; NumPy's blend is NaN."""
    maps = randn(10, h, w, device=device)
    assert peaks(maps, up=up) == [in_double(m, up=up, window_influence=0) for m in maps]


# ---- all of it against the reference ---------------------------------------------------------------------------

CASES = {
    "siamfc": (2, 3, 17, 17, {}),
    "one_scale": (3, 1, 17, 17, {}),
    "five_scales": (2, 5, 9, 11, {"up": 8, "scale_step": 1.05}),
    "one_place": (2, 3, 1, 1, {"up": 1}),
    "two_places": (2, 3, 2, 1, {"up": 3}),
    "row": (2, 3, 1, 40, {"up": 3, "stride": 4}),
    "large": (1, 1, 40, 41, {"up": 8, "instance_size": 511}),  # more columns than CUDA upsamples at a time
    "largest_up": (1, 1, 8, 5, {"up": 32, "window_influence": 0.4}),
    "no_penalty": (2, 3, 6, 5, {"scale_penalty": 1.0, "scale_lr": 1.0}),
    "all_penalty": (2, 3, 6, 5, {"scale_penalty": 0.0}),
    "always_lost": (2, 3, 6, 5, {"lost_score": 1.0, "lost_frames": 1}),
}

HALF_CASES = ("siamfc", "two_places")  # half types differ in how they are read alone


def assert_tracks_as_the_reference(run, case: str, dtype: torch.dtype, device: str) -> None:
    """Two calls, so that the second continues from the first's state, with targets in their first frame among them."""
    k, scales, h, w, settings = CASES[case]
    state = targets(k, device)
    state[0, State.OWN_CONTRAST] = -1
    expected_state = state.clone()
    for seed in range(2):
        responses = randn(k, scales, h, w, dtype=dtype, device=device, seed=seed)
        expected = reference.response_peak(responses.double(), expected_state, **settings)
        torch.testing.assert_close(run(responses, state, **settings), expected, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(state, expected_state, rtol=2e-6, atol=2e-6)


@pytest.mark.kernels
@pytest.mark.parametrize(
    "dtype, case", [(d, c) for d in DTYPES for c in CASES if d.itemsize >= 4 or c in HALF_CASES], ids=str
)
def test_tracks_as_the_reference(dtype, case, device):
    assert_tracks_as_the_reference(fastops.response_peak, case, dtype, device)


def test_the_reference_as_backend(device):
    with fastops.set_backend("reference", "response"):
        assert_tracks_as_the_reference(fastops.response_peak, "siamfc", torch.float64, device)


def test_upsampling_of_the_reference_is_opencvs():
    """One scale without window: the peak is the largest value that OpenCV upsamples to."""
    for h, w, up in ((17, 17, 16), (5, 9, 3), (4, 7, 7)):
        for m in randn(20, h, w):
            state = targets(1, CENTER_X=4096, CENTER_Y=4096, IMAGE_WIDTH=8192, IMAGE_HEIGHT=8192)
            reference.response_peak(m[None, None], state, up=up, stride=up, window_influence=0.0)
            x, y = (state[0, :2] - 4096 + (torch.tensor([w, h]) * up - 1) / 2).tolist()
            assert (int(y), int(x)) == as_opencv(m, up, 0.0)


def test_equal_scales_give_the_first(device):
    maps = randn(1, 1, 17, 17, device=device).expand(1, 5, 17, 17)
    state = targets(1, device)
    fastops.response_peak(maps, state, scale_penalty=1.0, scale_lr=1.0)
    torch.testing.assert_close(state[0, State.WIDTH].item(), 60 / 1.0375**2)


# ---- against the trackers ------------------------------------------------------------------------------------


class Replayed:
    """A network that gives the next of the maps that it has."""

    def __init__(self, maps: np.ndarray) -> None:
        self.maps = iter(maps)

    def exemplar(self, crop: np.ndarray) -> None:
        pass

    def responses(self, crops: np.ndarray) -> np.ndarray:
        return next(self.maps)


def sequence(frames: int) -> np.ndarray:
    """Maps [frames, 3, 17, 17] of a target that moves about, and fades out and back."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:17, :17]
    maps = np.empty((frames, 3, 17, 17), np.float32)
    for i in range(frames):
        cy, cx, sigma = *rng.normal(8, 1.5, 2), rng.uniform(1, 3)
        height = 5 * (1 + np.cos(i / 8)) + 0.01
        shape = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2))
        maps[i] = height * rng.uniform(0.9, 1, (3, 1, 1)) * shape + rng.normal(scale=0.3, size=(3, 17, 17)) - 1
    return maps


def state_of(tracker: Tracker) -> Tensor:
    engine = tracker._engine
    (cy, cx), (h, w), (max_h, max_w) = engine._center, engine._size, engine._max_size
    values = [cx, cy, w, h, engine._search_size, -1, 0, engine._min_side, max_w, max_h, 160, 120]
    return torch.tensor([[float(v) for v in values]])


@pytest.mark.parametrize("box", [(60, 40, 30, 20), (1, 2, 3, 30), (100, 90, 58, 29)])
def test_200_updates_are_the_trackers(box):
    maps = sequence(201)
    config = TrackerConfig(redetect=False)  # a search for the lost target would ask the network for more maps
    tracker = Tracker(SiamFC(width=0.25, ops="reference"), backend="eager", config=config)
    tracker.network = Replayed(maps)
    image = np.zeros((120, 160, 3), np.uint8)
    tracker.init(image, box)
    state = state_of(tracker)
    results = fastops.response_peak(torch.from_numpy(maps[:1]), state)
    np.testing.assert_allclose(results[0].numpy(), [*box, 1, 0], atol=1e-4)

    lost = 0
    for m in maps[1:]:
        expected = tracker.update(image)
        (result,) = fastops.response_peak(torch.from_numpy(m)[None], state).numpy()
        np.testing.assert_allclose(result[:4], expected.box, rtol=2e-5, atol=2e-3)
        np.testing.assert_allclose(result[Result.SCORE], expected.score, atol=1e-5)
        assert result[Result.LOST] == expected.lost
        lost += expected.lost
    assert 10 < lost < 190


def test_200_updates_are_the_reference_trackers(monkeypatch):
    """Without limits in reach, which it does not have."""
    maps = sequence(200)
    model = SiamFC(width=0.25, ops="reference")
    tracker = ReferenceTracker(model)
    image, box = np.zeros((120, 160, 3), np.uint8), (60, 40, 30, 20)
    replayed = Replayed(torch.from_numpy(maps)[:, :, None])
    tracker._features, tracker._score = lambda x: x, lambda z, x: replayed.responses(x)
    tracker.init(image, box)
    (cy, cx), (h, w) = tracker._center, tracker._size
    state = targets(1, CENTER_X=cx + 1000, CENTER_Y=cy + 1000, WIDTH=w, HEIGHT=h, SEARCH_SIZE=tracker._x_size)
    state[0, [State.IMAGE_WIDTH, State.IMAGE_HEIGHT]] = 3000
    state[0, [State.MIN_SIDE, State.MAX_WIDTH, State.MAX_HEIGHT]] = torch.tensor([1e-3, 1e6, 1e6])
    for m in maps:
        expected = tracker.update(image).box + (1000, 1000, 0, 0)
        (result,) = fastops.response_peak(torch.from_numpy(m)[None], state).numpy()
        np.testing.assert_allclose(result[:4], expected, rtol=5e-6, atol=5e-3)


def test_the_defaults_are_the_trackers():
    cfg = TrackerConfig()
    names = (
        *("response_up", "total_stride", "instance_size", "scale_step", "scale_penalty", "scale_lr"),
        *("window_influence", "lost_score", "lost_frames"),
    )
    assert tuple(getattr(cfg, name) for name in names) == DEFAULTS
    for function in (fastops.response_peak, reference.response_peak):
        assert tuple(function.__kwdefaults__.values()) == DEFAULTS


# ---- the state -----------------------------------------------------------------------------------------------


@each_dtype
def test_first_frame(dtype, device):
    """It sets the contrast from the middle scale and leaves the rest unchanged, for any maps."""
    responses = randn(2, 3, 17, 17, dtype=dtype, device=device)
    state = targets(2, device, OWN_CONTRAST=-1, MISSES=3)
    before = state.clone()
    results = fastops.response_peak(responses, state)
    middle = responses[:, 1].double()
    contrast = middle.amax((1, 2)) - middle.mean((1, 2))
    torch.testing.assert_close(state[:, State.OWN_CONTRAST], contrast.float(), rtol=1e-6, atol=0)
    state[:, State.OWN_CONTRAST] = before[:, State.OWN_CONTRAST]
    assert torch.equal(state, before)
    assert results.tolist() == [[500 - 29.5, 400 - 39.5, 60, 80, 1, 0]] * 2


def test_score_misses_and_lost(device):
    responses = torch.zeros(1, 1, 3, 3, device=device)
    responses[..., 1, 1] = 9  # contrast 8
    state = targets(1, device, OWN_CONTRAST=8)
    seen = []
    for scale in (1.0, 0.36, 0.34, -0.5, 2.0, 0.0, 0.0, 0.0):
        results = fastops.response_peak(responses * scale, state, lost_frames=3)
        seen.append((round(results[0, Result.SCORE].item(), 3), int(state[0, State.MISSES]), int(results[0, -1])))
    # of the negative map, the contrast is that of its mean
    expected = [(1, 0, 0), (0.36, 0, 0), (0.34, 1, 0), (0.062, 2, 0), (1, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 1)]
    assert seen == expected


def test_limits(device):
    """Two steps left and up, in the smallest of three scales: centre in the image, sides above the minimum."""
    responses = torch.zeros(3, 3, 17, 17, device=device)
    responses[0, 0, 4, 4] = responses[1, 2, 12, 12] = responses[2, 2, 12, 12] = 1
    state = targets(3, device, IMAGE_WIDTH=100, IMAGE_HEIGHT=90, WIDTH=5, HEIGHT=5, SEARCH_SIZE=1000)
    state[0, :2] = torch.tensor([20.0, 3.0])
    state[1:, :2] = torch.tensor([80.0, 85.0])
    state[0, State.MIN_SIDE] = 4.95
    state[1, State.MAX_WIDTH] = 5.1
    state[2, State.MAX_HEIGHT] = 5.05
    fastops.response_peak(responses, state)
    assert state[:, :2].tolist() == [[0, 0], [99, 89], [99, 89]]
    sides = torch.tensor([4.95, 5.1, 5.05], device=device)
    torch.testing.assert_close(state[:, State.WIDTH], sides)
    torch.testing.assert_close(state[:, State.HEIGHT], sides)
    torch.testing.assert_close(state[:, State.SEARCH_SIZE], 200 * sides)


@pytest.mark.kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("own_contrast", [-1, 4])
def test_non_finite_responses(value, own_contrast, device):
    responses = randn(4, 3, 5, 5, device=device)
    state = targets(4, device, OWN_CONTRAST=own_contrast)
    before, expected_state = state.clone(), state[:1].clone()
    expected = fastops.response_peak(responses[:1], expected_state)
    for place in ((1, 0, 0, 0), (2, 1, 2, 3), (3, 2, 4, 4)):
        responses[place] = value
    results = fastops.response_peak(responses, state)
    assert results[1:, :-1].isnan().all() and (results[1:, Result.LOST] == 1).all()
    assert torch.equal(state[1:], before[1:])
    assert torch.equal(results[:1], expected) and torch.equal(state[:1], expected_state)


def test_a_range_beyond_float32(device):
    responses = torch.full((1, 1, 17, 17), 3e38, device=device)
    responses[..., 4] = -3e38
    state = targets(1, device)
    assert fastops.response_peak(responses, state)[0, :-1].isnan().all()
    assert torch.equal(state, targets(1, device))
    assert fastops.response_peak(responses.double(), state).isfinite().all()


# ---- calls ---------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@each_dtype
def test_targets_alone_and_together(dtype, device):
    """Equal bit for bit, for any other targets and threads."""
    k = 5
    responses, state = randn(k, 3, 5, 5, dtype=dtype, device=device), targets(k, device)
    alone_state = state.clone()
    torch.set_num_threads(1)
    alone = [fastops.response_peak(r[None], s[None]) for r, s in zip(responses, alone_state, strict=True)]
    torch.set_num_threads(4)
    together = fastops.response_peak(responses, state)
    assert torch.equal(together, torch.cat(alone)) and torch.equal(state, alone_state)


def test_shapes_and_layouts(device):
    responses = randn(4, 3, 7, 5, device=device)
    state = targets(4, device)
    expected = fastops.response_peak(responses, state)
    sliced = torch.stack((responses, responses), -1)[..., 0]
    for arranged in (
        responses.reshape(12, 1, 7, 5), responses.contiguous(memory_format=torch.channels_last), sliced,
        responses.transpose(0, 1).contiguous().transpose(0, 1), responses.mT.contiguous().mT,
    ):  # fmt: skip
        other = targets(4, device)
        assert torch.equal(fastops.response_peak(arranged, other), expected)
        assert torch.equal(other, state)


def test_rows_of_a_larger_state(device):
    responses, state = randn(2, 3, 9, 9, device=device), targets(4, device)
    before = state.clone()
    fastops.response_peak(responses, state[1:3])
    assert torch.equal(state[::3], before[::3]) and not torch.equal(state[1:3], before[1:3])


@pytest.mark.parametrize("shape", [(0, 1, 17, 17), (0, 3, 17, 17)])
def test_no_targets(shape, device):
    results = fastops.response_peak(torch.zeros(shape, device=device), targets(0, device))
    assert results.shape == (0, 6) and results.dtype == torch.float32


def test_no_gradient(device):
    responses = randn(1, 3, 17, 17, device=device).requires_grad_()
    assert not fastops.response_peak(responses, targets(1, device)).requires_grad


@pytest.mark.parametrize("shape", [(2, 3, 17, 17), (6, 1, 17, 17), (0, 3, 5, 5)])
def test_opcheck(shape, device):
    responses, state = randn(*shape, device=device), targets(min(2, shape[0]), device)
    torch.library.opcheck(op, (responses, state, *DEFAULTS))


def test_compile(device):
    def track(responses, state):
        results = fastops.response_peak(responses * 2, state)
        return results + 1, state[:, 0] * 2

    torch._dynamo.reset()
    responses, state = randn(2, 3, 17, 17, device=device), targets(2, device)
    expected_state = state.clone()
    expected = track(responses, expected_state)
    actual = torch.compile(track, fullgraph=True, backend="aot_eager")(responses, state)
    for a, e in zip((*actual, state), (*expected, expected_state), strict=True):
        assert torch.equal(a, e)


F32 = torch.zeros(2, 3, 17, 17)


@pytest.mark.parametrize(
    "responses, state, settings, message",
    [
        (F32.int(), targets(2), {}, "responses must have dtype float32, float64, float16 or bfloat16, got int32"),
        (F32, targets(2).double(), {}, "state must have dtype float32, got float64"),
        (F32, targets(2).to("meta"), {}, "state must be on the device of responses (cpu), got meta"),
        (F32, targets(2)[:, :11], {}, "state must have shape [K, 12], got [2, 11]"),
        (F32, targets(2)[0], {}, "state must have shape [K, 12], got [12]"),
        (F32, targets(4)[::2], {}, "state must be contiguous, got strides [24, 1]"),
        *(
            (
                torch.zeros(shape),
                targets(2),
                {},
                "responses must have shape [K S, 1, h, w] or [K, S, h, w] with K = 2 and S odd, got " + got,
            )
            for shape, got in (
                ((2, 17, 17), "[2, 17, 17]"),
                ((2, 2, 17, 17), "[2, 2, 17, 17]"),
                ((4, 1, 17, 17), "[4, 1, 17, 17]"),
                ((3, 1, 17, 17), "[3, 1, 17, 17]"),
                ((6, 3, 17, 17), "[6, 3, 17, 17]"),
            )
        ),
        (torch.zeros(2, 3, 0, 17), targets(2), {}, "responses must have h and w from 1 to 128, got [2, 3, 0, 17]"),
        (torch.zeros(2, 3, 5, 129), targets(2), {}, "responses must have h and w from 1 to 128, got [2, 3, 5, 129]"),
        (F32, targets(2), {"up": 0}, "up must be from 1 to 32, got 0"),
        (F32, targets(2), {"up": 33}, "up must be from 1 to 32, got 33"),
        (F32, targets(2), {"stride": 0}, "stride must be at least 1, got 0"),
        (F32, targets(2), {"instance_size": -1}, "instance_size must be at least 1, got -1"),
        (F32, targets(2), {"scale_step": 0.0}, "scale_step must be finite and above 0, got 0"),
        (F32, targets(2), {"scale_step": float("inf")}, "scale_step must be finite and above 0, got inf"),
        (F32, targets(2), {"scale_penalty": 1.5}, "scale_penalty must be between 0 and 1, got 1.5"),
        (F32, targets(2), {"scale_lr": -0.5}, "scale_lr must be between 0 and 1, got -0.5"),
        (F32, targets(2), {"window_influence": float("nan")}, "window_influence must be between 0 and 1, got nan"),
        (F32, targets(2), {"lost_score": 2.0}, "lost_score must be between 0 and 1, got 2"),
        (F32, targets(2), {"lost_frames": 0}, "lost_frames must be at least 1, got 0"),
    ],
)
def test_errors(responses, state, settings, message, raises_everywhere):
    arguments = {**reference.response_peak.__kwdefaults__, **settings}
    raises_everywhere(op, (responses, state, *arguments.values()), f"response_peak: {message}")
