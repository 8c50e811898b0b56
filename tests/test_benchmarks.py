"""The benchmarks run, check what they time, and append to their results file."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from torch import nn

import fastops
from benchmarks import accelerate, fps, hard_cases, harness, ops, stages, train
from benchmarks.cases import Case, cases
from tracker import SiamFC


def _run(main, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cpu", "--no-compile", *arguments])
    assert main() == 0


def _rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_ops_appends_rows(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    for count in (2, 4):  # se_scale has one size; forward, and forward + backward
        _run(ops.main, monkeypatch, "--op", "se_scale", "--budget", "0.01", "--csv", str(results))
        rows = _rows(results)
        assert len(rows) == count and [p.name for p in tmp_path.iterdir()] == ["results.csv"]
    assert {row["direction"] for row in rows} == {"forward", "forward+backward"}
    assert all(float(row["fastops_us"]) > 0 and row["commit"] and row["device"] for row in rows)
    assert "eager/fastops" in capsys.readouterr().out


def test_ops_refuses_to_time_a_wrong_result(monkeypatch):
    wrong = Case("se_scale", "", cases()[0].inputs, torch.relu, lambda x: 1.01 * x.relu(), "se", 2, 3)
    monkeypatch.setattr(ops, "cases", lambda large: [wrong])
    with pytest.raises(SystemExit, match="se_scale .* forward: fastops is off by"):
        _run(ops.main, monkeypatch, "--budget", "0.01")


SMALL_STEP = ["--width", "0.125", "--batch-size", "2", "--budget", "0.01", "--threads", "1", "--workers", "0"]


def test_train_times_the_phases_of_a_step(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    _run(train.main, monkeypatch, *SMALL_STEP, "--steps", "2", "--csv", str(results))
    rows = _rows(results)
    assert [row["competitor"] for row in rows] == ["reference", "fastops", "tracker.train"]
    assert all(float(row[f"{phase}_ms"]) > 0 for row in rows[:2] for phase in (*train.PHASES, "step"))
    assert 0 <= float(rows[2]["data_wait_percent"]) <= 100
    printed = capsys.readouterr().out
    assert "over reference" in printed and "0 workers" in printed


def test_train_refuses_to_time_another_step(monkeypatch):
    monkeypatch.setattr(train, "centralize_loop", lambda params: None)
    with pytest.raises(SystemExit, match="fastops: the first step is off by"):
        _run(train.main, monkeypatch, *SMALL_STEP)


def test_accelerate_compares_whole_networks(monkeypatch, capsys, tmp_path):
    def network():
        return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Mish(), accelerate.SqueezeExcitation(32))

    def wrong(model, verbose):
        model[1].eps = 0.1
        return fused(model, verbose=verbose)

    fused, results, arguments = fastops.accelerate, tmp_path / "results.csv", ["--budget", "0.01", "--threads", "1"]
    monkeypatch.setattr(accelerate, "NETWORKS", {"small": (network, [(2, 3, 9, 9)])})
    _run(accelerate.main, monkeypatch, *arguments, "--csv", str(results))
    rows = _rows(results)
    assert [(row["model"], row["direction"]) for row in rows] == [("small", "inference"), ("small", "training")]
    assert all(float(row["eager_ms"]) > 0 and float(row["fastops_ms"]) > 0 and row["commit"] for row in rows)
    assert "eager/fastops" in capsys.readouterr().out
    monkeypatch.setattr(fastops, "accelerate", wrong)
    with pytest.raises(SystemExit, match="small: fastops is off by"):
        _run(accelerate.main, monkeypatch, *arguments)


def test_resnet_of_the_benchmark_is_accelerated_whole():
    model = accelerate.resnet18(nn.Mish, se=True)
    report = fastops.acceleration_report(fastops.accelerate(model, verbose=False))
    assert report.left_alone == () and len(report.changed) == 1 + 8 * 3  # the stem, three in each block


def test_peak_memory_counts_what_is_held_at_once():
    def run():
        first = torch.ones(1000)
        second = first + 1
        del first
        return second + torch.ones(500)[0]

    assert 10_000 <= harness.peak_memory(run, "cpu") < 10_200


@pytest.mark.slow
def test_fps_compares_equal_boxes(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    _run(fps.main, monkeypatch, "--frames", "10", "--csv", str(results))
    rows = [row for row in _rows(results) if row["benchmark"] == "fps"]
    assert [(row["model"], row["tracker"]) for row in rows] == [
        (model, tracker) for tracker in ("reference", "fastops", "fastops bfloat16") for model in fps.MODELS
    ]
    assert all(0.2 < float(row["price"]) < 20 for row in _rows(results) if row["benchmark"] == "fps price")
    assert all(float(row["min_iou"]) >= fps.MIN_IOU for row in rows if row["tracker"] != "fastops bfloat16")
    assert "over relu" in capsys.readouterr().out
    monkeypatch.setattr(fps, "MIN_IOU", 1.01)
    with pytest.raises(SystemExit, match="relu: reference's boxes differ"):
        _run(fps.main, monkeypatch, "--frames", "10")


def test_stages_of_a_frame(monkeypatch, capsys, tmp_path):
    results, plot = tmp_path / "results.csv", tmp_path / "stages.png"
    arguments = ["--width", "0.25", "--size", "VGA", "--targets", "1", "2", "--dtype", "float32", "--frames", "5"]
    arguments += ["--singles", "1", "--csv", str(results), "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cpu", *arguments])
    assert stages.main() == 0
    rows = _rows(results)
    assert [(row["targets"], row["scales"]) for row in rows] == [("1", "3"), ("1", "1"), ("2", "3")]
    for row in rows:
        assert all(float(row[f"{stage}_ms"]) > 0 for stage in stages.STAGES if stage != "upload")
        assert float(row["network_ms"]) > float(row["crop_ms"]) and 0 < float(row["floor_ms"])
        assert float(row["floor_ms"]) < float(row["direct_floor_ms"])
    assert plot.read_bytes()[:4] == b"\x89PNG" and len(list(tmp_path.iterdir())) == 2
    assert fastops.crop_and_resize.__module__ == "fastops.ops.crop"  # the stopwatch is gone
    assert "batch/singles" in capsys.readouterr().out


def test_flops_of_the_network():
    # 16.2 GFLOP in three search crops, counted by hand: 2 * outputs * inputs of each.
    direct, least = stages.network_flops(SiamFC(), 3, 255)
    outputs = ((96, 123, 3 * 121), (256, 57, 48 * 25), (384, 26, 256 * 9), (384, 24, 192 * 9), (256, 22, 192 * 9))
    assert direct == sum(2 * 3 * channels * side**2 * inputs for channels, side, inputs in outputs)
    assert 0.1 < least / direct < 0.3


def test_hard_cases(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    arguments = ["--width", "0.25", "--frames", "8", "--measured", "5", "--csv", str(results)]
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cpu", *arguments])
    assert hard_cases.main() == 0
    rows = _rows(results)
    assert [row["target"] for row in rows] == list(hard_cases.BOXES)
    # A crop takes the same time at any position and size; the factor of ten allows for a busy machine.
    assert max(float(row["p50_ms"]) for row in rows) < 10 * min(float(row["p50_ms"]) for row in rows)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cpu", "--width", "0.25", "--frames", "2"])
    with pytest.raises(SystemExit, match="the target of empty frames must be lost"):
        hard_cases.main()


def test_failed_append_leaves_the_old_rows(tmp_path):
    results = tmp_path / "results.csv"
    harness.append_rows(results, [{"a": 1}])
    before = results.read_text()

    class Unprintable:
        def __str__(self) -> str:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        harness.append_rows(results, [{"a": Unprintable()}])
    assert results.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["results.csv"]
