"""`SyntheticVideo`: deterministic, its boxes are where the target is, and it is what it says it is."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.data.synthetic import SyntheticVideo


def test_frames_depend_on_seed_and_index_alone():
    a, b = SyntheticVideo(3, 20, (160, 120)), SyntheticVideo(3, 20, (160, 120))
    last_first = [a.frame(i)[0] for i in reversed(range(20))][::-1]
    for one, (two, box), known in zip(last_first, b, a.boxes, strict=True):
        assert np.array_equal(one, two) and np.array_equal(box, known)
    assert not np.array_equal(SyntheticVideo(4, 20, (160, 120)).frame(0)[0], last_first[0])


def test_shapes_and_types():
    video = SyntheticVideo(0, 5, (160, 120))
    image, box = video.frame(4)
    assert image.shape == (120, 160, 3) and image.dtype == np.uint8
    assert box.shape == (4,) and video.boxes.shape == (5, 4) and video.boxes.dtype == np.float64
    assert sum(1 for _ in video.images()) == len(video) == 5


@pytest.mark.parametrize("seed", range(6))
def test_box_bounds_exactly_what_the_target_covers(seed):
    video = SyntheticVideo(seed, 40, (320, 240), occlusions=0, distractors=0, noise=0)
    for index in (0, 13, 39):
        image, (x, y, w, h) = video.frame(index)
        video._target.boxes[index] = -1000.0  # moved out of view: what is left is the same frame without the target
        without, _ = video.frame(index)
        rows, columns = np.nonzero((image != without).any(axis=2))
        # A rotated, smooth edge may miss or spill one pixel on each side.
        assert abs(columns.min() - x) <= 2 and abs(columns.max() - (x + w - 1)) <= 2
        assert abs(rows.min() - y) <= 2 and abs(rows.max() - (y + h - 1)) <= 2


@pytest.mark.parametrize("seed", range(10))
def test_target_moves_scales_and_stays_in_view(seed):
    video = SyntheticVideo(seed, 200, (320, 240), speed=0.1)
    x, y, w, h = video.boxes.T
    assert x.min() >= -0.6 and y.min() >= -0.6 and (x + w).max() <= 320.6 and (y + h).max() <= 240.6
    centers = np.stack([x + w / 2, y + h / 2], axis=1)
    side = (320 + 240) / 12
    steps = abs(np.diff(centers, axis=0))
    assert steps.max() <= 0.1 * side + 1e-6 and steps.mean() >= 0.02 * side
    assert w.max() / w.min() > 1.1


@pytest.mark.parametrize("frames", [30, 90, 300])
def test_target_is_partly_hidden_but_not_at_the_start(frames):
    for seed in range(8):
        video = SyntheticVideo(seed, frames, (320, 240), occlusions=1)
        assert video.visible[0] == 1
        assert 0.2 < video.visible[frames // 2] < 0.65
    assert SyntheticVideo(0, 30, (160, 120), occlusions=0).visible.min() == 1


def test_pillar_covers_the_part_that_visible_says():
    with_pillar = SyntheticVideo(1, 60, (320, 240), occlusions=1, noise=0)
    index = 30
    covered, (x, y, w, h) = with_pillar.frame(index)
    pillars, with_pillar._pillars = with_pillar._pillars, []
    free, _ = with_pillar.frame(index)
    rows, columns = slice(int(y), int(y + h)), slice(int(round(x)), int(round(x + w)))
    changed = (covered[rows, columns] != free[rows, columns]).any(axis=2).mean()
    assert len(pillars) == 1
    assert changed == pytest.approx(1 - with_pillar.visible[index], abs=0.05)


@pytest.mark.parametrize(("frames", "size"), [(0, (64, 64)), (5, (31, 64))])
def test_wrong_arguments(frames, size):
    with pytest.raises(ValueError, match="frames must be at least 1 and size at least 32x32, got"):
        SyntheticVideo(0, frames, size)
