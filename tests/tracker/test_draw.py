"""Drawing boxes on frames and writing them as a video."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tracker.data.synthetic import SyntheticVideo
from tracker.io.draw import LOST, TRACKED, TRUTH, VideoError, VideoWriter, annotate
from tracker.io.sources import open_source

VIDEO = SyntheticVideo(0, 12, (160, 120), occlusions=0)


def test_annotate_draws_on_a_copy():
    image = np.zeros((240, 320, 3), np.uint8)
    drawn = annotate(image, (100, 80, 60, 40), score=0.5, frame=7, fps=31.4, truth=(10, 150, 60, 40))
    assert not image.any()
    assert drawn[80, 130].tolist() == list(TRACKED) and drawn[150, 40].tolist() == list(TRUTH)
    assert drawn[:24, :160].any()  # frame number and rate
    assert annotate(image, (100, 80, 60, 40), lost=True)[80, 130].tolist() == list(LOST)
    assert annotate(image, (-1e9, -1e9, 1e3, 1e3), score=1.0).shape == image.shape
    assert annotate(np.zeros((8, 8, 3), np.uint8), (1, 1, 4, 4), score=1.0, frame=1).shape == (8, 8, 3)


def test_video_writer_leaves_nothing_behind(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    path = tmp_path / "a.avi"
    path.write_text("older file")
    for error in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(error), VideoWriter(path, (64, 48)) as video:
            video.write(image)
            raise error
    with VideoWriter(path, (64, 48)):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.avi"] and path.read_text() == "older file"
    with VideoWriter(path, (64, 48)) as video:
        video.write(image)
        assert path.read_text() == "older file"
    assert [p.name for p in tmp_path.iterdir()] == ["a.avi"] and sum(1 for _ in open_source(path)) == 1


def test_video_writer_errors(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="path must end in .mp4, .avi or .webm, got 'a.gif'"):
        VideoWriter("a.gif", (64, 48))
    with pytest.raises(OSError, match="path must lie in an existing folder, got"):
        VideoWriter(tmp_path / "no" / "a.mp4", (64, 48))
    with VideoWriter(tmp_path / "a.mp4", (64, 48)) as video:
        with pytest.raises(ValueError, match=r"image must be uint8 \[48, 64, 3\], got uint8 \[48, 60, 3\]"):
            video.write(np.zeros((48, 60, 3), np.uint8))
    tried = []

    class NoCodec:
        def __init__(self, path, *_):
            tried.append(path)

        def isOpened(self):
            return False

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoWriter", NoCodec)
    with pytest.raises(VideoError, match="must have one of the codecs avc1, mp4v, got none"):
        VideoWriter(tmp_path / "a.mp4", (64, 48))
    assert len(tried) == 2 and list(tmp_path.iterdir()) == []


def test_odd_sizes_keep_their_frames(tmp_path):
    for suffix in (".mp4", ".avi"):
        with VideoWriter(tmp_path / f"a{suffix}", (65, 47)) as video:
            for _ in range(3):
                video.write(np.full((47, 65, 3), 90, np.uint8))
        with open_source(tmp_path / f"a{suffix}") as source:
            assert abs(source.size[0] - 65) <= 1 and abs(source.size[1] - 47) <= 1
            assert sum(1 for _ in source) == 3


@pytest.mark.parametrize(
    "size, aspect, played",
    [
        ((64, 48), 4 / 3, (86, 48)),  # 85 columns and one more
        ((64, 48), 0.5, (64, 96)),
        ((61, 48), 16 / 11, (90, 48)),
        ((64, 48), 65535.0, (64, 48)),
        ((64, 48), float("nan"), (64, 48)),
        ((64, 48), -1.0, (64, 48)),
    ],
)
def test_pixels_become_square(tmp_path, size, aspect, played):
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, : size[0] // 2] = 255
    with VideoWriter(tmp_path / "a.avi", size, pixel_aspect=aspect) as video:
        video.write(image)
    with open_source(tmp_path / "a.avi") as frames:
        shown = next(frames)
    assert shown.shape[1::-1] == played
    assert (shown[:, : played[0] // 2 - 4] > 200).all() and (shown[:, played[0] // 2 + 4 :] < 50).all()
