"""`tracker track` on a video file written from a real sequence gives the boxes of the sequence itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.paths import DATA, WEIGHTS
from tracker.cli import main
from tracker.data.otb import load_sequence
from tracker.eval.metrics import iou

FRAMES = 50

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("real_data"),
]


def _track(source: Path, box: np.ndarray, results: Path) -> np.ndarray:
    weights = WEIGHTS
    arguments = ["track", str(source), "--box", ",".join(f"{v:g}" for v in box), "--weights", str(weights), "--quiet"]
    assert main([*arguments, "--results", str(results), "--max-frames", str(FRAMES)]) == 0
    return np.loadtxt(results, delimiter=",")


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG")])
def test_video_file_gives_the_boxes_of_its_frames(tmp_path, suffix, codec):
    sequence = load_sequence(DATA / "sequences" / "MountainBike")
    frames = [cv2.imread(str(path)) for path in sequence.frames[:FRAMES]]
    video = tmp_path / f"video{suffix}"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*codec), 30, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()

    from_folder = _track(sequence.frames[0].parent, sequence.boxes[0], tmp_path / "folder.txt")
    from_video = _track(video, sequence.boxes[0], tmp_path / "video.txt")
    assert from_folder.shape == from_video.shape == (FRAMES, 4)
    overlap = iou(from_folder, from_video)
    assert overlap.mean() >= 0.9 and overlap.min() >= 0.75
    assert iou(from_folder - [1, 1, 0, 0], sequence.boxes[:FRAMES]).mean() >= 0.7  # files are 1-based
