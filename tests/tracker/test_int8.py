"""The network in 8-bit integers: measured, stored, run, and chosen by itself only where it is as good."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import fastops
from tracker import BatchTracker, SiamFC, Tracker, cli
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.network import autotune
from tracker.network.checkpoint import load_model, save_state
from tracker.network.fused import FusedNetwork
from tracker.network.int8_settings import Int8Settings
from tracker.network.quantized import QuantizedNetwork, measure_int8
from tracker.training.quantize import sample_crops

KINDS = {"relu": {}, "mish-se": {"attention": "se"}, "box": {"attention": "se", "head": "box"}}


def sequence() -> Sequence:
    return Sequence.from_video("synthetic", SyntheticVideo(seed=3, frames=16, size=(200, 160)))


@pytest.fixture(scope="module", params=KINDS)
def measured(request):
    """A network, and crops that it was measured on."""
    torch.manual_seed(0)
    activation = "relu" if request.param == "relu" else "mish"
    model = SiamFC(activation, width=0.25, **KINDS[request.param])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # running statistics of the crops below
        exemplars, searches = sample_crops([sequence()], 4)
        model.train()(exemplars.float(), searches.float())
        model.eval()
        model.int8, errors = measure_int8(model, exemplars, searches)
    return model, exemplars, searches, errors


def test_errors_are_small_and_told(measured):
    model, exemplars, searches, errors = measured
    names = [e.name for e in errors]
    assert names[:5] == [f"conv{i}" for i in range(1, 6)] and names[-1] == "score map"
    assert ("box2" in names) == (model.head == "box")
    assert all(e.error < 0.1 for e in errors[:-1]) and errors[-1].error < 0.15
    network, quantized = FusedNetwork(model), QuantizedNetwork(model)
    with torch.inference_mode():
        wanted = network.scores(network.features(exemplars.float()), network.features(searches.float()))
        got = quantized.scores(quantized.features(exemplars), quantized.features(searches))
    assert got.dtype == torch.float32 and got.shape == wanted.shape
    assert 0 < (got - wanted)[:, :1].norm() / wanted[:, :1].norm() == pytest.approx(errors[-1].error, rel=1e-3)


def test_tracks_as_float32_does(measured):
    model = measured[0]
    images = sequence()
    trackers = Tracker(model, dtype=torch.float32), Tracker(model, dtype="int8")
    boxes = []
    for tracker in trackers:
        tracker.init(images.image(0), images.boxes[0])
        boxes.append(np.array([tracker.update(images.image(i)).box for i in range(1, 6)]))
    assert trackers[1].network.dtype == torch.int8
    assert iou(*boxes).mean() > 0.8
    batch = BatchTracker(model, dtype=torch.int8)
    target = batch.add(images.image(0), images.boxes[0])
    assert np.array_equal(batch.update(images.image(1))[target].box, boxes[1][0])


def test_settings_stand_in_the_weights(measured, tmp_path):
    model = measured[0]
    model.int8 = dataclasses.replace(model.int8, auc={"float32": 0.7, "int8": 0.695})
    save_state(model, tmp_path / "net.safetensors")
    again = load_model(tmp_path / "net.safetensors")
    assert again.int8 == model.int8 and again.int8.keeps_accuracy
    crops = measured[2]
    with torch.inference_mode():
        assert torch.equal(QuantizedNetwork(again).features(crops), QuantizedNetwork(model).features(crops))
    other = "relu" if model.activation == "mish" else "mish"
    assert load_model(tmp_path / "net.safetensors", activation=other).int8 is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"layers": {"conv1": {"range": [0], "correction": []}}},
        {"layers": {"conv1": {"range": [0, "1"], "correction": []}}},
        {"layers": {"conv1": {"range": None, "correction": [float("nan")]}}},
        {"layers": 3},
        {"auc": {"float32": 0.5}},
    ],
)
def test_broken_settings_are_refused(change):
    good = {"version": 1, "layers": {}, "correlation": None, "auc": None}
    assert Int8Settings.from_json(json.dumps(good)).layers == {}
    with pytest.raises(ValueError, match="int8 settings must be those of version 1, got "):
        Int8Settings.from_json(json.dumps({**good, **change}))
    with pytest.raises(ValueError, match="int8 settings must be"):
        Int8Settings.from_json("{")


def test_settings_of_another_network_are_refused(measured):
    model = measured[0]
    with pytest.raises(ValueError, match="corrections for the layer conv1"):
        QuantizedNetwork(SiamFC(model.activation, width=0.5), model.int8)


def test_needs_measured_weights_and_the_cpu(measured):
    plain = SiamFC(width=0.25)
    with pytest.raises(ValueError, match="dtype int8 must go with weights that carry the ranges"):
        Tracker(plain, dtype="int8")
    with pytest.raises(ValueError, match="dtype int8 must go with device cpu, got cuda"):
        autotune.make_network(measured[0], "cuda", torch.int8)
    with pytest.raises(ValueError, match="dtype must be"):
        Tracker(plain, dtype="int8", backend="eager")


def test_auto_takes_int8_only_where_it_is_as_good(measured, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(autotune, "_int8_is_fast", lambda: True)
    seconds = {torch.float32: 1.0, torch.bfloat16: 1.0, torch.int8: 0.1}
    monkeypatch.setattr(autotune, "_measure", lambda model, device, dtype: seconds[dtype])
    model = measured[0]
    for auc, chosen in (
        (None, torch.float32),
        ({"float32": 0.7, "int8": 0.68}, torch.float32),
        ({"float32": 0.7, "int8": 0.691}, torch.int8),
    ):
        model.int8 = dataclasses.replace(model.int8, auc=auc)
        assert autotune.fastest_dtype(model, "cpu") == chosen
    monkeypatch.setattr(autotune, "_int8_is_fast", lambda: False)
    assert autotune.fastest_dtype(model, "cpu") == torch.float32


def test_auto_measures_int8_as_it_runs(measured, tmp_path, monkeypatch):
    """On the network that `Tracker` would use, with its kind of crops."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(autotune, "_int8_is_fast", lambda: True)
    seconds, measure = {}, autotune._measure
    monkeypatch.setattr(
        autotune, "_measure", lambda model, device, dtype: seconds.setdefault(dtype, measure(model, device, dtype))
    )
    model = copy.copy(measured[0])
    model.int8 = dataclasses.replace(model.int8, auc={"float32": 0.7, "int8": 0.7})
    assert autotune.fastest_dtype(model, "cpu") in seconds
    assert seconds.keys() == {*autotune.CANDIDATES["cpu"], torch.int8} and min(seconds.values()) > 0


def test_slow_cpus_are_told(measured, monkeypatch):
    info = {**fastops.build_info(), "int8_is_fast": False}
    monkeypatch.setattr(fastops, "build_info", lambda: info)
    with pytest.warns(UserWarning, match="int8 gives the same results here but is not faster"):
        autotune.make_network(measured[0], "cpu", "int8")


def test_command(measured, tmp_path, capsys):
    folder = tmp_path / "otb" / "one"
    (folder / "img").mkdir(parents=True)
    images = sequence()
    import cv2

    for i in range(len(images)):
        cv2.imwrite(str(folder / "img" / f"{i + 1:04}.jpg"), images.image(i)[..., ::-1])
    np.savetxt(folder / "groundtruth_rect.txt", images.boxes + [1, 1, 0, 0], "%.2f", ",")
    model = measured[0]
    settings, model.int8 = model.int8, None
    save_state(model, tmp_path / "net.safetensors", dtype=torch.float16)
    model.int8 = settings
    place = f"otb:{tmp_path / 'otb'}"
    options = ["--weights", str(tmp_path / "net.safetensors"), "--data", place, "--crops", "2"]
    output = tmp_path / "int8.safetensors"
    assert cli.main(["quantize", *options, "--validation", place, "--frames", "3", "-o", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "conv5" in printed and "score map" in printed and "validation AUC: float32 " in printed
    before, after = load_model(tmp_path / "net.safetensors"), load_model(output)
    assert after.int8.auc.keys() == {"float32", "int8"}
    state = after.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items())
    assert output.stat().st_size < (tmp_path / "net.safetensors").stat().st_size + 40_000  # still float16
    assert cli.main(["quantize", *options, "-o", str(tmp_path / "x.pth")]) == 2
    assert "--output must end in .safetensors" in capsys.readouterr().err
    assert cli.main(["quantize", *options[:2], "--data", "otb:/nowhere", "-o", str(output)]) == 2
