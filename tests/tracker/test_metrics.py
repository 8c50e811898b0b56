"""Evaluation metrics against values worked out by hand, and the reader of OTB sequences."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.data.otb import list_targets, load_sequence, read_boxes
from tracker.eval.metrics import (
    above,
    at_most,
    center_error,
    iou,
    normalized_center_error,
    precision_curve,
    precision_score,
    success_auc,
    success_curve,
)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
        ([0, 0, 2, 2], [1, 1, 2, 2], 1 / 7),
        ([0, 0, 4, 2], [1, 0, 2, 2], 0.5),
        ([0, 0, 2, 2], [2, 0, 2, 2], 0.0),
        ([0, 0, 2, 2], [50, 50, 2, 2], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([-3.5, -1, 4, 4], [-3.5, 1, 4, 4], 1 / 3),
    ],
)
def test_iou_of_hand_computed_boxes(a, b, expected):
    assert iou(a, b) == pytest.approx(expected, abs=1e-15)
    assert iou(b, a) == pytest.approx(expected, abs=1e-15)


def test_iou_keeps_leading_dimensions():
    boxes = np.random.default_rng(0).uniform(1, 9, (2, 3, 4))
    assert np.allclose(iou(boxes, boxes), np.ones((2, 3)))


def test_rounding_lifts_no_overlap_above_one():
    boxes = np.random.default_rng(0).uniform(0.1, 60, (10_000, 4)).round(1)
    assert iou(boxes, boxes).max() == 1.0


def test_center_error_uses_pixel_centres():
    # Centres x + (w - 1) / 2: 1 and 3.5 along x, 0.5 and 6.5 along y.
    assert center_error([0, 0, 3, 2], [3, 6, 2, 2]) == pytest.approx(6.5)


def test_normalized_center_error_is_in_parts_of_the_target():
    assert normalized_center_error([3, 8, 10, 20], [0, 0, 10, 20]) == pytest.approx(0.5)
    assert np.isnan(normalized_center_error([3, 8, 10, 20], [0, 0, 0, 20]))


def test_curves_are_numpys():
    rng = np.random.default_rng(0)
    values, thresholds = rng.integers(0, 12, 1000) / 10, rng.permutation(np.arange(13) / 10)  # many ties, any order
    values[::50] = np.nan
    assert np.array_equal(above(values, thresholds), (values[:, None] > thresholds).mean(axis=0))
    assert np.array_equal(at_most(values, thresholds), (values[:, None] <= thresholds).mean(axis=0))
    for curve in (above, at_most):
        with pytest.raises(ValueError, match=r"threshold_curve: values and thresholds must be .*got shapes \(0,\)"):
            curve([], thresholds)


def test_success_is_strictly_above_the_threshold():
    target = np.array([[0, 0, 10, 10]] * 4, np.float64)
    pred = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 10, 2.5], [90, 90, 10, 10]], np.float64)
    expected = np.zeros(21)
    expected[:5] = 0.75  # overlaps 1, .5, .25, 0: above 0, .05, .1, .15, .2
    expected[5:10] = 0.5  # .25 is not above .25
    expected[10:20] = 0.25  # .5 is not above .5
    assert np.array_equal(success_curve(pred, target), expected)  # and 1 is not above 1
    assert success_auc(pred, target) == pytest.approx((5 * 0.75 + 5 * 0.5 + 10 * 0.25) / 21)


def test_precision_counts_errors_up_to_the_threshold():
    target = np.zeros((4, 4)) + [0, 0, 10, 10]
    pred = target + np.array([[0, 0, 0, 0], [12, 16, 0, 0], [21, 0, 0, 0], [60, 0, 0, 0]])
    curve = precision_curve(pred, target)
    assert curve.shape == (51,)
    assert curve[[0, 19, 20, 21, 50]].tolist() == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert precision_score(pred, target) == 0.5


@pytest.mark.parametrize("metric", [iou, center_error, normalized_center_error, success_curve, precision_curve])
def test_metrics_reject_wrong_shapes(metric):
    with pytest.raises(ValueError, match=r"pred must be .*got shape \(3, 5\)"):
        metric(np.zeros((3, 5)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"pred and target must have one shape, got \(3, 4\) and \(2, 4\)"):
        metric(np.zeros((3, 4)), np.zeros((2, 4)))


@pytest.mark.parametrize("metric", [success_curve, precision_curve])
def test_curves_need_frames(metric):
    with pytest.raises(ValueError, match=r"pred must be \[frames, 4\] with at least one frame, got shape \(0, 4\)"):
        metric(np.zeros((0, 4)), np.zeros((0, 4)))


@pytest.fixture
def sequence(tmp_path):
    """A folder with three empty frames; call it with ground-truth files to write."""
    (tmp_path / "img").mkdir()
    for i in (1, 2, 3):
        (tmp_path / "img" / f"{i:04d}.jpg").touch()
    (tmp_path / "img" / "notes.txt").touch()

    def write(**files: str):
        for name, text in files.items():
            (tmp_path / f"groundtruth_rect{name.removeprefix('gt').replace('_', '.')}.txt").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("text", ["10,20,3,4\n1,1,5,6\n", "10\t20\t3\t4\r\n1\t1\t5\t6", "10 20 3 4\n 1, 1, 5, 6 \n\n"])
def test_sequence_boxes_become_zero_based(sequence, text):
    folder = sequence(gt=text)
    with pytest.warns(UserWarning, match="2 boxes for 3 images"):
        loaded = load_sequence(folder)
    assert loaded.name == folder.name
    assert [p.name for p in loaded.frames] == ["0001.jpg", "0002.jpg", "0003.jpg"]
    assert loaded.boxes.tolist() == [[9, 19, 3, 4], [0, 0, 5, 6]]  # two boxes for three frames: allowed


def test_sequence_with_several_targets(sequence):
    folder = sequence(gt_1="1,1,2,2\n", gt_2="5,5,2,2\n", gt_10="9,9,2,2\n")
    assert len(list_targets(folder)) == 3
    assert load_sequence(folder).name == f"{folder.name}.1"
    assert load_sequence(folder, target=3).boxes.tolist() == [[8, 8, 2, 2]]
    with pytest.raises(ValueError, match=r"target must be from 1 to 3 in .*, got 4"):
        load_sequence(folder, target=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4\n1,2,3\n", r"groundtruth_rect.txt:2: line must be four finite numbers x, y, w, h, .* got '1,2,3'"),
        ("1,2,x,4\n", r"groundtruth_rect.txt:1: line must be four finite numbers .* got '1,2,x,4'"),
        ("1,2,nan,4\n", r"groundtruth_rect.txt:1: line must be four finite numbers .* got '1,2,nan,4'"),
        ("", r"groundtruth_rect.txt:1: file must hold at least one box, got none"),
    ],
)
def test_malformed_ground_truth_names_file_and_line(sequence, text, message):
    folder = sequence(gt=text)
    with pytest.raises(ValueError, match=message):
        read_boxes(folder / "groundtruth_rect.txt")


def test_more_boxes_than_frames_is_an_error(sequence):
    with pytest.raises(ValueError, match=r"must have at most one box per frame \(3\), got 4"):
        load_sequence(sequence(gt="1,1,2,2\n" * 4))


def test_missing_parts_of_a_sequence(sequence, tmp_path):
    with pytest.raises(FileNotFoundError, match="folder must hold groundtruth_rect.txt"):
        load_sequence(sequence())
    with pytest.raises(FileNotFoundError, match="folder must be an existing directory"):
        load_sequence(tmp_path / "nowhere")
    folder = sequence(gt="1,1,2,2\n")
    for frame in (folder / "img").iterdir():
        frame.unlink()
    with pytest.raises(FileNotFoundError, match="img must hold image files, got none"):
        load_sequence(folder)
