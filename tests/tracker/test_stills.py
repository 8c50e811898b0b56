"""Training pairs of single pictures: two views of one patch or cut-out, with exact boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.data.pairs import PairDataset
from tracker.data.pictures import Pictures
from tracker.data.stills import STRETCH

SIZE = 287


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(0, 256, (40, 60, 3), np.uint8), (600, 400), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "scene.png"), noise)
    red = np.zeros((80, 120, 4), np.uint8)
    red[10:70, 20:100] = (0, 0, 255, 255)
    cv2.imwrite(str(folder / "cutout.png"), red)
    return Pictures([folder])


def test_pairs_are_a_function_of_seed_and_index(pictures):
    first, second = (PairDataset.stills(pictures, 20, seed=3, crop_size=SIZE) for _ in range(2))
    for a, b in zip(first[7], second[7], strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(first[7].exemplar, first[8].exemplar)


def test_boxes_are_centred_at_the_scale_of_a_crop(pictures):
    pairs = PairDataset.stills(pictures, 40, crop_size=SIZE)
    for i in range(40):
        pair = pairs[i]
        for crop, box in ((pair.exemplar, pair.exemplar_box), (pair.search, pair.search_box)):
            assert crop.shape == (SIZE, SIZE, 3) and crop.dtype == np.uint8 and box.dtype == np.float32
            np.testing.assert_allclose(box[:2] + box[2:] / 2, SIZE / 2, atol=1e-3)
            margin = box[2:].sum() / 2
            assert np.sqrt(np.prod(box[2:] + margin)) == pytest.approx(127, rel=1e-4)  # SiamFC's exemplar


def test_the_box_bounds_a_cut_out(pictures):
    """The red rectangle, however it is turned and stretched, touches the edges of its box."""
    pictures = Pictures.__new__(Pictures)
    red = np.zeros((60, 80, 4), np.uint8)
    red[:] = (255, 0, 0, 255)
    pictures.cutouts, pictures.scenes = [red], [np.full((300, 300, 3), 128, np.uint8)]
    pairs = PairDataset.stills(pictures, 60, crop_size=SIZE)
    seen = 0
    for i in range(60):
        for crop, box in ((pairs[i].exemplar, pairs[i].exemplar_box), (pairs[i].search, pairs[i].search_box)):
            mask = (crop[..., 0] > 190) & (crop[..., 1] < 70)
            if not mask.any():  # a patch of the scene
                continue
            seen += 1
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
            np.testing.assert_allclose(found, box, atol=3.5)
    assert seen > 20


def test_views_differ_by_no_more_than_they_may(pictures):
    pairs = PairDataset.stills(pictures, 60, crop_size=SIZE)
    boxes = [(pair.exemplar_box, pair.search_box) for pair in map(pairs.__getitem__, range(60))]
    aspects = [(a[2] / a[3], b[2] / b[3]) for a, b in boxes]
    change = np.array([max(a / b, b / a) for a, b in aspects])
    assert 1.05 < change.mean() and change.max() < ((1 + STRETCH) * 1.4) ** 2


def test_cut_outs_alone_are_refused():
    pictures = Pictures.__new__(Pictures)
    pictures.cutouts, pictures.scenes = [np.full((60, 80, 4), 255, np.uint8)], []
    with pytest.raises(ValueError, match="pictures must hold a scene, got cut-outs only"):
        PairDataset.stills(pictures, 2)[0]
