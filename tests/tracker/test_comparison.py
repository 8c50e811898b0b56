"""`compare`: stock PyTorch against fused ops, every network in its turn."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from rich.console import Console

from tracker import SiamFC
from tracker.data.synthetic import SyntheticVideo
from tracker.engines.target import TrackResult
from tracker.eval import comparison
from tracker.eval.comparison import Comparison, compare, comparison_table

VIDEO = SyntheticVideo(0, 5, (160, 120))


def test_every_tracker_gets_every_frame_and_another_goes_first(monkeypatch):
    order = []

    class Fake:
        network = torch.zeros(1)

        def __init__(self, model, **_):
            self.name = f"{type(self).__name__} {model.activation}"

        def init(self, image, box):
            order.append(f"init {self.name}")

        def update(self, image):
            order.append(self.name)
            return TrackResult(np.ones(4), 1.0, False)

    monkeypatch.setattr(comparison, "ReferenceTracker", type("Reference", (Fake,), {}))
    monkeypatch.setattr(comparison, "Tracker", type("Fused", (Fake,), {}))
    networks = {"a": SiamFC("relu", width=0.125), "b": SiamFC("mish", width=0.125)}
    results = compare(networks, VIDEO.images(), VIDEO.boxes[0])
    names = ["Reference relu", "Fused relu", "Reference mish", "Fused mish"]
    assert order[:4] == [f"init {name}" for name in names] and len(order) == 4 + 4 * 4
    frames = [order[i : i + 4] for i in range(4, 20, 4)]
    assert frames == [names[turn:] + names[:turn] for turn in (1, 2, 3, 0)]
    assert [result.network for result in results] == ["a", "b"] and results[0].agreement == 1
    assert results[1].reference.shape == results[1].fastops.shape == (4,)


def test_examples_run():
    result = doctest.testmod(comparison)
    assert result.failed == 0 and result.attempted > 2


def test_a_box_head_and_half_precision():
    torch.manual_seed(0)  # an untrained box head: its best cell may change with the rounding
    network = {"box": SiamFC(head="box", width=0.125)}
    (result,) = compare(network, VIDEO.images(), VIDEO.boxes[0], dtype=torch.bfloat16)
    assert result.dtypes == ("float32", "bfloat16") and len(result.reference) == len(result.fastops) == 4
    fps = [result.summary()[side]["fps"] for side in ("reference", "fastops")]
    assert result.agreement > 0.9 and result.ratio == pytest.approx(fps[1] / fps[0])
    with pytest.raises(ValueError, match="images must be at least two, one to start on and one to time"):
        compare({"one": SiamFC(width=0.125)}, [VIDEO.image(0)], VIDEO.boxes[0])


def test_table_tells_the_price(capsys):
    times = [np.array([0.010, 0.012]), np.array([0.005, 0.005])]
    comparisons = [Comparison("ReLU", *times, 1.0), Comparison("Mish", 2 * times[0], times[1], 1.0)]
    Console(width=120).print(comparison_table(comparisons, "cpu"))
    out = capsys.readouterr().out
    assert "Mish over ReLU: 50% of the fps in PyTorch, 100% fused" in out and "2.20x" in out and "4.40x" in out
    half = Comparison("ReLU", *times, 1.0, ("float32", "bfloat16"))
    Console(width=120).print(comparison_table([half], "cpu"))
    out = capsys.readouterr().out
    assert "over ReLU" not in out and "ReLU, float32 and bfloat16" in out
