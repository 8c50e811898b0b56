"""`tracker track`: what it writes, what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import tracker.io.draw as draw
from tests.support.commands import BOX, VIDEO, assert_one_line, make_sequence, make_weights, run
from tests.support.paths import ROOT
from tracker import SiamFC, Tracker
from tracker.data.otb import load_sequence, read_boxes
from tracker.eval.run import Run
from tracker.io.draw import VideoWriter, write_boxes
from tracker.io.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> Path:
    return make_sequence(tmp_path_factory.mktemp("otb"))


@pytest.mark.parametrize("backend", ["eager", "fastops"])
def test_track_writes_video_boxes_and_summary(capsys, tmp_path, sequence, weights, backend):
    output, results = tmp_path / "out.mp4", tmp_path / "boxes.txt"
    code, out, err = run(
        capsys, "track", sequence / "img", "--box", BOX, "--weights", weights, "--backend", backend,
        "-o", output, "--results", results,
    )  # fmt: skip
    assert (code, err) == (0, "")
    for text in ("end to end", "tracker only", "p50", "p95", "p99", "fps", str(output), str(results)):
        assert text in out
    boxes = read_boxes(results)
    assert len(boxes) == 12
    # The file is 1-based as OTB has it, --box is 0-based.
    assert boxes[0] == pytest.approx(np.round(VIDEO.boxes[0], 2) + (1, 1, 0, 0), abs=0.011)
    with open_source(output) as video:
        assert (video.size, sum(1 for _ in video)) == ((160, 120), 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "out.mp4"]


def test_sequence_folder_needs_no_box_and_reports_overlap(capsys, sequence, weights):
    arguments = ("--weights", weights, "--backend", "eager", "--json", "--max-frames", 5)
    code, out, _ = run(capsys, "track", sequence, *arguments)
    summary = json.loads(out)
    assert code == 0 and summary["frames"] == 5 and 0 < summary["mean_overlap"] <= 1
    assert summary["fps_tracker"] > summary["fps_end_to_end"] > 0
    assert summary["ms"]["p50"] <= summary["ms"]["p95"] <= summary["ms"]["p99"]


def test_target_of_a_sequence_folder(capsys, tmp_path, sequence, weights):
    folder = tmp_path / "Two"
    folder.mkdir()
    (folder / "img").symlink_to(sequence / "img")
    other = VIDEO.boxes + (30, -20, 0, 0)
    for number, boxes in enumerate((VIDEO.boxes, other), start=1):
        write_boxes(folder / f"groundtruth_rect.{number}.txt", boxes)
    results = tmp_path / "boxes.txt"

    def track(source, *more):
        arguments = ("--weights", weights, "--backend", "eager", "--json", "--max-frames", 2, "--results", results)
        return run(capsys, "track", source, *arguments, *more)

    def text(box):
        return ",".join(str(value) for value in box)

    for target, box in ((1, VIDEO.boxes[0]), (2, other[0])):
        code, out, _ = track(folder, "--target", target)
        assert code == 0 and json.loads(out)["mean_overlap"] > 0.3
        assert read_boxes(results)[0] == pytest.approx(box + (1, 1, 0, 0), abs=0.01)
    # A box of one's own is only compared with the truth of the target that it marks.
    assert json.loads(track(folder, "--target", 2, "--box", text(other[0] + 1))[1])["mean_overlap"] > 0.3
    assert json.loads(track(folder, "--target", 1, "--box", text(other[0]))[1])["mean_overlap"] is None
    assert_one_line(track(folder, "--target", 3), "target must be from 1 to 2 in .*, got 3")
    assert_one_line(track(sequence / "img", "--target", 1), "--target must be left out: .* is no OTB sequence folder")


def test_sequence_is_tracked_from_its_first_annotated_frame(capsys, tmp_path, sequence, weights):
    folder = tmp_path / "BlurCar3"  # in OTB its boxes start at image 3
    folder.mkdir()
    (folder / "img").symlink_to(sequence / "img")
    write_boxes(folder / "groundtruth_rect.txt", VIDEO.boxes[2:])
    code, out, _ = run(capsys, "track", folder, "--weights", weights, "--backend", "eager", "--json")
    assert code == 0 and json.loads(out)["frames"] == len(VIDEO.boxes) - 2
    loaded = load_sequence(folder)
    assert [path.name for path in loaded.frames[:2]] == ["0003.png", "0004.png"]
    assert len(load_sequence(folder, start_frame=1).frames) == 12
    write_boxes(folder / "groundtruth_rect.txt", VIDEO.boxes)  # a box for every image: nothing is left out
    assert len(load_sequence(folder).frames) == 12
    with pytest.raises(ValueError, match=r"at most one box per frame \(11\), got 12 from image 2 on"):
        load_sequence(folder, start_frame=2)
    for start in (0, 13):
        with pytest.raises(ValueError, match=f"start_frame must be from 1 to 12 in .*, got {start}"):
            load_sequence(folder, start_frame=start)


def test_outputs_never_replace_inputs(capsys, tmp_path, sequence, weights):
    video = tmp_path / "video.avi"
    with VideoWriter(video, VIDEO.size) as writer:
        for image in VIDEO.images():
            writer.write(image)
    (tmp_path / "link.avi").hardlink_to(video)
    (tmp_path / "sub").mkdir()
    before = video.read_bytes()

    def track(*more, source=video):
        return run(capsys, "track", source, "--box", BOX, "--weights", weights, "--backend", "eager", *more)

    for option in ("-o", "--results"):
        for name in ("video.avi", "sub/../video.avi", "link.avi"):
            assert_one_line(track(option, tmp_path / name), "(--output|--results) must be a file of its own, got .*avi")
    assert_one_line(track("--results", weights), "--results must be a file of its own")
    truth = sequence / "groundtruth_rect.txt"
    assert_one_line(track("--results", truth, source=sequence), "--results must be a file of its own")
    same = tmp_path / "new.avi"
    assert_one_line(track("-o", same, "--results", same), "--results must be a file of its own, got .*new.avi")
    assert video.read_bytes() == before and not same.exists()


def test_outputs_are_checked_before_the_run(capsys, monkeypatch, tmp_path, sequence, weights):
    monkeypatch.setattr(Run, "step", lambda *_: pytest.fail("tracking began"))

    def track(*more):
        return run(capsys, "track", sequence, "--weights", weights, "--backend", "eager", *more)

    assert_one_line(track("--results", tmp_path), "--results must be a file, got the folder")
    (tmp_path / "folder.avi").mkdir()
    assert_one_line(track("-o", tmp_path / "folder.avi"), "--output must be a file, got the folder .*folder.avi")

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(draw.tempfile, "TemporaryFile", refuse)
    message = r"--results must lie in a folder that can be written, got .*b.txt' \(Permission denied\)"
    assert_one_line(track("--results", tmp_path / "b.txt"), message)


def test_boxes_that_cannot_be_written_are_one_line(capsys, monkeypatch, tmp_path, sequence, weights):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draw, "write_boxes", full)
    arguments = ("--weights", weights, "--backend", "eager", "--max-frames", 2, "--results", tmp_path / "b.txt")
    assert_one_line(run(capsys, "track", sequence, *arguments), "No space left on device")


def test_activation_of_bare_weights(capsys, tmp_path, sequence):
    torch.manual_seed(0)
    bare = tmp_path / "bare.pth"
    torch.save(SiamFC("mish", width=0.125, ops="reference").state_dict(), bare)
    assert [
        Tracker.from_pretrained(bare, activation=activation, backend="eager").network.model.activation
        for activation in (None, "relu", "mish")
    ] == ["relu", "relu", "mish"]
    results = tmp_path / "boxes.txt"
    boxes = []
    for more in ((), ("--activation", "relu"), ("--activation", "mish")):
        arguments = ("--weights", bare, "--quiet", "--results", results, *more)
        assert run(capsys, "track", sequence, *arguments)[0] == 0
        boxes.append(results.read_text())
    assert boxes[0] == boxes[1] != boxes[2]
    result = run(capsys, "track", sequence, "--weights", bare, "--activation", "tanh")
    assert_one_line(result, "activation must be one of relu, mish, arelu, asigmoid, atanh, got 'tanh'")
    assert "ReLU if the file does not name it" in " ".join(run(capsys, "track", "--help")[1].split())


def test_summary_says_what_was_included(capsys, tmp_path, sequence, weights):
    arguments = ("track", sequence, "--weights", weights, "--backend", "eager", "--max-frames", 3)
    assert "fps (decode, track)" in run(capsys, *arguments)[1]
    assert "fps (decode, track, draw, write)" in run(capsys, *arguments, "-o", tmp_path / "a.avi")[1]


def test_quiet_prints_nothing(capsys, sequence, weights):
    result = run(capsys, "track", sequence, "--weights", weights, "--backend", "eager", "--max-frames", 2, "--quiet")
    assert result == (0, "", "")


def test_one_frame_has_no_rates(capsys, sequence, weights):
    arguments = ("track", sequence, "--weights", weights, "--backend", "eager", "--max-frames", 1)
    code, out, _ = run(capsys, *arguments, "--json")
    summary = json.loads(out)
    assert code == 0 and summary["frames"] == 1 and summary["fps_tracker"] is None
    assert summary["mean_overlap"] == pytest.approx(1)
    assert run(capsys, *arguments)[0] == 0


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "1,2,0,5", "1,2,nan,5", ""])
def test_bad_box(capsys, sequence, weights, box):
    result = run(capsys, "track", sequence, "--box", box, "--weights", weights)
    assert_one_line(
        result, "--box must be four numbers x,y,w,h with w and h above 0, got " if box else "--box must not be empty"
    )


def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path, sequence, weights):
    def track(source=sequence, *more, weights=weights):
        return run(capsys, "track", source, "--weights", weights, "--backend", "eager", *more)

    assert_one_line(track("nope.mp4"), "must be an existing file, folder, pattern or camera, got 'nope.mp4'")
    assert_one_line(track(weights=tmp_path / "no.pth"), "must be an existing file, siamfc-relu, .* got .*no.pth")
    (tmp_path / "text.pth").write_text("not weights")
    assert_one_line(track(weights=tmp_path / "text.pth"), "must be a file of plain weights")
    assert_one_line(track(sequence, "--box", "500,500,10,10"), "box must overlap the image of 160 x 120 px")
    for device in ("toaster", "mps", "meta"):
        assert_one_line(track(sequence, "--device", device), f"--device must be cpu, cuda or cuda:N, got '{device}'")
    assert_one_line(track(sequence, "--device", "cuda:99"), "--device must be one of this machine's .* GPUs")
    types = "--dtype must be float32, bfloat16, float16, int8 or auto, got 'int9'"
    assert_one_line(track(sequence, "--dtype", "int9"), types)
    assert_one_line(
        track(sequence, "--dtype", "int8", "--backend", "eager"), "--dtype int8 must go with --backend fastops"
    )
    assert_one_line(
        track(sequence, "--dtype", "auto", "--backend", "eager"),
        "--dtype auto must go with --backend fastops, got 'eager'",
    )
    assert_one_line(track(sequence, "--backend", "magic"), "backend must be one of fastops, eager, got 'magic'")
    assert_one_line(track(sequence, "-o", tmp_path / "a.mov"), "--output must end in .mp4, .avi or .webm, got")
    assert_one_line(track(sequence, "-o", tmp_path / "no" / "a.mp4"), "--output must lie in an existing folder")
    assert_one_line(track(sequence, "--results", tmp_path / "no" / "b.txt"), "--results must lie in an existing folder")
    assert_one_line(track(sequence, "--max-frames", 0), "max-frames")
    assert_one_line(track(sequence, "--bx", "1"), "No such option: --bx")
    assert_one_line(run(capsys, "trck"), "No such command")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert_one_line(track(sequence / "img"), "--box must be given: there is no display")


def test_box_is_picked_where_there_is_a_display(capsys, monkeypatch, sequence, weights):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "selectROI", lambda *_: (20, 20, 30, 30))
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    arguments = ("track", sequence / "img", "--weights", weights, "--backend", "eager", "--max-frames", 2, "--quiet")
    assert run(capsys, *arguments)[0] == 0
    monkeypatch.setattr(cv2, "selectROI", lambda *_: (0, 0, 0, 0))
    assert_one_line(run(capsys, *arguments), "--box must be given or picked, got no selection")

    def headless(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "selectROI", headless)
    remedy = "pip uninstall opencv-python-headless && pip install opencv-python"
    assert_one_line(run(capsys, *arguments), f"--box must be given: this OpenCV has no windows .*{remedy}")


def test_damaged_frame_ends_the_run_and_keeps_what_was_tracked(capsys, tmp_path, weights):
    folder = tmp_path / "run"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"{index}.png"), VIDEO.frame(index)[0])
    (folder / "3.png").write_bytes(b"broken")
    arguments = ("--weights", weights, "--backend", "eager", "--quiet", "--results", tmp_path / "boxes.txt")
    result = run(capsys, "track", folder, "--box", BOX, *arguments)
    assert_one_line(
        result,
        r"3.png' must be an image that can be decoded: .* \(the 3 frames before it are kept\)",
    )
    assert len(read_boxes(tmp_path / "boxes.txt")) == 3


def test_ctrl_c_leaves_valid_files(tmp_path, sequence, weights):
    """A slow source in a child process; the signal comes while frames are being tracked."""
    program = (
        "import sys, time, tracker.cli as cli, tracker.io.draw as draw\n"
        "real = draw.annotate\n"
        "def slow(*a, **k):\n"
        "    print(k['frame'], flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return real(*a, **k)\n"
        "draw.annotate = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    output, results = tmp_path / "out.avi", tmp_path / "boxes.txt"
    arguments = ["track", sequence, "--weights", weights, "--backend", "eager"]
    arguments += ["-o", output, "--results", results]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for line in child.stdout:
        if int(line) == 3:
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    count = len(read_boxes(results))
    assert (child.returncode, err) == (130, f"stopped after {count} frames, which are kept\n")
    assert 2 <= count < 12
    with open_source(output) as video:
        assert count - 1 <= sum(1 for _ in video) <= count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "out.avi"]


def test_the_video_is_drawn_from_the_frames_as_they_were(capsys, monkeypatch, tmp_path, sequence, weights):
    drawn = []

    def slow(image, box, **labels):
        time.sleep(0.02)  # tracking is ahead by as much as it may be
        drawn.append((image.copy(), box, labels["frame"], threading.current_thread().name))
        return annotate(image, box, **labels)

    annotate = draw.annotate
    monkeypatch.setattr(draw, "annotate", slow)
    results = tmp_path / "boxes.txt"
    arguments = ("--weights", weights, "--backend", "eager", "-q", "-o", tmp_path / "a.avi", "--results", results)
    assert run(capsys, "track", sequence, *arguments) == (0, "", "")
    images, boxes, indices, threads = zip(*drawn, strict=True)
    assert indices == tuple(range(1, 13)) and set(threads) == {"write-behind"}
    for image, path in zip(images, load_sequence(sequence).frames, strict=True):
        assert np.array_equal(image, cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
    np.testing.assert_allclose(np.array(boxes) + (1, 1, 0, 0), read_boxes(results), atol=0.006)
    assert not {thread.name for thread in threading.enumerate()} & {"read-ahead", "write-behind"}


@pytest.mark.parametrize("frame", [3, 11])
def test_a_video_that_cannot_be_written_ends_the_run(capsys, monkeypatch, tmp_path, sequence, weights, frame):
    real = VideoWriter.write

    def full(self, image):
        if self.frames == frame:
            raise draw.VideoError("no space left for the video")
        real(self, image)

    monkeypatch.setattr(VideoWriter, "write", full)
    output = tmp_path / "a.avi"
    output.write_text("older file")
    result = run(capsys, "track", sequence, "--weights", weights, "--backend", "eager", "-o", output)
    assert_one_line(result, "tracker: error: no space left for the video")
    assert [path.name for path in tmp_path.iterdir()] == ["a.avi"] and output.read_text() == "older file"
    assert not {thread.name for thread in threading.enumerate()} & {"read-ahead", "write-behind"}


def test_one_frame_is_no_plural(capsys, tmp_path, weights):
    folder = tmp_path / "run"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), VIDEO.image(0))
    (folder / "1.png").write_bytes(b"broken")
    result = run(capsys, "track", folder, "--box", BOX, "--weights", weights, "--backend", "eager", "--quiet")
    assert_one_line(result, r"\(the frame before it is kept\)")
