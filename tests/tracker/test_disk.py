"""What is written is whole or not there: full disks, signals, closed pipes, killed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.commands import make_sequence, make_weights, run
from tests.support.paths import ROOT
from tests.support.small_disk import small_disk  # noqa: F401
from tracker import SiamFC, cli
from tracker.data.archive import ArchiveWriter
from tracker.data.otb import read_boxes
from tracker.eval.run import Run
from tracker.io.draw import VideoError, VideoWriter, write_boxes
from tracker.io.files import Replacement, replacing, write_whole
from tracker.io.report import write_csv, write_plot
from tracker.io.sources import open_source
from tracker.network.checkpoint import save_state
from tracker.network.export import export_model

pytestmark = pytest.mark.usefixtures("one_thread")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> Path:
    return make_sequence(tmp_path_factory.mktemp("otb"))


def noise(count: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Frames that no codec makes small."""
    return np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
@pytest.mark.parametrize("old", [True, False])
def test_a_video_that_fills_the_disk_is_an_error(small_disk, suffix, old):  # noqa: F811
    path = small_disk / f"x{suffix}"
    if old:
        path.write_bytes(b"the good one")
    with (
        pytest.raises(VideoError, match="cannot be written whole: No space left on device"),
        VideoWriter(path, (320, 240)) as video,
    ):
        for image in noise(24):
            video.write(image)
    assert [p.name for p in small_disk.iterdir()] == ([path.name] if old else [])
    assert not old or path.read_bytes() == b"the good one"


def test_track_on_a_full_disk_keeps_the_boxes(capsys, small_disk, sequence, weights):  # noqa: F811
    frames = small_disk.parent / "noisy"
    frames.mkdir()
    with VideoWriter(frames / "v.avi", (320, 240)) as video:
        for image in noise(16):
            video.write(image)
    results = small_disk / "boxes.txt"
    code, out, err = run(
        capsys, "track", frames / "v.avi", "--box", "40,40,60,60", "--weights", weights, "--backend", "eager",
        "-o", small_disk / "x.avi", "--results", results,
    )  # fmt: skip
    assert (code, out) == (2, "") and "No space left on device" in err and err.count("\n") == 1
    assert len(read_boxes(results)) == 16 and [p.name for p in small_disk.iterdir()] == ["boxes.txt"]


def writers(folder: Path) -> dict:
    torch.manual_seed(0)
    net = SiamFC("relu", width=0.5, ops="reference")
    rows = [{"a": "x" * 100_000} for _ in range(8)]

    def archive(path):
        with ArchiveWriter(path, {"names": ["a"]}) as writer:
            for index in range(8):
                writer.add(0, index, np.zeros(4, np.float32), bytes(100_000))
            writer.finish()

    def text(path):
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(rows))

    def plot(path):
        pytest.importorskip("matplotlib")
        write_plot(path, lambda figure: figure.add_subplot().imshow(noise(1, (900, 400))[0]), (12, 12))

    return {
        "boxes.txt": lambda path: write_boxes(path, np.random.rand(40_000, 4)),
        "table.csv": lambda path: write_csv(path, rows),
        "report.json": text,
        "plot.png": plot,
        "net.safetensors": lambda path: save_state(net, path),
        "net.pt2": lambda path: export_model(SiamFC("relu", width=0.5, ops="reference"), path, "torch"),
        "state.pt": lambda path: write_whole(path, bytes(800_000)),
        "all.crops": archive,
    }


@pytest.mark.parametrize("name", list(writers(Path())))
def test_every_other_output_on_a_full_disk(small_disk, name):  # noqa: F811
    path = small_disk / name
    if name == "net.pt2":  # a file per branch
        path = small_disk / "net.exemplar.pt2"
    if name != "all.crops":
        path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as caught:
        writers(small_disk)[name](small_disk / name)
    if name == "all.crops":  # an archive goes on with its part
        assert [p.name for p in small_disk.iterdir()] == ["all.crops.part"]
    else:
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"old" and [p.name for p in small_disk.iterdir()] == [path.name]


def test_a_check_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def check(temporary):
        assert temporary.read_text() == "new"
        raise ValueError("not what was meant")

    with pytest.raises(ValueError, match="not what was meant"), replacing(path, check) as temporary:
        temporary.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_a_video_with_too_few_frames_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.avi"
    path.write_text("old")
    video = VideoWriter(path, (64, 48))
    for image in noise(5, (64, 48)):
        video.write(image)
    video.frames += 1  # as if one had not reached the file
    with pytest.raises(VideoError, match="cannot be written whole: 5 of 6 frames can be read back"):
        video.close()
    video.close()
    assert [p.name for p in tmp_path.iterdir()] == ["a.avi"] and path.read_text() == "old"


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path):
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tracker.io.files import Replacement\n"
        "Replacement(Path(sys.argv[1])).temporary.write_text('half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for name in ("a.txt", "b", "long " + "x" * 230 + ".txt"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], env=ENVIRONMENT, check=False)
        assert len(list(tmp_path.iterdir())) == 1  # each sweeps what the one before it left
    (tmp_path / ".keep~me").write_text("of a user")
    living = Replacement(tmp_path / "living.txt")  # another run is at work in the folder
    write_whole(tmp_path / "c.txt", b"whole")
    assert {p.name for p in tmp_path.iterdir()} == {"c.txt", ".keep~me", living.temporary.name}
    living.temporary.write_text("whole too")
    living.commit()
    assert (tmp_path / "living.txt").read_text() == "whole too"


def test_writers_in_one_folder_leave_each_other_alone(tmp_path):
    """Each sweeps before it writes; the files of the others are locked, or made again."""

    def write(name: str) -> None:
        for count in range(40):
            write_whole(tmp_path / name, bytes([count]) * 100)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, ["a", "b", "c", "c"]))
    assert {path.name: path.read_bytes()[:1] for path in tmp_path.iterdir()} == dict.fromkeys("abc", bytes([39]))


SLOW = (
    "import sys, time, tracker.cli as cli, tracker.io.draw as draw\n"
    "real = draw.annotate\n"
    "def slow(*a, **k):\n"
    "    print(k['frame'], flush=True)\n"
    "    time.sleep(0.2)\n"
    "    return real(*a, **k)\n"
    "draw.annotate = slow\n"
    "sys.exit(cli.main(sys.argv[1:]))\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signals_end_a_run_as_ctrl_c_does(tmp_path, sequence, weights, number):
    output, results = tmp_path / "out.avi", tmp_path / "boxes.txt"
    output.write_text("old")
    arguments = ["track", sequence, "--weights", weights, "--backend", "eager", "-o", output, "--results", results]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    for line in child.stdout:
        if int(line) == 3:
            break
    child.send_signal(number)
    _, err = child.communicate(timeout=120)
    if number == signal.SIGKILL:
        assert output.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
        write_boxes(results, [[0, 0, 1, 1]])  # the next run in the folder
    else:
        count = len(read_boxes(results))
        assert (child.returncode, err) == (128 + number, f"stopped after {count} frames, which are kept\n")
        assert sum(1 for _ in open_source(output)) == count and 2 <= count < 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["boxes.txt", "out.avi"]


@pytest.mark.parametrize("where", ["step", "labels"])
def test_boxes_and_video_end_at_the_same_frame(tmp_path, sequence, weights, monkeypatch, where):
    """Ctrl-C comes within the row of the sixth frame, or between its box and its frame of the video."""
    real = getattr(Run, where)

    def interrupted(run, *arguments, **named):
        result = real(run, *arguments, **named)
        if len(run.boxes) == 6:
            if where == "step":
                run.lost.pop()
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Run, where, interrupted)
    output, results = tmp_path / "out.avi", tmp_path / "boxes.txt"
    arguments = ["track", sequence, "--weights", weights, "--backend", "eager", "-o", output, "--results", results]
    assert cli.main([*map(str, arguments), "--quiet"]) == 130
    assert sum(1 for _ in open_source(output)) == len(read_boxes(results)) == 5


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    program = (
        "import os, signal, sys, tracker.cli as cli\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "cli.app = lambda **_: os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.exit(cli.main([]))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT).returncode == 0


@pytest.mark.parametrize("command", [["--version"], ["track", "--json", "-q"]])
def test_an_output_that_cannot_be_printed_is_one_line(sequence, weights, command):
    more = [str(sequence), "--weights", weights, "--backend", "eager", "--max-frames", "2"] if len(command) > 1 else []
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "tracker", *command, *more],
            stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
    message = "tracker: error: an output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (2, message)


def test_a_closed_pipe_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "tracker", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("size", [(641, 359), (65, 48), (64, 47), (33, 33)])
def test_odd_sizes_are_padded(tmp_path, size):
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:, -4:] = image[-4:] = 255
    for suffix in (".mp4", ".avi", ".webm"):
        with VideoWriter(tmp_path / f"a{suffix}", size) as video:
            for _ in range(2):
                video.write(image)
        with open_source(tmp_path / f"a{suffix}") as source:
            assert source.size == (width + width % 2, height + height % 2)
            assert next(source)[:, width - 1].mean() > 200


@pytest.mark.parametrize("fps", [None, 0, -1.0, float("nan"), float("inf"), 90_000, 1e9])
def test_a_frame_rate_that_no_video_has_is_unknown(tmp_path, fps):
    with VideoWriter(tmp_path / "a.mp4", (64, 48), fps) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
    assert open_source(tmp_path / "a.mp4").fps == 30


def test_webm_prints_no_warning(tmp_path, capfd):
    with VideoWriter(tmp_path / "a.webm", (64, 48)) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
    assert capfd.readouterr().err == ""
