"""`tracker eval`: every layout tracked and scored, resumed, shared out, compared; one line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import tracker.eval.runner as runner
from tests.support import commands
from tests.support.commands import assert_one_line, make_weights
from tests.support.eval_data import FRAMES, IMAGES, MAKE, SIZE, TRUTH, folder, one_based, otb, write_rows
from tests.support.paths import ROOT
from tracker import SiamFC, Tracker, TrackResult
from tracker.data.datasets import open_dataset
from tracker.data.otb import read_boxes
from tracker.eval.results import is_whole, read_fps
from tracker.network.checkpoint import save_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return Path(make_weights(tmp_path_factory.mktemp("weights")))


def run(capsys, *arguments) -> tuple[int, str, str]:
    return commands.run(capsys, "eval", *arguments)


RESULT = {
    "otb": "OTB/net/Car4.txt",
    "got10k": "GOT-10k/net/GOT-10k_Val_000001/GOT-10k_Val_000001_001.txt",
    "lasot": "LaSOT/net/car-1.txt",
    "folder": "data/net/mine.txt",
    "vot": "VOT/net/baseline/bag/bag_001.txt",
}
SCORE = {"otb": "success", "got10k": "ao", "lasot": "normalized_precision", "folder": "precision", "vot": "accuracy"}


@pytest.mark.parametrize("layout", list(MAKE))
def test_a_benchmark_is_tracked_and_scored(capsys, tmp_path, weights, layout):
    root, out = MAKE[layout](tmp_path / "data"), tmp_path / "out"
    split = ("--split", "val") if layout == "got10k" else ()
    more = ("--eao-interval", "1,9") if layout == "vot" else ()
    code, printed, err = run(
        capsys, layout, "--root", root, *split, "--weights", weights, "--output", out, "--json", *more
    )
    assert (code, err) == (0, "")
    (scores,) = json.loads(printed)["trackers"]
    assert scores["name"] == "net" and 0 < scores["overall"][SCORE[layout]] <= 1 and scores["overall"]["fps"] > 0
    result = out / RESULT[layout]
    assert len(result.read_text().splitlines()) == FRAMES
    report = (out / RESULT[layout].partition("net")[0]) / "net"
    assert json.loads((report / "report.json").read_text())[0]["overall"] == scores["overall"]
    rows = list(csv.DictReader((report / "sequences.csv").read_text().splitlines()))
    assert [row["sequence"] for row in rows] == list(scores["sequences"])
    assert (report / "attributes.csv").exists() == bool(scores["attributes"])
    assert (report / ("eao.png" if layout == "vot" else "success.png")).stat().st_size > 1000
    # Scored again without tracking, by anyone who has the files: the same numbers, and nothing is written.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, printed, _ = run(capsys, layout, "--root", root, *split, "--results", report, "--json", *more)
    assert code == 0 and json.loads(printed)["trackers"] == [scores]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_boxes_are_the_trackers(capsys, tmp_path, weights):
    root = folder(tmp_path / "data")
    assert run(capsys, "folder", "--root", root, "--weights", weights, "-o", tmp_path / "out", "--quiet")[0] == 0
    (sequence,) = open_dataset("folder", root)
    tracker = Tracker.from_pretrained(weights)
    tracker.init(sequence.image(0), TRUTH[0])
    boxes = [TRUTH[0]] + [tracker.update(sequence.image(index)).box for index in range(1, FRAMES)]
    assert read_boxes(tmp_path / "out/data/net/mine.txt") == pytest.approx(one_based(np.array(boxes)), abs=0.006)


class Straying:
    """Stays where it was started, but is far off in the 6th frame after each start."""

    def init(self, image, box) -> None:
        self.box, self.frames = np.array(box), 0

    def update(self, image):
        self.frames += 1
        return TrackResult(self.box + (500 if self.frames == 6 else 0), 1.0, False)


def test_vot_starts_again_five_frames_after_a_failure(tmp_path):
    sequences = open_dataset("vot", MAKE["vot"](tmp_path / "data"))
    rows, seconds = runner.track_supervised(Straying(), sequences[1])
    codes = [row[0] if len(row) == 1 else "box" for row in rows]
    period = [1, *["box"] * 5, 2, 0, 0, 0, 0]
    assert codes == (period * 3)[:FRAMES]
    assert [np.isnan(value) for value in seconds] == [code == 0 for code in codes]
    assert rows[12] == pytest.approx(TRUTH[11])  # started with the true box of its frame
    diamond = runner.track_supervised(Straying(), sequences[0])[0][1]
    assert diamond[2:].prod() < TRUTH[0, 2:].prod() and diamond[:2] + diamond[2:] / 2 == pytest.approx(
        TRUTH[0, :2] + TRUTH[0, 2:] / 2, abs=1e-3
    )


def test_an_absent_target_is_waited_for(tmp_path):
    root = folder(tmp_path)
    truth = one_based(TRUTH)
    truth[:3] = 0
    write_rows(root / "mine" / "groundtruth.txt", truth)
    (sequence,) = open_dataset("folder", root)
    rows, seconds = runner.track_once(Straying(), sequence, FRAMES)
    rows[9] -= 500  # the 6th frame behind the start
    assert np.allclose(rows, [TRUTH[3]] * FRAMES)
    assert len(seconds) == FRAMES and seconds[:3] == [0, 0, 0]


def test_results_are_not_tracked_again_nor_mixed(capsys, monkeypatch, tmp_path, weights):
    root, out = otb(tmp_path / "OTB", 6), tmp_path / "out"
    arguments = ("otb", "--root", root, "--weights", weights, "--output", out, "--quiet")
    assert run(capsys, *arguments)[0] == 0
    first, second = (out / "OTB/net" / f"{name}.txt" for name in ("Car4", "Deer"))
    before, text = first.stat().st_mtime_ns, second.read_text()
    second.write_text(text.partition("\n")[0])  # of another length: tracked again
    assert run(capsys, *arguments)[0] == 0
    assert first.stat().st_mtime_ns == before and second.read_text() == text
    monkeypatch.setattr(Tracker, "update", lambda *_: pytest.fail("tracked"))
    assert run(capsys, *arguments)[0] == 0
    assert_one_line(run(capsys, *arguments, "--backend", "eager"), "same settings, got backend eager, .*with fastops")
    torch.manual_seed(1)
    other = tmp_path / "elsewhere" / "net.safetensors"  # of the same name
    other.parent.mkdir()
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), other)
    assert_one_line(run(capsys, *arguments, "--weights", other), "must hold results of the same settings, got weights")


def test_comparison_of_several_results(capsys, tmp_path):
    root = otb(tmp_path / "OTB", names=("Car4",))
    for name, shift in (("near", 0.5), ("far", 5.0)):
        write_rows(tmp_path / name / "Car4.txt", one_based(TRUTH + [shift, 0, 0, 0]))
    out = tmp_path / "report"
    code, printed, err = run(
        capsys, "otb", "--root", root, "--results", tmp_path / "far", "--compare", tmp_path / "near", "-o", out
    )
    assert (code, err) == (0, "")
    assert "fps" not in printed  # nothing was tracked here
    assert re.search(r"far .*\n.*near ", printed) and "far by attribute" in printed and "Car4" in printed
    rows = list(csv.DictReader((out / "overall.csv").read_text().splitlines()))
    assert [row["tracker"] for row in rows] == ["far", "near"]
    assert float(rows[0]["success"]) < float(rows[1]["success"])
    for name in ("success.png", "precision.png", "normalized_precision.png"):
        assert f"wrote {out / name}" in printed and (out / name).stat().st_size > 1000


def test_sequences_too_short_for_an_expected_overlap(capsys, tmp_path, weights):
    root = MAKE["vot"](tmp_path / "data")
    code, printed, _ = run(capsys, "vot", "--root", root, "--weights", weights, "--output", tmp_path / "out")
    assert code == 0 and "no EAO: no run is longer than 100 frames, where --eao-interval begins\n" in printed


def test_without_matplotlib_there_is_no_plot(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    root = otb(tmp_path / "OTB", names=("Car4",))
    write_rows(tmp_path / "net" / "Car4.txt", one_based(TRUTH))
    code, printed, _ = run(capsys, "otb", "--root", root, "--results", tmp_path / "net", "-o", tmp_path / "report")
    assert code == 0 and "no plot: matplotlib is missing, pip install" in printed
    assert sorted(path.suffix for path in (tmp_path / "report").iterdir()) == [".csv", ".csv", ".csv", ".json"]


def test_withheld_ground_truth_is_tracked_and_not_scored(capsys, tmp_path, weights):
    root = MAKE["got10k"](tmp_path / "data")
    (root / "val").rename(root / "test")
    for path in (root / "test").rglob("groundtruth.txt"):
        write_rows(path, one_based(TRUTH[:1]))
    for path in (root / "test").rglob("*.label"):
        path.unlink()
    arguments = ("got10k", "--root", root, "--split", "test")
    code, printed, err = run(capsys, *arguments, "--weights", weights, "-o", tmp_path / "out")
    assert (code, err) == (0, "") and "2 sequences tracked; their ground truth is withheld" in printed
    assert len(read_boxes(tmp_path / "out" / RESULT["got10k"])) == FRAMES
    results = ("--results", tmp_path / "out/GOT-10k/net")
    assert_one_line(run(capsys, *arguments, *results), "--results cannot be scored: .* withheld")


def many(root: Path, count: int) -> Path:
    """Folders with the same images."""
    frames = root / "S000"
    folder(root)
    (root / "mine").rename(frames)
    for index in range(1, count):
        other = root / f"S{index:03d}"
        other.mkdir()
        for path in frames.iterdir():
            (other / path.name).symlink_to(path)
    return root


def test_the_processes_of_a_world_share_the_sequences_out(capsys, monkeypatch, tmp_path, weights):
    root, out = many(tmp_path / "data", 3), tmp_path / "out"
    arguments = ("folder", "--root", root, "--weights", weights, "--output", out)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(capsys, *arguments) == (0, "", "")  # the second process takes its part and prints nothing
    assert sorted(path.name for path in (out / "data/net").glob("*.txt")) == ["S001.txt"]
    monkeypatch.setenv("RANK", "0")
    code, printed, _ = run(capsys, *arguments, "--json")
    assert code == 0 and len(json.loads(printed)["trackers"][0]["sequences"]) == 3


def test_the_first_process_tells_what_it_waits_for(capsys, monkeypatch, tmp_path, weights):
    """The others may have died: whoever looks must see it."""
    root, out = many(tmp_path / "data", 3), tmp_path / "out"
    results = out / "data/net"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")

    def other_process(seconds):  # all sequences have the same images
        for name in (Path("S001.txt"), Path("times/S001_time.txt")):
            shutil.copy(results / str(name).replace("S001", "S000"), results / name)

    monkeypatch.setattr("tracker.eval.runner.time.sleep", other_process)
    code, printed, err = run(capsys, "folder", "--root", root, "--weights", weights, "--output", out, "--json")
    assert code == 0 and len(json.loads(printed)["trackers"][0]["sequences"]) == 3
    assert err == "waiting for other processes: S001; if none runs, stop and start again\n"


def interrupt(arguments, seen):
    """What `tracker eval` with two workers printed, when Ctrl-C in a terminal ended it as soon as `seen(child)`."""

    def read():
        with suppress(OSError):  # how Linux says that the other side is closed
            while piece := os.read(terminal, 65536):
                pieces.append(piece)

    terminal, stderr = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "tracker", "eval", *map(str, arguments), "--workers", "2"],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
    )  # fmt: skip
    os.close(stderr)
    pieces: list[bytes] = []
    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 300
    while not seen(child) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    printed, _ = child.communicate(timeout=300)
    reader.join(60)  # the workers have it open, too
    os.close(terminal)
    err = b"".join(pieces).decode()
    assert (child.returncode, printed) == (130, ""), err
    return err


@pytest.mark.slow
@pytest.mark.skipif(not list(Path("/proc").glob("self/task/*/children")), reason="/proc does not tell who has started")
@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_while_workers_start(tmp_path, weights, count):
    def seen(child):
        with suppress(OSError):  # one of them has ended meanwhile
            lists = [path.read_text().split() for path in Path(f"/proc/{child.pid}/task").glob("*/children")]
            pids = [pid for pids in lists for pid in pids]
            return count <= sum(b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
        return False

    root, out = many(tmp_path / "data", 4), tmp_path / "out"
    arguments = ["folder", "--root", root, "--weights", weights, "--output", out, "--backend", "eager", "--json"]
    err = interrupt(arguments, seen)
    assert f"stopped; the same command continues with {out / 'data' / 'net'}" in err and "Traceback" not in err
    assert not list(out.rglob("S*.txt"))


def test_ctrl_c_waits_until_the_workers_have_started():
    end, went_on = threading.Event(), []
    other = threading.Thread(target=end.wait)  # as that of a progress bar; the signal may come by way of it
    other.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print_mask = [sys.executable, "-c", "import signal; print(*signal.pthread_sigmask(signal.SIG_BLOCK, ()))"]
    try:
        for thread in (other, threading.main_thread()):
            with pytest.raises(KeyboardInterrupt), runner._uninterrupted():
                signal.pthread_kill(thread.ident, signal.SIGINT)
                started = subprocess.run(print_mask, capture_output=True, text=True, check=True)
                time.sleep(0.01)
                went_on.append(started.stdout)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        end.set()
        other.join()
    assert len(went_on) == 2 and all("SIGINT" in masked or masked.strip() == "2" for masked in went_on), went_on


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_the_command_goes_on(capsys, tmp_path, weights):
    count = 60
    root, out = many(tmp_path / "data", count), tmp_path / "out"
    arguments = ["folder", "--root", root, "--weights", weights, "--output", out, "--backend", "eager", "--json"]
    results = out / "data" / "net"
    err = interrupt(arguments, lambda child: list(results.glob("S*.txt")))
    assert f"stopped; the same command continues with {results}" in err and "Traceback" not in err
    done = sorted(path.name for path in results.glob("*.txt"))
    assert 0 < len(done) < count
    assert all(is_whole("folder", results, Path(name).stem, FRAMES) for name in done)
    assert not [path for path in results.rglob("*") if path.name.startswith(".")]
    kept = {name: (results / name).stat().st_mtime_ns for name in done}
    left = [path for path in sorted(root.iterdir()) if f"{path.name}.txt" not in done and path.name != "S000"]
    for path in left[2:]:  # two more are enough; the images are those of S000
        shutil.rmtree(path)
    code, printed, err = run(capsys, *arguments)
    assert code == 0, err
    assert set(json.loads(printed)["trackers"][0]["sequences"]) == {path.name for path in root.iterdir()}
    assert all((results / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_mistakes_are_one_line(capsys, tmp_path, weights):
    root, out = otb(tmp_path / "OTB", 4), tmp_path / "out"

    def evaluate(layout, *more, root=root):
        return run(capsys, layout, "--root", root, "--weights", weights, "--output", out, *more)

    assert_one_line(evaluate("coco"), "benchmark must be one of otb, vot, got10k, lasot, folder, got 'coco'")
    assert_one_line(evaluate("otb", root=tmp_path / "no"), "root must be an existing folder, got .*no")
    assert_one_line(evaluate("vot"), "--root must be laid out as vot, got .*Car4.groundtruth.txt is missing")
    (tmp_path / "empty").mkdir()
    assert_one_line(evaluate("lasot", root=tmp_path / "empty"), "root must hold lasot sequences, got none")
    assert_one_line(
        evaluate("otb", root=root / "Deer"), "root must be the folder that holds the sequences, got the seq"
    )
    assert_one_line(evaluate("otb", "--split", "val"), "split of otb must be one of otb50, otb2013, otb100, got 'val'")
    assert_one_line(evaluate("otb", "--workers", "0"), "workers")
    assert_one_line(evaluate("vot", "--eao-interval", "9,1"), "--eao-interval must be two lengths .*got '9,1'")
    assert_one_line(evaluate("otb", "--dtype", "int9"), "--dtype must be")
    assert_one_line(evaluate("otb", "--weights", tmp_path / "no.pth"), "must be an existing file")
    assert_one_line(evaluate("otb", "--results", tmp_path / "no"), "results must be an existing folder, got .*no")
    assert_one_line(run(capsys, "otb"), "--root")
    assert not out.exists()
    (root / "Deer" / "img" / "00000003.jpg").write_bytes(IMAGES[2][:200])
    assert_one_line(evaluate("otb"), "Deer: .*00000003.jpg: image must be a whole JPEG")
    assert is_whole("otb", out / "OTB/net", "Car4", 4) and not (out / "OTB/net/Deer.txt").exists()
    write_rows(root / "Deer" / "groundtruth_rect.txt", [[SIZE[0] + 9, 1, 5, 5]] * 4)
    assert_one_line(evaluate("otb"), "error: Deer: box must overlap the image")
    (out / "OTB/net/times/Car4_time.txt").write_text("soon\n")
    with pytest.raises(ValueError, match="Car4_time.txt: file must hold seconds per frame"):
        read_fps("otb", out / "OTB/net", "Car4")


# ---- what is wrong with real data sets -----------------------------------------------------------------------


def test_skip_bad_leaves_out_what_is_wrong_and_lists_it(capsys, tmp_path, weights):
    root, out = otb(tmp_path / "OTB", 4, names=("Car4", "Deer", "Dog", "Girl")), tmp_path / "out"
    (root / "Deer" / "img" / "00000003.jpg").write_bytes(IMAGES[2][:200])
    (root / "Dog" / "groundtruth_rect.txt").write_text("")
    (root / "__MACOSX").mkdir()
    arguments = ("otb", "--root", root, "--weights", weights, "--output", out, "--json")
    assert_one_line(run(capsys, *arguments), "Dog/groundtruth_rect.txt:1: file must hold at least one box")
    for _ in range(2):  # the second run reads why from the first one's files
        code, printed, err = run(capsys, *arguments, "--skip-bad")
        result = json.loads(printed)
        assert code == 0 and list(result["trackers"][0]["sequences"]) == ["Car4", "Girl"]
        assert len(result["skipped"]) == 3 and "00000003.jpg: image must be a whole JPEG" in result["skipped"][2]
        assert err.startswith("tracker: note: skipped 3: ") and err.count("\n") == 1
    assert run(capsys, *arguments, "--skip-bad", "--quiet")[2] == ""
    # Whole again: tracked, and no longer left out.
    (root / "Deer" / "img" / "00000003.jpg").write_bytes(IMAGES[2])
    write_rows(root / "Dog" / "groundtruth_rect.txt", one_based(TRUTH[:4]))
    code, printed, _ = run(capsys, *arguments)
    assert code == 0 and list(json.loads(printed)["trackers"][0]["sequences"]) == ["Car4", "Deer", "Dog", "Girl"]
    assert not list(out.rglob("*.skipped"))


def test_skip_bad_scores_the_results_that_are_there(capsys, tmp_path):
    root, results = otb(tmp_path / "OTB", 4, names=("Car4", "Deer", "Dog")), tmp_path / "net"
    write_rows(results / "Car4.txt", one_based(TRUTH[:4]))
    (results / "Deer.txt").write_text("1,2,3\n")
    arguments = ("otb", "--root", root, "--results", results, "--json")
    assert_one_line(run(capsys, *arguments), "Deer.txt:1: line must be four finite numbers")
    code, printed, err = run(capsys, *arguments, "--skip-bad")
    assert code == 0 and list(json.loads(printed)["trackers"][0]["sequences"]) == ["Car4"] and "skipped 2" in err
    (results / "Car4.txt").unlink()
    assert_one_line(run(capsys, *arguments, "--skip-bad", "--quiet"), "--root must hold a sequence that can be scored")


@pytest.mark.parametrize("line", ["nan,nan,nan,nan", "-1,-1,-1,-1", "5,5,-3,9", "0,0,0,0", ""])
@pytest.mark.parametrize("layout", ["otb", "folder", "got10k"])
def test_absent_frames_count_nowhere(capsys, tmp_path, layout, line, weights):
    """Boxes far off in those frames change no score; the tracker goes through them."""
    root = MAKE[layout](tmp_path / "data")
    split = ("--split", "val") if layout == "got10k" else ()
    truth = next(root.rglob("groundtruth*.txt"))
    for path in root.rglob("cover.label"):
        path.unlink()
    rows = truth.read_text().splitlines()
    truth.write_text("\n".join([*rows[:3], line, line, *rows[5:]]) + "\n")
    names = [sequence.name for sequence in open_dataset(layout, root, "val" if split else None)]
    for shift in (0, 70):
        boxes = one_based(TRUTH).copy()
        boxes[3:5] += (shift, shift, 0, 0)
        for name in names:
            repeated = f"{name}/{name}_001" if layout == "got10k" else name
            write_rows(tmp_path / f"by{shift}" / f"{repeated}.txt", boxes)
    results = (tmp_path / "by0", tmp_path / "by70")
    arguments = (layout, "--root", root, *split, "--json")
    code, printed, _ = run(capsys, *arguments, "--results", results[0], "--compare", results[1])
    one, two = json.loads(printed)["trackers"]
    first = truth.parent.name
    assert code == 0 and one["sequences"][first] == two["sequences"][first]
    code, printed, _ = run(capsys, *arguments, "--weights", weights, "-o", tmp_path / "out")
    assert code == 0 and 0 < json.loads(printed)["trackers"][0]["overall"][SCORE[layout]] <= 1


@pytest.mark.parametrize("line", ["nan,nan,nan,nan", "0,0,0,0", "-1,-1,-1,-1"])
@pytest.mark.parametrize("start", [0, 2])
def test_track_goes_through_absent_frames(capsys, tmp_path, weights, line, start):
    root = otb(tmp_path / "OTB", 8, names=("Car4",))
    truth = root / "Car4" / "groundtruth_rect.txt"
    rows = truth.read_text().splitlines()
    absent = [*range(start), 5]
    truth.write_text("\n".join(line if index in absent else row for index, row in enumerate(rows)) + "\n")
    output, results = tmp_path / "a.avi", tmp_path / "Car4.txt"
    code, printed, err = commands.run(
        capsys, "track", root / "Car4", "--weights", weights, "-o", output, "--results", results, "--json"
    )
    summary = json.loads(printed)
    assert (code, err) == (0, "") and summary["frames"] == 8 and 0.1 < summary["mean_overlap"] <= 1
    boxes = read_boxes(results)
    assert boxes[: start + 1] == pytest.approx(np.repeat(one_based(TRUTH[start : start + 1]), start + 1, 0), abs=0.01)
    code, printed, _ = run(capsys, "otb", "--root", root, "--results", tmp_path, "--json")
    assert code == 0 and json.loads(printed)["trackers"][0]["sequences"]["Car4"]["frames"] == 8 - len(absent)


def test_vot_frames_without_the_target_are_neither_failures_nor_starts(tmp_path):
    root = MAKE["vot"](tmp_path / "data")
    rows = (root / "ball" / "groundtruth.txt").read_text().splitlines()
    for index in (0, 6, 8):
        rows[index] = "nan,nan,nan,nan"
    (root / "ball" / "groundtruth.txt").write_text("\n".join(rows) + "\n")
    ball = open_dataset("vot", root)[1]
    codes = [row[0] if len(row) == 1 else "box" for row in runner.track_supervised(Straying(), ball)[0]]
    assert codes[:8] == [0, 1, "box", "box", "box", "box", "box", 2]  # 6 frames behind the start at 1
