"""A lost target is searched for in the whole frame and found again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.support.vanishing import VanishingVideo
from tracker import BatchTracker, Tracker, TrackerConfig
from tracker.data.synthetic import SyntheticVideo
from tracker.engines.redetect import Redetection
from tracker.eval.metrics import iou

SIZE = (480, 360)


@pytest.fixture(scope="module")
def video() -> VanishingVideo:
    scene = SyntheticVideo(seed=3, frames=1, size=SIZE, target=56, distractors=0, occlusions=0, noise=0)
    image, box = scene.frame(0)
    x = 20 if box[0] > SIZE[0] / 2 else SIZE[0] - 90
    return VanishingVideo(image, box, (x, 250 if box[1] < SIZE[1] / 2 else 30))


def _track(video: VanishingVideo, **options) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps, NaN where the target is absent, and the lost signal of every frame."""
    results = list(Tracker.from_pretrained("siamfc-relu", **options).track(iter(video), video.boxes[0]))
    overlaps = [float(iou(r.box[None], b[None])[0]) if np.isfinite(b[0]) else np.nan
                for r, b in zip(results, video.boxes, strict=True)]  # fmt: skip
    return np.array(overlaps), np.array([r.lost for r in results])


@pytest.mark.parametrize("backend", ["fastops", "eager"])
def test_a_target_that_comes_back_elsewhere_is_found_again(video, backend):
    overlaps, lost = _track(video, backend=backend)
    assert lost[video.returns - 1]
    assert (overlaps[-10:] > 0.5).all() and not lost[-10:].any()


def test_without_it_the_target_stays_lost(video):
    overlaps, lost = _track(video, redetect=False)
    assert lost[-1] and overlaps[-1] < 0.1


def test_many_targets_are_found_as_one_is(video):
    config = TrackerConfig(redetect_score=0.5)
    single = list(Tracker.from_pretrained("siamfc-relu", redetect_score=0.5).track(iter(video), video.boxes[0]))
    frames = list(VanishingVideo.__iter__(video))
    tracker = BatchTracker.from_pretrained("siamfc-relu", redetect_score=config.redetect_score)
    first = tracker.add(frames[0], (5, 5, 40, 40))
    second = tracker.add(frames[0], video.boxes[0])
    for image in frames[1:-20]:
        tracker.update(image)
    tracker.drop(first)  # the second one takes its row
    results = [tracker.update(image)[second] for image in frames[-20:]]
    assert iou(results[-1].box[None], single[-1].box[None])[0] > 0.8


def _look(contrast: float):
    def look(centers: np.ndarray, side: float) -> np.ndarray:
        maps = np.zeros((len(centers), 17, 17), np.float32)
        maps[:, 8, 8] = contrast * 289 / 288  # max - mean
        return maps

    return look


def test_all_of_the_frame_is_looked_at_nearest_first():
    memory = Redetection(TrackerConfig(scale_num=1), (100, 100, 40, 40))
    seen: list[tuple[float, float]] = []

    def look(centers: np.ndarray, side: float) -> np.ndarray:
        seen.extend(map(tuple, centers))
        return _look(0.0)(centers, side)

    for _ in range(60):
        assert memory.search((360, 480), 1.0, look, lambda *place: place) is None
    distances = [np.hypot(x - 119.5, y - 119.5) for x, y in seen]
    cycle = len(set(seen))
    assert distances[:cycle] == sorted(distances[:cycle]) and seen[cycle] == seen[0]
    counts = Counter(seen)
    assert max(counts.values()) - min(counts.values()) <= 1
    xs, ys = sorted({x for x, _ in seen}), sorted({y for _, y in seen})
    side = 80 * 255 / 127  # a score map tells of the middle half of its region
    assert max(np.diff(xs)) <= side / 2 and xs[0] <= side / 4 and xs[-1] >= 479 - side / 4
    assert max(np.diff(ys)) <= side / 2 and ys[0] <= side / 4 and ys[-1] >= 359 - side / 4


@pytest.mark.parametrize(("contrast", "found"), [(0.59, False), (0.61, True), (np.nan, False), (np.inf, False)])
def test_only_a_distinct_peak_is_tried(contrast, found):
    memory = Redetection(TrackerConfig(redetect_score=0.6), (100, 100, 40, 40))
    result = memory.search((360, 480), 1.0, _look(contrast), lambda *place: place)
    assert (result is not None) == found


def test_the_size_is_that_of_the_last_sure_frame():
    memory = Redetection(TrackerConfig(), (100, 100, 40, 40))
    memory.note((200, 50, 60, 30), 0.9)
    memory.note((0, 0, 7, 7), 0.1)  # a miss
    *_, w, h = memory.search((360, 480), 1.0, _look(1.0), lambda *place: place)
    assert (w, h) == (60, 30)


def test_a_place_that_does_not_hold_leaves_the_state(video):
    frames = list(video)
    trackers = [Tracker.from_pretrained("siamfc-relu", redetect=redetect) for redetect in (True, False)]
    for tracker in trackers:
        tracker.init(frames[0], video.boxes[0])
    for image in frames[1 : video.returns]:  # nothing is there to be found
        with_search, without = (tracker.update(image) for tracker in trackers)
        assert np.array_equal(with_search.box, without.box) and with_search.score == without.score


@pytest.mark.parametrize(("name", "value"), [("redetect_score", 1.5), ("redetect", 1)])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
        TrackerConfig(**{name: value})
