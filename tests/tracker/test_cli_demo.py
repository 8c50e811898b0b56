"""`tracker demo` and `tracker bench`: a synthetic video tracked, stock PyTorch compared with fused ops."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import tracker.commands.bench as bench
import tracker.commands.run_demo as demo
from tests.support.commands import BOX, make_sequence, make_weights, run
from tracker import Tracker
from tracker.data.otb import read_boxes
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.comparison import Comparison
from tracker.io.sources import open_source
from tracker.network.pretrained import PRETRAINED

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return make_weights(tmp_path_factory.mktemp("weights"))


def test_demo_writes_all_and_prints_the_comparison(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "SIZE", (160, 120))
    code, out, err = run(capsys, "demo", "--output-dir", tmp_path / "demo", "--frames", 8, "--quick")
    assert (code, err) == (0, "")
    names = ["boxes.txt", "overlap.png", "tracked.mp4", "video.mp4"]
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == names
    assert cv2.imread(str(tmp_path / "demo" / "overlap.png")).shape[1] > 500
    assert len(read_boxes(tmp_path / "demo" / "boxes.txt")) == 8
    for text in ("mean overlap", "reference fps", "fastops fps", "ratio", "Mish + SE over ReLU:"):
        assert text in out
    # The clean video is the synthetic one, up to the codec's loss. The command printed at the end works on it.
    with open_source(tmp_path / "demo" / "video.mp4") as video:
        for image, expected in zip(video, SyntheticVideo(0, 8, (160, 120), occlusions=1).images(), strict=True):
            assert np.abs(image.astype(int) - expected).mean() < 8
    command = shlex.split(out[out.index("tracker track") :])
    assert run(capsys, *command[1:], "--max-frames", 3)[0] == 0
    assert (tmp_path / "demo" / "again.mp4").is_file()


def test_demo_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(demo, "SIZE", (160, 120))
    monkeypatch.setattr(demo, "QUICK_COMPARED", 2)
    monkeypatch.setattr(demo, "compare", lambda networks, *_: [Comparison("one", np.ones(1), np.ones(1), 1.0)])
    code, out, _ = run(capsys, "demo", "--output-dir", tmp_path, "--frames", 2, "--quick")
    assert code == 0 and "matplotlib is missing, pip install " in out and not (tmp_path / "overlap.png").exists()


def test_plot_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert demo.plot_overlap(tmp_path / "overlap.png", np.ones(3), np.ones(3)) is False
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_half_file_of_the_demo(capsys, monkeypatch, tmp_path):
    update, calls = Tracker.update, []

    def interrupted(self, image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(self, image)

    monkeypatch.setattr(demo, "SIZE", (160, 120))
    monkeypatch.setattr(demo, "QUICK_COMPARED", 2)
    monkeypatch.setattr(Tracker, "update", interrupted)
    result = run(capsys, "demo", "-o", tmp_path, "--frames", 8, "--quick", "--quiet")
    assert result == (130, "", "")
    assert list(tmp_path.iterdir()) == []
    calls.clear()
    assert run(capsys, "demo", "-o", tmp_path / "new", "--quick", "--json") == (130, "", "stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_for_programs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "SIZE", (160, 120))
    monkeypatch.setattr(demo, "QUICK_FRAMES", 4)
    monkeypatch.setattr(demo, "QUICK_COMPARED", 2)
    code, out, err = run(capsys, "demo", "-o", tmp_path / "demo", "--quick", "--json")
    summary = json.loads(out)
    assert (code, err) == (0, "") and summary["frames"] == 4 and summary["mean_overlap"] > 0.5
    assert [network["network"] for network in summary["networks"]] == list(PRETRAINED.values())
    assert all(Path(file).is_file() for file in summary["files"])
    code, _, err = run(capsys, "demo", "--frames", 10, "--seconds", 1)
    assert code == 2 and err == "tracker: error: --seconds must come without --frames\n"


def test_bench_measures_the_networks_of_the_package_on_a_synthetic_video(capsys, monkeypatch):
    monkeypatch.setattr(bench, "SIZE", (160, 120))
    code, out, err = run(capsys, "bench", "--frames", 3)
    assert (code, err) == (0, "") and "\x1b" not in out
    for text in ("reference fps", "fastops fps", "Mish + SE over ReLU:"):
        assert text in out
    rows = [line.split("│") for line in out.splitlines() if re.match("│ (ReLU|Mish)", line)]
    assert len(rows) == len(PRETRAINED)
    for _, _, reference, fastops, ratio, agreement, _ in rows:
        low, high = ((float(fastops) + sign * 0.05) / (float(reference) - sign * 0.05) for sign in (-1, 1))
        assert low - 0.005 <= float(ratio.strip().rstrip("x")) <= high + 0.005
        assert float(agreement) > 0.9
    assert run(capsys, "bench", "--frames", 2, "--quiet") == (0, "", "")


def test_bench_of_a_sequence_with_weights_as_json(capsys, monkeypatch, tmp_path, weights):
    sequence = make_sequence(tmp_path)
    arguments = ("bench", "--weights", weights, "--json", "--device", "cpu")
    code, out, err = run(capsys, *arguments, "--source", sequence, "--frames", 100)
    result = json.loads(out)
    assert (code, err) == (0, "") and (result["frames"], result["size"], result["device"]) == (11, [160, 120], "cpu")
    (network,) = result["networks"]
    assert network["network"] == "net.safetensors" and network["agreement"] > 0.9
    for side in ("reference", "fastops"):
        assert network[side]["dtype"] == "float32" and network[side]["ms"]["p50"] <= network[side]["ms"]["p95"]
        assert network[side]["fps"] == pytest.approx(1e3 / network[side]["ms"]["p50"])
    assert network["ratio"] == pytest.approx(network["fastops"]["fps"] / network["reference"]["fps"])
    # A folder of images needs the box, and --dtype is that of the fused side alone.
    arguments += ("--source", sequence / "img", "--box", BOX, "--frames", 3, "--dtype", "bfloat16")
    result = json.loads(run(capsys, *arguments)[1])
    assert [result["networks"][0][side]["dtype"] for side in ("reference", "fastops")] == ["float32", "bfloat16"]
    assert result["frames"] == 2
