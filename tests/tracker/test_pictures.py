"""`Pictures`, and synthetic videos and training pairs made of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.data.pairs import PairDataset
from tracker.data.pictures import CUTOUT_SIDE, SCENE_SIDE, Pictures
from tracker.data.synthetic import SyntheticVideo

BLUE, RED = (40, 60, 200), (220, 30, 30)  # RGB


@pytest.fixture
def folder(tmp_path):
    """A large blue scene, a grey one of 16 bits in a subfolder, and a red disc on nothing, off the middle."""
    (tmp_path / "deep").mkdir()
    cv2.imwrite(str(tmp_path / "scene.jpg"), np.full((900, 1500, 3), BLUE[::-1], np.uint8))
    cv2.imwrite(str(tmp_path / "deep" / "grey.png"), np.full((40, 30), 128 * 257, np.uint16))
    disc = np.zeros((500, 700, 4), np.uint8)
    cv2.ellipse(disc, (300, 200), (200, 100), 0, 0, 360, (*RED[::-1], 255), -1)
    cv2.imwrite(str(tmp_path / "disc.png"), disc)
    cv2.imwrite(str(tmp_path / "blank.png"), np.zeros((64, 64, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "tiny.png"), np.zeros((8, 64, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_scenes_and_cutouts_are_told_apart_trimmed_and_reduced(folder):
    pictures = Pictures([folder])
    assert len(pictures.scenes) == 2 and len(pictures.cutouts) == 1  # neither what is blank nor what is tiny
    grey, scene = sorted(pictures.scenes, key=len)
    assert grey.shape == (40, 30, 3) and scene.shape == (round(900 * SCENE_SIDE / 1500), SCENE_SIDE, 3)
    assert (grey == 128).all() and abs(scene.astype(int) - BLUE).max() <= 3
    (disc,) = pictures.cutouts
    assert disc.shape[1] == CUTOUT_SIDE and disc.shape[0] == pytest.approx(CUTOUT_SIDE / 2, abs=1)
    assert (disc[len(disc) // 2, CUTOUT_SIDE // 2] == (*RED, 255)).all()


def test_parts_have_the_size_asked_for(folder):
    pictures, rng = Pictures([folder]), np.random.default_rng(0)
    for size in ((320, 240), (20, 400), (3000, 10)):
        assert pictures.scene(rng, size).shape == (size[1], size[0], 3)
    cutout = pictures.cutout(rng, 60 * 60)
    height, width = (side - 4 for side in cutout.shape[:2])
    assert width * height == pytest.approx(3600, rel=0.05) and width % 2 == height % 2 == 1
    assert not cutout[:2].any() and not cutout[:, -2:].any()


def test_places_are_files_folders_and_patterns(folder):
    assert len(Pictures([folder / "disc.png"]).cutouts) == 1
    assert len(Pictures([f"{folder}/*.jpg"]).scenes) == 1
    assert len(Pictures([folder / "deep", f"{folder}/s*"]).scenes) == 2


def test_bad_places_are_named(folder):
    with pytest.raises(ValueError, match="a place must be a picture or hold some, got none in '.*nowhere'"):
        Pictures([folder / "nowhere"])
    with pytest.raises(ValueError, match="places must hold pictures of 16 px or more, got none"):
        Pictures([folder / "tiny.png"])
    (folder / "deep" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="image of 8 or 16 bits that can be decoded, got '.*broken.png'"):
        Pictures([folder])


def test_what_is_no_picture_of_bytes_is_refused_and_hidden_files_are_left_out(folder):
    (folder / "._scene.jpg").write_bytes(b"what a file system keeps beside it")
    assert len(Pictures([folder]).scenes) == 2
    cv2.imwrite(str(folder / "float.tiff"), np.zeros((32, 32, 3), np.float32))
    with pytest.raises(ValueError, match="image of 8 or 16 bits that can be decoded, got '.*float.tiff'"):
        Pictures([folder])


def test_a_thin_line_stays_when_it_is_reduced(tmp_path):
    line = np.zeros((256, 256, 4), np.uint8)
    line[100] = line[:, 30] = line[220] = 255
    cv2.imwrite(str(tmp_path / "line.png"), line)
    pictures = Pictures([tmp_path])
    assert pictures.cutout(np.random.default_rng(0), 24 * 24)[:, :, 3].max() == 255
    for seed in range(8):
        assert SyntheticVideo(seed, 4, (160, 120), target=24, pictures=pictures).boxes[:, 2:].min() > 5


def test_videos_show_the_pictures_and_know_their_boxes(folder):
    pictures = Pictures([folder / "disc.png", folder / "scene.jpg"])
    found = 0
    for seed in range(12):
        video = SyntheticVideo(seed, 30, (320, 240), occlusions=0, distractors=0, noise=0, pictures=pictures)
        again = SyntheticVideo(seed, 30, (320, 240), occlusions=0, distractors=0, noise=0, pictures=pictures)
        for index in (0, 11, 29):
            image, (x, y, w, h) = video.frame(index)
            assert np.array_equal(image, again.frame(index)[0])
            red = (image[:, :, 0] > 130) & (image[:, :, 2] < 100)
            if video._target._patch.shape[0] * 1.5 < video._target._patch.shape[1] and red.sum() > 500:
                rows, columns = np.nonzero(red)
                # The red part fades out within a pixel or two of the edge that the box bounds.
                assert abs(columns.min() - x) <= 3 and abs(columns.max() - (x + w - 1)) <= 3
                assert abs(rows.min() - y) <= 3 and abs(rows.max() - (y + h - 1)) <= 3
                found += 1
    assert found >= 9  # three frames of three videos or more have the disc as their target


def test_pairs_of_pictures(folder):
    pictures = Pictures([folder / "disc.png", folder / "scene.jpg"])
    pairs, plain = PairDataset.synthetic(1, 4, pictures=pictures), PairDataset.synthetic(1, 4)
    for index in range(4):
        for a, b in zip(pairs[index], PairDataset.synthetic(1, 4, pictures=pictures)[index], strict=True):
            assert np.array_equal(a, b)
        assert not np.array_equal(pairs[index].search, plain[index].search)
