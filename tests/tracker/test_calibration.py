"""The box head corrected by the first frame, whose box is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tracker import SiamFC, Tracker, TrackerConfig
from tracker.engines.calibration import LARGEST, calibrated, calibration
from tracker.eval.metrics import iou
from tracker.network.box_head import boxes_of

OFFSETS = 8.0 * (torch.arange(17) - 8)


def answer(box) -> torch.Tensor:
    """Distances of all cells to a box x1, y1, x2, y2 in pixels from the middle."""
    x1, y1, x2, y2 = box
    x, y = OFFSETS.expand(17, 17), OFFSETS[:, None].expand(17, 17)
    return torch.stack([x - x1, y - y1, x2 - x, y2 - y])[None]


def test_the_first_frames_answer_becomes_its_box():
    ltrb = answer((-30.0, -16, 50, 24))  # 80 x 40 about (10, 4)
    boxes = boxes_of(calibrated(ltrb, calibration(ltrb, 60.0, 50.0)[None]))[0]
    torch.testing.assert_close(boxes, torch.tensor([-30.0, -25, 30, 25]).expand(17, 17, 4))


def test_later_answers_keep_the_ratios():
    matrix = calibration(answer((-30.0, -16, 50, 24)), 60.0, 50.0)[None]
    later = answer((-20.0 + 100, -8 - 40, 20 + 100, 12 - 40))  # 40 x 20 about (100, -38)
    x1, y1, x2, y2 = boxes_of(calibrated(later, matrix))[0, 8, 8].tolist()
    assert (x2 - x1, y2 - y1) == pytest.approx((40 * 60 / 80, 20 * 50 / 40))
    centre = 100 - 10 * 40 / 80, -38 - 4 * 20 / 40  # the offset, at the later size
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx(centre)


def test_targets_have_matrices_of_their_own():
    ltrb = torch.cat([answer((-30.0, -16, 50, 24)), answer((-8.0, -8, 8, 8))])
    matrices = torch.stack([torch.eye(4), 2 * torch.eye(4)])
    assert torch.equal(calibrated(ltrb, matrices), ltrb * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))


def test_an_answer_that_is_far_off_is_not_followed():
    boxes = boxes_of(calibrated(answer((-4.0, -4, 4, 4)), calibration(answer((-4.0, -4, 4, 4)), 80.0, 80.0)[None]))
    side = boxes[0, 8, 8, 2] - boxes[0, 8, 8, 0]
    assert float(side) == pytest.approx(8 * LARGEST)
    assert calibration(torch.zeros(1, 4, 17, 17), 80.0, 80.0).isfinite().all()


@pytest.mark.parametrize("backend", ["fastops", "eager"])
def test_a_target_that_stands_still_keeps_its_box(backend):
    """Whatever an untrained head says, as long as it says the same as of the first frame."""
    torch.manual_seed(0)
    model = SiamFC("mish", "se", "box", 0.25, ops="fastops" if backend == "fastops" else "reference")
    with torch.no_grad():
        model.box_head.box[-1].weight.zero_()
        model.box_head.box[-1].bias.copy_(torch.tensor([-0.5, 0.3, 0.6, -0.2]))
        model.box_head.score_offset.fill_(4.0)
    image, box = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8), np.array([140.0, 100, 30, 50])
    overlaps = {}
    for calibrate in (True, False):
        config = TrackerConfig(box_calibrate=calibrate, box_window=0.9)
        tracker = Tracker(model, backend=backend, config=config)
        tracker.init(image, box)
        for _ in range(10):
            result = tracker.update(image)
        overlaps[calibrate] = float(iou(result.box[None], box[None])[0])
    assert overlaps[True] > 0.85 > 0.7 > overlaps[False]
