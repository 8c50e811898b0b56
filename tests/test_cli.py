"""The `tracker` command: what it writes, what it prints, and one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import tracker.cli as cli
import tracker.demo as demo
from tracker import SiamFC
from tracker.checkpoint import save_state
from tracker.data.otb import read_boxes
from tracker.data.sources import open_source
from tracker.data.synthetic import SyntheticVideo
from tracker.draw import LOST, TRACKED, TRUTH, VideoError, VideoWriter, annotate, write_boxes

ROOT = Path(__file__).parents[1]
VIDEO = SyntheticVideo(0, 12, (160, 120), occlusions=0)
BOX = ",".join(f"{value:.2f}" for value in VIDEO.boxes[0])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks on shared cores: a second thread waits more than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(0)
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), path)
    return str(path)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> Path:
    """An OTB-style sequence folder of the synthetic video."""
    folder = tmp_path_factory.mktemp("otb") / "Synthetic"
    (folder / "img").mkdir(parents=True)
    for index, image in enumerate(VIDEO.images(), start=1):
        cv2.imwrite(str(folder / "img" / f"{index:04d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_boxes(folder / "groundtruth_rect.txt", VIDEO.boxes)
    return folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def assert_one_line(result: tuple[int, str, str], match: str) -> None:
    code, out, err = result
    assert code == 2 and out == ""
    assert err.startswith("tracker: error: ") and err.count("\n") == 1
    assert re.search(match, err), err


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
    assert_one_line(result, "--box must be four numbers x,y,w,h with w and h above 0, got ")


def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path, sequence, weights):
    def track(source=sequence, *more, weights=weights):
        return run(capsys, "track", source, "--weights", weights, "--backend", "eager", *more)

    assert_one_line(run(capsys, "track", sequence), "--weights must be given: .*tracker demo")
    assert_one_line(track("nope.mp4"), "must be an existing file, folder, pattern or camera, got 'nope.mp4'")
    assert_one_line(track(weights=tmp_path / "no.pth"), "must be an existing file, got .*no.pth")
    (tmp_path / "text.pth").write_text("not weights")
    assert_one_line(track(weights=tmp_path / "text.pth"), "must be a file of plain weights")
    assert_one_line(track(sequence, "--box", "500,500,10,10"), "box must overlap the image of 160 x 120 px")
    assert_one_line(track(sequence, "--device", "toaster"), "--device must be cpu, cuda or cuda:N, got 'toaster'")
    assert_one_line(track(sequence, "--device", "cuda:99"), "--device must be one of this machine's .* GPUs")
    assert_one_line(track(sequence, "--backend", "magic"), "backend must be one of fastops, eager, got 'magic'")
    assert_one_line(track(sequence, "-o", tmp_path / "a.mov"), "path must end in .mp4 or .avi, got")
    assert_one_line(track(sequence, "-o", tmp_path / "no" / "a.mp4"), "path must lie in an existing folder")
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
    monkeypatch.setattr(cli.cv2, "selectROI", lambda *_: (20, 20, 30, 30))
    monkeypatch.setattr(cli.cv2, "destroyWindow", lambda *_: None)
    arguments = ("track", sequence / "img", "--weights", weights, "--backend", "eager", "--max-frames", 2, "--quiet")
    assert run(capsys, *arguments)[0] == 0
    monkeypatch.setattr(cli.cv2, "selectROI", lambda *_: (0, 0, 0, 0))
    assert_one_line(run(capsys, *arguments), "--box must be given or picked, got no selection")

    def headless(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cli.cv2, "selectROI", headless)
    assert_one_line(run(capsys, *arguments), "--box must be given: this OpenCV has no windows")


def test_damaged_frame_ends_the_run_and_keeps_what_was_tracked(capsys, tmp_path, weights):
    folder = tmp_path / "run"
    folder.mkdir()
    for index in range(5):
        cv2.imwrite(str(folder / f"{index}.png"), VIDEO.frame(index)[0])
    (folder / "3.png").write_bytes(b"broken")
    arguments = ("--weights", weights, "--backend", "eager", "--quiet", "--results", tmp_path / "boxes.txt")
    result = run(capsys, "track", folder, "--box", BOX, *arguments)
    assert_one_line(result, r"3.png' must be an image that can be decoded \(the 3 frames before it are kept\)")
    assert len(read_boxes(tmp_path / "boxes.txt")) == 3


def test_ctrl_c_leaves_valid_files(tmp_path, sequence, weights):
    """A slow source in a child process; the signal comes while frames are being tracked."""
    program = (
        "import sys, time, tracker.cli as cli\n"
        "real = cli.annotate\n"
        "def slow(*a, **k):\n"
        "    print(k['frame'], flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return real(*a, **k)\n"
        "cli.annotate = slow\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    output, results = tmp_path / "out.avi", tmp_path / "boxes.txt"
    arguments = ["track", sequence, "--weights", weights, "--backend", "eager", "-q"]
    arguments += ["-o", output, "--results", results]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for line in child.stdout:
        if int(line) == 2:
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")
    count = len(read_boxes(results))
    assert 2 <= count < 12
    with open_source(output) as video:
        assert count - 1 <= sum(1 for _ in video) <= count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "out.avi"]


def test_module_and_help_show_examples():
    child = subprocess.run(
        [sys.executable, "-m", "tracker", "track", "--help"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0 and child.stderr == ""
    assert "tracker track video.mp4 --box 120,80,64,48" in child.stdout and "1-based" in child.stdout


def test_info_names_versions_and_build(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0
    for text in ("siamfc-fastops", torch.__version__, cv2.__version__, "cuda devices", "fastops cpu_library"):
        assert text in out


def test_demo_writes_all_and_prints_the_comparison(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "SIZE", (160, 120))
    monkeypatch.setattr(demo, "QUICK_STEPS", 2)
    code, out, err = run(capsys, "demo", "--output-dir", tmp_path / "demo", "--frames", 8, "--quick")
    assert (code, err) == (0, "")
    names = ["boxes.txt", "overlap.png", "tracked.mp4", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    assert cv2.imread(str(tmp_path / "demo" / "overlap.png")).shape[1] > 500
    assert len(read_boxes(tmp_path / "demo" / "boxes.txt")) == 8
    for text in ("training", "mean overlap", "reference", "fastops", "ratio", "random"):
        assert text in out
    arguments = ("--box", BOX, "--weights", tmp_path / "demo" / "weights.safetensors", "--quiet", "--max-frames", 3)
    assert run(capsys, "track", tmp_path / "demo" / "tracked.mp4", *arguments)[0] == 0


def test_plot_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert demo.plot_overlap(tmp_path / "overlap.png", np.ones(3), np.ones(3)) is False
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(ValueError, match="VideoWriter: path must end in .mp4 or .avi, got 'a.gif'"):
        VideoWriter("a.gif", (64, 48))
    with pytest.raises(VideoError, match="VideoWriter: path must lie in an existing folder, got"):
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
    with pytest.raises(VideoError, match="must have one of the codecs avc1, mp4v, got"):
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
