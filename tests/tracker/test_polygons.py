"""Polygon overlap against shapely, an independent computation, and against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tracker.eval.metrics import iou
from tracker.eval.polygons import box_corners, corners_box, polygon_overlap

shapely = pytest.importorskip("shapely")

COUNT = 10_000
SIZE = (50.0, 40.0)


def quadrilaterals(seed: int) -> np.ndarray:
    """Corners in the order of their angle around a point: convex and concave ones in about equal parts."""
    rng = np.random.default_rng(seed)
    around = rng.uniform(-40, 40, (COUNT, 4, 2))
    order = np.argsort(np.arctan2(around[..., 1], around[..., 0]), axis=1)
    return (rng.uniform(0, 60, (COUNT, 1, 2)) + np.take_along_axis(around, order[..., None], 1)).reshape(COUNT, 8)


def expected(a: np.ndarray, b: np.ndarray, size=None) -> np.ndarray:
    first, second = (shapely.make_valid(shapely.polygons(rows.reshape(len(rows), -1, 2))) for rows in (a, b))
    if size is not None:
        image = shapely.box(0, 0, *size)
        first, second = (shapely.intersection(shapes, image) for shapes in (first, second))
    either = shapely.area(shapely.union(first, second))
    return shapely.area(shapely.intersection(first, second)) / np.where(either == 0, 1, either)


@pytest.mark.parametrize("size", [None, SIZE])
def test_ten_thousand_quadrilaterals_match_shapely(size):
    a, b = quadrilaterals(0), quadrilaterals(1)
    shapes = shapely.polygons(a.reshape(COUNT, 4, 2))
    concave = shapely.area(shapely.convex_hull(shapes)) > shapely.area(shapes) * (1 + 1e-9)
    assert 0.2 < concave.mean() < 0.8
    overlaps = polygon_overlap(a, b, size)
    assert (overlaps > 0).mean() > 0.3
    assert np.abs(overlaps - expected(a, b, size)).max() < 1e-9


def test_quadrilaterals_that_cross_themselves_are_even_odd():
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0, 60, (2, 1000, 8))  # corners in any order: a third of them cross themselves
    assert (~shapely.is_valid(shapely.polygons(a.reshape(-1, 4, 2)))).mean() > 0.2
    assert np.abs(polygon_overlap(a, b) - expected(a, b)).max() < 1e-9
    bow_tie = [0, 0, 2, 2, 2, 0, 0, 2]
    assert polygon_overlap(bow_tie, [0, 0, 2, 2]) == pytest.approx(0.5, abs=1e-15)


def test_any_number_of_corners_at_any_place():
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (500, 7)), axis=1)
    radii = rng.uniform(0.5, 30, (500, 7))
    star = np.stack([radii * np.cos(angles), radii * np.sin(angles)], -1) + 1e4
    triangle = rng.uniform(1e4 - 30, 1e4 + 30, (500, 6))
    overlaps = polygon_overlap(star.reshape(500, 14), triangle)
    assert np.abs(overlaps - expected(star.reshape(500, 14), triangle)).max() < 1e-9


def test_boxes_overlap_as_iou_has_it():
    rng = np.random.default_rng(4)
    a, b = np.concatenate([rng.uniform(0, 30, (2, 500, 2)), rng.uniform(1, 30, (2, 500, 2))], axis=2)
    assert np.abs(polygon_overlap(a, b) - iou(a, b)).max() < 1e-12
    assert np.abs(polygon_overlap(box_corners(a), b) - iou(a, b)).max() < 1e-12


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("step", [1, -1])
def test_order_of_corners_does_not_matter(turn, step):
    diamond = np.roll(np.array([[1, 0], [2, 1], [1, 2], [0, 1]]), turn, axis=0)[::step].ravel()
    assert polygon_overlap(diamond, [0, 0, 2, 2]) == 0.5
    assert polygon_overlap(diamond, diamond) == 1.0


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [
        ([0, 0, 4, 4], [4, 0, 4, 4], 0.0),  # a common edge
        ([0, 0, 4, 4], [40, 40, 4, 4], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
        ([0, 0, 4, 0, 8, 0], [0, 0, 4, 4], 0.0),  # corners on one line
        ([0, 0, 4, 0, 4, 4, 4, 4], [0, 0, 4, 4], 0.5),  # a corner twice
        ([0, 0, 4, 4], [np.nan, 0, 4, 4], np.nan),
        ([0, 0, np.inf, 4], [0, 0, 4, 4], np.nan),
    ],
)
def test_shapes_at_the_edge(a, b, overlap):
    assert polygon_overlap(a, b) == pytest.approx(overlap, nan_ok=True)
    assert polygon_overlap(b, a) == pytest.approx(overlap, nan_ok=True)


def test_what_leaves_the_image_does_not_count():
    assert polygon_overlap([-10, 0, 20, 10], [0, 0, 10, 10], (10, 10)) == 1.0
    assert polygon_overlap([-10, -10, 5, 5], [0, 0, 10, 10], (10, 10)) == 0.0
    assert polygon_overlap([-10, -10, 5, 5], [-10, -10, 5, 5], (10, 10)) == 0.0


def test_box_to_start_with():
    assert corners_box([[0, 0, 4, 0, 4, 2, 0, 2]]).tolist() == [[-0.5, -0.5, 5, 3]]
    diamond = corners_box([2, 0, 4, 2, 2, 4, 0, 2])  # half of the area of the box around it
    assert diamond == pytest.approx([2 - (4 / 2**0.5 + 1) / 2] * 2 + [4 / 2**0.5 + 1] * 2)


@pytest.mark.parametrize(
    ("a", "b", "size", "message"),
    [
        (np.zeros((2, 4)), np.zeros((3, 4)), None, "pred and target must be of one length, got 2 and 3"),
        (np.zeros((2, 5)), np.zeros((2, 4)), None, r"pred must be \[N, 2 K\] corners .*got shape \(2, 5\)"),
        (np.zeros((2, 4)), np.zeros((2, 2)), None, r"target must be \[N, 2 K\] corners .*got shape \(2, 2\)"),
        (np.zeros((2, 4, 2)), np.zeros((2, 4)), None, r"pred must be .*got shape \(2, 4, 2\)"),
        (np.zeros((2, 4)), np.zeros((2, 4)), (0, 5), "size must be a width and a height above 0, got 0"),
    ],
)
def test_wrong_shapes(a, b, size, message):
    with pytest.raises(ValueError, match=f"polygon_overlap: {message}"):
        polygon_overlap(a, b, size)
