"""What the tracker does must not depend on torch's default device or autocast; a tracker under way can be copied."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from tracker import BatchTracker, SiamFC, Tracker
from tracker.config import TrackerConfig
from tracker.data.synthetic import SyntheticVideo

pytestmark = pytest.mark.usefixtures("one_thread")
VIDEO = SyntheticVideo(0, 5, (160, 120), occlusions=0)
BOTH_HEADS = pytest.mark.parametrize("head", ["xcorr", "box"])


def model(head: str) -> SiamFC:
    torch.manual_seed(0)
    return SiamFC("mish", "se", head, width=0.125).eval()


def tracked(tracker: Tracker, first: int = 1) -> np.ndarray:
    return np.array([tracker.update(VIDEO.image(index)).box for index in range(first, 5)])


def started(tracker: Tracker) -> Tracker:
    tracker.init(VIDEO.image(0), VIDEO.boxes[0])
    return tracker


@BOTH_HEADS
@pytest.mark.parametrize("backend", ["fastops", "eager"])
def test_a_tracker_is_where_its_model_is(head, backend):
    expected = tracked(started(Tracker(model(head), backend=backend)))
    network = model(head)
    with torch.device("meta"):
        assert np.array_equal(tracked(started(Tracker(network, backend=backend))), expected)


@BOTH_HEADS
@pytest.mark.parametrize("backend", ["fastops", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tracker_computes_in_its_own_dtype(head, backend, dtype):
    expected = tracked(started(Tracker(model(head), backend=backend)))
    with torch.autocast("cpu", dtype):
        assert np.array_equal(tracked(started(Tracker(model(head), backend=backend))), expected)


@BOTH_HEADS
def test_a_batch_tracker_is_where_its_model_is(head):
    network = model(head)
    with torch.device("meta"):
        tracker = BatchTracker(network)
        target = tracker.add(VIDEO.image(0), VIDEO.boxes[0])
        box = tracker.update(VIDEO.image(1))[target].box
    assert box == pytest.approx(tracked(started(Tracker(network)))[0], abs=1e-3)


@BOTH_HEADS
@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tracker: pickle.loads(pickle.dumps(tracker))])
def test_a_copy_goes_on_as_the_tracker_does(head, calibrate, copied):
    tracker = started(Tracker(model(head), config=TrackerConfig(box_calibrate=calibrate)))
    tracker.update(VIDEO.image(1))
    other = copied(tracker)
    assert np.array_equal(tracked(other, 2), tracked(tracker, 2))


@BOTH_HEADS
def test_a_batch_tracker_can_be_pickled(head):
    tracker = BatchTracker(model(head))
    target = tracker.add(VIDEO.image(0), VIDEO.boxes[0])
    other = pickle.loads(pickle.dumps(tracker))
    assert np.array_equal(other.update(VIDEO.image(1))[target].box, tracker.update(VIDEO.image(1))[target].box)
