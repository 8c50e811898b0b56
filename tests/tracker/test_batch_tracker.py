"""BatchTracker: each target is tracked as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker import BatchTracker, SiamFC, Tracker
from tracker.data.synthetic import SyntheticVideo


@pytest.fixture
def model(device) -> SiamFC:
    torch.manual_seed(0)
    return SiamFC("mish", "se", width=0.25).eval().to(device)


def _frames(seed: int = 0, size: tuple[int, int] = (320, 240), count: int = 8) -> tuple[list[np.ndarray], np.ndarray]:
    video = SyntheticVideo(seed, count, size)
    return [video.frame(i)[0] for i in range(count)], video.boxes[0]


def _alone(model: SiamFC, frames: list[np.ndarray], box) -> list:
    tracker = Tracker(model)
    tracker.init(frames[0], box)
    return [tracker.update(frame) for frame in frames[1:]]


def _same(result, expected) -> bool:
    if torch.cuda.is_available():  # a batch of another size may take other kernels of cuDNN
        return np.allclose(result.box, expected.box, atol=0.5) and abs(result.score - expected.score) < 1e-3
    return np.array_equal(result.box, expected.box) and (result.score, result.lost) == (expected.score, expected.lost)


def test_results_are_those_of_single_trackers(model):
    frames, box = _frames()
    boxes = [box, (10, 12, 40, 30), (200, 150, 25, 60)]
    expected = [_alone(model, frames, b) for b in boxes]
    tracker = BatchTracker(model)
    targets = [tracker.add(frames[0], b) for b in boxes]
    assert tracker.targets == tuple(targets) and len(tracker) == 3
    for i, frame in enumerate(frames[1:]):
        results = tracker.update(frame)
        assert list(results) == targets
        assert all(_same(results[t], e[i]) for t, e in zip(targets, expected, strict=True))


def test_targets_come_and_go(model):
    frames, box = _frames()
    tracker = BatchTracker(model)
    first = tracker.add(frames[0], box)
    gone = [tracker.add(frames[0], (10 * i, 5 * i, 30, 30)) for i in range(5)]
    tracker.update(frames[1])
    for target in (gone[1], gone[4], gone[0]):
        tracker.drop(target)
    late = tracker.add(frames[1], (200, 150, 25, 60))
    for i, frame in enumerate(frames[2:6]):
        results = tracker.update(frame)
        assert sorted(results) == [first, gone[2], gone[3], late] == list(tracker.targets)
        assert _same(results[first], _alone(model, frames, box)[i + 1])
        assert _same(results[gone[3]], _alone(model, frames, (30, 15, 30, 30))[i + 1])
        assert _same(results[late], _alone(model, frames[1:], (200, 150, 25, 60))[i])
    for target in tracker.targets:
        tracker.drop(target)
    assert tracker.update(frames[6]) == {} and len(tracker) == 0 and not tracker._image_sizes
    assert tracker.add(frames[6], box) > late  # a number is never given twice
    with pytest.raises(KeyError, match=f"target must be one of .*got {first}"):
        tracker.drop(first)


def test_memory_is_linear_in_the_targets(model):
    """On a CPU the memory of the crops is the same for any number of targets."""
    frames, box = _frames(count=1)
    held = {}
    for count in (1, 8, 16):
        tracker = BatchTracker(model, device="cpu")
        for _ in range(count):
            tracker.add(frames[0], box)
        engine = tracker._engine
        tables = engine.state, engine._colors, engine._templates
        held[count] = sum(t.untyped_storage().nbytes() for t in tables)
        assert engine._crops.shape[0] == 3 and engine.capacity == count  # it doubles: 1, 2, 4, 8, 16
    assert held[16] == 2 * held[8] == 16 * held[1]
    assert held[1] < 20_000


def test_videos_of_different_sizes(model):
    videos = {"left": _frames(0), "right": _frames(1, (200, 160))}
    second = (50, 40, 30, 30)  # of the left video; added last, so its rows do not follow one another
    tracker = BatchTracker(model)
    targets = {name: tracker.add(frames[0], box, video=name) for name, (frames, box) in videos.items()}
    another = tracker.add(videos["left"][0][0], second, video="left")
    expected = {targets[name]: _alone(model, *video) for name, video in videos.items()}
    expected[another] = _alone(model, videos["left"][0], second)
    for i in range(1, 4):
        results = tracker.update({name: frames[i] for name, (frames, _) in videos.items()})
        assert all(_same(results[t], expected[t][i - 1]) for t in expected) and len(results) == 3
    only = tracker.update({"right": videos["right"][0][4]})  # the left video has no frame: its targets keep their state
    assert list(only) == [targets["right"]] and _same(only[targets["right"]], expected[targets["right"]][3])
    results = tracker.update({"left": videos["left"][0][4]})
    assert _same(results[another], expected[another][3])
    with pytest.raises(ValueError, match="images must be a frame by video where targets have videos"):
        tracker.update(videos["left"][0][5])


def test_four_videos_of_one_size(model):
    videos = {name: _frames(seed, count=4) for seed, name in enumerate("abcd")}
    tracker = BatchTracker(model)
    targets = {name: tracker.add(frames[0], box, video=name) for name, (frames, box) in videos.items()}
    for i in range(1, 4):
        results = tracker.update({name: frames[i] for name, (frames, _) in videos.items()})
        for name, video in videos.items():
            assert _same(results[targets[name]], _alone(model, *video)[i - 1])


def test_track_yields_all_targets(model):
    frames, box = _frames()
    boxes = [box, (10, 12, 40, 30)]
    tracker = BatchTracker(model)
    other = tracker.add(frames[0], (50, 50, 20, 20), video="another")
    for _ in range(2):
        rows = list(tracker.track(frames, iter(boxes)))
        assert len(rows) == len(frames) and np.array_equal(rows[0][1].box, boxes[1])
        for k, b in enumerate(boxes):
            assert all(_same(row[k], e) for row, e in zip(rows[1:], _alone(model, frames, b), strict=True))
        assert tracker.targets == (other,)  # its own are gone


def test_dropping_while_tracking(model):
    frames, box = _frames()
    tracker = BatchTracker(model)
    for i, row in enumerate(tracker.track(frames, [box, (10, 12, 40, 30)])):
        if i == 2:
            tracker.drop(tracker.targets[0])
        if i == 4:
            tracker.drop(tracker.targets[0])
        assert [result is None for result in row] == [i > 2, i > 4]
    assert len(tracker) == 0


def test_image_size_may_change(model):
    frames, box = _frames()
    cut = [frames[0], *(frame[:200, :260] for frame in frames[1:4])]
    expected = _alone(model, cut, box)
    tracker = BatchTracker(model)
    target = tracker.add(cut[0], box)
    assert all(_same(tracker.update(frame)[target], e) for frame, e in zip(cut[1:], expected, strict=True))
    assert all(e.box[0] + e.box[2] / 2 <= 260 for e in expected)


def test_adding_in_an_image_of_another_size(model):
    small, box = _frames(count=3)
    tracker = BatchTracker(model)
    tracker.add(small[0], box)
    large = np.zeros((600, 800, 3), np.uint8)
    late = tracker.add(large, (700, 500, 60, 60))
    for frame in small:
        found = tracker.update(frame)[late].box
    assert found[0] + found[2] / 2 <= 320 and found[1] + found[3] / 2 <= 240  # back inside


@pytest.mark.parametrize("kind", ["bgr", "grey", "tensor", "chw", "read-only", "flipped"])
def test_images_of_every_kind(model, kind):
    frames, box = _frames(count=3)
    if kind == "grey":
        frames = [np.repeat(frame[..., :1], 3, 2) for frame in frames]

    def convert(frame):
        if kind == "bgr":  # as OpenCV reads, turned by the user
            return np.ascontiguousarray(frame[..., ::-1])[..., ::-1]
        if kind == "grey":
            return frame[..., 0].copy()
        if kind == "tensor":
            return torch.from_numpy(frame)
        if kind == "chw":
            return torch.from_numpy(frame).permute(2, 0, 1).contiguous().permute(1, 2, 0)
        if kind == "flipped":
            return np.ascontiguousarray(frame[:, ::-1])[:, ::-1]
        frame.flags.writeable = False
        return frame

    expected = _alone(model, [frame.copy() for frame in frames], box)
    results = _alone(model, [convert(frame) for frame in frames], box)
    assert all(_same(r, e) for r, e in zip(results, expected, strict=True))


def test_errors(model):
    frames, box = _frames(count=1)
    tracker = BatchTracker(model)
    with pytest.raises(ValueError, match="box must have sides above 0"):
        tracker.add(frames[0], (1, 1, 0, 5))
    with pytest.raises(ValueError, match=r"image must be uint8 \[H, W, 3\] or \[H, W\], got float32"):
        tracker.add(frames[0].astype(np.float32), box)
    assert len(tracker) == 0 and tracker.update(frames[0]) == {}
    tracker.drop(tracker.add(frames[0], box, video="a"))
    assert tracker.update({"a": frames[0]}) == {}  # nothing left to find there
    with pytest.raises(ValueError, match="images must be of videos that targets were added in, got 'b'"):
        tracker.update({"b": frames[0]})
    with pytest.raises(ValueError, match="one of model and weights must be given, got neither"):
        BatchTracker()
    with pytest.raises(ValueError, match="dtype must be torch.float32, .* or auto, got fast"):
        BatchTracker(model, dtype="fast")


def test_a_response_that_is_not_finite_stops_it(model):
    frames, box = _frames(count=2)
    broken = SiamFC("mish", "se", width=0.25).to(next(model.parameters()).device)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.backbone.conv5[0].bias.fill_(float("nan"))
    tracker = BatchTracker(model)
    good, bad = tracker.add(frames[0], box), tracker.add(frames[0], (10, 12, 40, 30))
    with torch.inference_mode():
        tracker._engine._templates[1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"must be finite, got NaN for targets {bad}") as error:
        tracker.update(frames[1])
    assert list(error.value.results) == [good] and _same(error.value.results[good], _alone(model, frames, box)[0])
    for tracker in (Tracker(broken), BatchTracker(broken)):
        with pytest.raises(FloatingPointError, match="the network's response must be finite, got NaN or infinity"):
            (tracker.init if isinstance(tracker, Tracker) else tracker.add)(frames[0], box)
