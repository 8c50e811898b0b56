"""The benchmarks run, check what they time, and append to their results file."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

from benchmarks import fps, harness, ops, optim


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
    wrong = ops.Case("se_scale", "", ops._cases()[0].inputs, torch.relu, lambda x: 1.01 * x.relu(), "se", 2, 3)
    monkeypatch.setattr(ops, "_cases", lambda: [wrong])
    with pytest.raises(SystemExit, match="se_scale .* forward: fastops is off by"):
        _run(ops.main, monkeypatch, "--budget", "0.01")


@pytest.mark.slow
def test_fps_compares_equal_boxes(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    _run(fps.main, monkeypatch, "--frames", "10", "--csv", str(results))
    rows = _rows(results)
    assert [(row["model"], row["tracker"]) for row in rows] == [
        (model, tracker) for model in ("relu", "mish+se") for tracker in ("reference", "fastops")
    ]
    assert all(float(row["min_iou"]) >= fps.MIN_IOU for row in rows)
    monkeypatch.setattr(fps, "MIN_IOU", 1.01)
    with pytest.raises(SystemExit, match="relu: reference's boxes differ"):
        _run(fps.main, monkeypatch, "--frames", "10")


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


def _run_optim(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(optim, "MODELS", {"resnet50": lambda: [(4, 3, 3, 3), (4,), (5, 36)]})
    monkeypatch.setattr(sys, "argv", ["benchmark", "--device", "cpu", "--budget", "0.01", *arguments])
    assert optim.main() == 0


def test_optim_appends_rows(monkeypatch, capsys, tmp_path):
    results = tmp_path / "results.csv"
    _run_optim(monkeypatch, "--csv", str(results))
    assert [row["op"] for row in _rows(results)] == ["centralize_gradients_", "SGDGC", "AdamWGC"]
    assert all(float(row["fastops_us"]) > 0 and float(row["copy_us"]) > 0 for row in _rows(results))
    assert "gc+foreach/fastops" in capsys.readouterr().out


def test_optim_lists_the_parameters_of_resnet50():
    assert len(optim.resnet50()) == 161
    assert sum(torch.Size(shape).numel() for shape in optim.resnet50()) == 25_557_032


@pytest.mark.parametrize("name", ["centralize_gradients_", "SGDGC", "AdamWGC"])
def test_optim_refuses_to_time_a_wrong_step(monkeypatch, name):
    if name in optim.OPTIMIZERS:
        _, theirs, options = optim.OPTIMIZERS[name]
        monkeypatch.setitem(optim.OPTIMIZERS, name, (theirs, theirs, options))  # no centralization
    else:
        monkeypatch.setattr(optim.fastops, name, lambda params: None)
    with pytest.raises(SystemExit, match=f"{name}: fastops is off by"):
        _run_optim(monkeypatch)
