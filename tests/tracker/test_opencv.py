"""OpenCV's interface: the boxes of `Tracker`, in whole pixels, of frames as OpenCV reads them."""

from __future__ import annotations

import doctest
import re

import cv2
import numpy as np
import pytest
import torch

import tracker.integrations.opencv as opencv
from tracker import SiamFC, Tracker, TrackResult
from tracker.data.synthetic import SyntheticVideo
from tracker.integrations.opencv import TrackerSiamFC
from tracker.network.checkpoint import save_state

VIDEO = SyntheticVideo(0, 8, (160, 120), occlusions=0)
RECT = tuple(int(value) for value in VIDEO.boxes[0].round())

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> SiamFC:
    torch.manual_seed(0)
    return SiamFC("mish", width=0.125)


def bgr() -> list[np.ndarray]:
    return [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in VIDEO.images()]


def test_rectangles_are_the_boxes_of_the_tracker():
    model = network()
    expected, adapter = Tracker(model), TrackerSiamFC(Tracker(model))
    first, *others = VIDEO.images()
    expected.init(first, RECT)
    assert adapter.init(bgr()[0], RECT) is None and adapter.getTrackingScore() == 1
    for image, frame in zip(others, bgr()[1:], strict=True):
        result, (ok, rect) = expected.update(image), adapter.update(frame)
        assert ok is not result.lost and adapter.getTrackingScore() == result.score
        np.testing.assert_array_equal(rect, result.box.round())
    # Colours matter to this network: RGB and BGR frames give different boxes.
    expected.init(first, RECT)
    assert expected.update(others[0]).box[0] != expected.update(bgr()[1]).box[0]


def test_it_answers_as_the_trackers_of_opencv_do():
    frames = [cv2.resize(frame, None, fx=0.5, fy=0.5) for frame in bgr()[:2]]
    rect = tuple(value // 2 for value in RECT)
    theirs, ours = cv2.TrackerMIL.create(), TrackerSiamFC(Tracker(network()))
    for one in (theirs, ours):
        assert one.init(frames[0], rect) is None
        ok, found = one.update(frames[1])
        assert type(ok) is bool and type(found) is tuple and [type(value) for value in found] == [int] * 4
    # Everything OpenCV's interface has is here under the same name.
    assert {name for name in dir(cv2.Tracker) if not name.startswith("_")} <= set(dir(TrackerSiamFC))
    assert all(hasattr(TrackerSiamFC, name) for name in ("create", "getTrackingScore"))


def test_create_takes_what_from_pretrained_takes(tmp_path):
    path = tmp_path / "net.safetensors"
    save_state(network(), path)
    tracker = TrackerSiamFC.create(path, backend="eager", scale_num=1)
    expected = Tracker.from_pretrained(path, backend="eager", scale_num=1)
    tracker.init(bgr()[0], RECT)
    expected.init(VIDEO.frame(0)[0], RECT)
    np.testing.assert_array_equal(tracker.update(bgr()[1])[1], expected.update(VIDEO.frame(1)[0]).box.round())
    with pytest.raises(FileNotFoundError, match="path must be an existing file, got .*no.pth"):
        TrackerSiamFC.create(tmp_path / "no.pth")


def test_a_lost_target_is_not_found():
    class Lost:
        def update(self, image):
            return TrackResult(np.array([3.5, -2.6, 0.2, 7.0]), 0.1, True)

    tracker = TrackerSiamFC(Lost())
    assert tracker.update(bgr()[0]) == (False, (4, -3, 1, 7)) and tracker.getTrackingScore() == 0.1


def test_what_it_accepts_and_refuses():
    tracker = TrackerSiamFC(Tracker(network(), backend="eager"))
    frame = bgr()[0]
    with pytest.raises(RuntimeError, match="init must be called before update"):
        tracker.update(frame)
    for rect in (np.array(RECT), list(RECT), (RECT[0] + 0.5, *RECT[1:]), (-5, -5, 30, 30)):
        tracker.init(frame, rect)
    tracker.init(frame[..., 0], RECT)  # grey
    for image, message in (
        (None, "image must be a NumPy array or a tensor, got NoneType"),  # what capture.read() ends with
        (np.dstack([frame, frame[..., :1]]), "image must be uint8 [H, W, 3] or [H, W], got uint8 [120, 160, 4]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            tracker.init(image, RECT)
    for rect, message in (
        ((300, 300, 10, 10), "box must overlap the image of 160 x 120 px, got 300, 300, 10, 10"),
        ((0, 0, 0, 0), "box must have sides above 0"),  # what cv2.selectROI gives for a cancelled selection
        ((float("nan"), 0, 10, 10), "box must be four finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            tracker.init(frame, rect)


def test_examples_run():
    result = doctest.testmod(opencv)
    assert result.failed == 0 and result.attempted > 5
