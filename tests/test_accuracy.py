"""The accuracy benchmark: rows as the trackers score, no row measured twice, tables from the file."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest

from benchmarks import accuracy
from tests.support.commands import make_weights
from tests.support.eval_data import otb
from tracker import Tracker
from tracker.data.datasets import open_places
from tracker.eval.metrics import precision_score, success_auc

pytestmark = pytest.mark.usefixtures("one_thread")


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["accuracy", "--device", "cpu", "--threads", "1", *map(str, arguments)])
    assert accuracy.main() == 0


def test_rows_are_scored_kept_and_printed(monkeypatch, capsys, tmp_path):
    root, weights, results = otb(tmp_path / "otb", frames=9), make_weights(tmp_path), tmp_path / "rows.csv"
    arguments = ["--data", f"otb:{root}=Deer", "--frames", 6, "--only-given", "--weights", f"mine={weights}"]
    arguments += ["--csv", results]
    run(monkeypatch, *arguments, "--opencv", "MIL", "Nothing")
    assert "left out: OpenCV" in capsys.readouterr().out
    with results.open() as file:
        network, opencv = csv.DictReader(file)
    (sequence,) = open_places([f"otb:{root}"], ["Deer"], frames=6)
    tracker = Tracker(weights=weights)
    tracker.init(sequence.image(0), sequence.boxes[0])
    boxes = np.array([sequence.boxes[0], *(tracker.update(sequence.image(i)).box for i in range(1, 6))])
    assert float(network["success_auc"]) == pytest.approx(success_auc(boxes, sequence.boxes), abs=1e-4)
    assert float(network["precision_20px"]) == pytest.approx(precision_score(boxes, sequence.boxes), abs=1e-4)
    assert network["frames"] == "6" and float(network["fps"]) > 0 and network["commit"] and network["device"]
    assert opencv["tracker"] == "MIL" and 0 < float(opencv["success_auc"]) < 1

    # What is there is not measured again; other settings, sequences and weights are.
    def refuse(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "track_once", refuse)
        run(monkeypatch, *arguments, "--opencv", "MIL")
        with pytest.raises(AssertionError):
            run(monkeypatch, *arguments, "--settings", "scale_num=1")
    run(monkeypatch, *arguments, "--settings", "scale_num=1")
    run(monkeypatch, *arguments, "--data", f"otb:{root}=Car4", "--workers", 2)
    capsys.readouterr()
    run(monkeypatch, "--csv", results, "--markdown")
    lines = capsys.readouterr().out.splitlines()
    header, last = ([cell.strip() for cell in line.strip("| ").split("|")] for line in (lines[0], lines[-2]))
    assert header[:2] == ["sequence", "frames"] and header[3] == "MIL" and "scale_num=1" in header[4]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["Deer", "Car4", "mean", "frames/s"]
    assert last[1] == "12" and last[3].endswith("(1)") and not last[2].endswith("(1)")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "otb:nowhere"], "root must be an existing folder, got nowhere"),
        (["--settings", "speed=2"], "keys must be among"),
        (["--weights", "missing.safetensors"], "--weights must be existing files, got missing.safetensors"),
        (["--markdown"], "--csv must hold rows of this benchmark"),
    ],
)
def test_mistakes_are_named(monkeypatch, tmp_path, more, message):
    root = otb(tmp_path / "otb", frames=3)
    more = more if "--data" in more else [*more, "--data", f"otb:{root}"]
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *more, "--csv", tmp_path / "none.csv")
