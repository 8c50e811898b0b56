"""Exported networks give the tracker the same boxes, in ONNX Runtime and in plain PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import tracker.network.export as export
from tests.support.paths import DATA, WEIGHTS
from tracker import SiamFC, Tracker
from tracker.cli import main
from tracker.data.otb import load_sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.network.checkpoint import load_model, save_state
from tracker.network.export import export_branches, export_model

pytestmark = pytest.mark.usefixtures("one_thread")

VIDEO = SyntheticVideo(3, 10, (160, 120), occlusions=0)
VARIANTS = list(product(("relu", "mish"), ("none", "se")))
FORMATS = ("torch", pytest.param("onnx", marks=pytest.mark.slow))
SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


def small_net(activation: str = "mish", attention: str = "se") -> SiamFC:
    """Random weights, with a batch norm that folding must not lose."""
    torch.manual_seed(0)
    net = SiamFC(activation, attention, width=0.125, ops="reference", out_scale=0.01)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
    return net.eval()


class ExportedNetwork:
    """The two exported branches, with the interface of a network for `Tracker`."""

    def __init__(self, files: dict[str, Path]) -> None:
        load = self._onnx if files["search"].suffix == ".onnx" else self._torch
        self._exemplar, self._search = load(files["exemplar"]), load(files["search"])

    @staticmethod
    def _onnx(path: Path):
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]

    @staticmethod
    def _torch(path: Path):
        module = torch.export.load(path).module()
        return lambda *arrays: module(*map(torch.from_numpy, arrays)).numpy()

    @staticmethod
    def _input(crops: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)

    def exemplar(self, crop: np.ndarray) -> None:
        self._template = self._exemplar(self._input(crop[None]))

    def responses(self, crops: np.ndarray) -> np.ndarray:
        return self._search(self._template, self._input(crops))[:, 0]


def track(tracker: Tracker, images: list[np.ndarray], box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tracker.init(images[0], box)
    results = [tracker.update(image) for image in images[1:]]
    return np.array([result.box for result in results]), np.array([result.score for result in results])


def assert_same_tracking(model: SiamFC, files: dict[str, Path], images: list[np.ndarray], box: np.ndarray) -> None:
    boxes, scores = track(Tracker(model, backend="eager"), images, box)
    exported = Tracker(model, backend="eager")
    exported.network = ExportedNetwork(files)
    got_boxes, got_scores = track(exported, images, box)
    assert iou(got_boxes, boxes).min() >= 0.99
    np.testing.assert_allclose(got_scores, scores, atol=1e-3)
    assert np.ptp(boxes, axis=0)[:2].max() > 1  # it moved


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("activation", "attention"), VARIANTS)
def test_exported_branches_give_the_trackers_boxes(tmp_path, format, activation, attention):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    model = small_net(activation, attention)
    files = export_model(model, tmp_path / f"net{SUFFIXES[format]}", format)
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    assert_same_tracking(model, files, list(VIDEO.images()), VIDEO.boxes[0])

    # Any number of searches, at the accuracy of float32 and at the model's own scale.
    network, images = ExportedNetwork(files), np.random.default_rng(0).integers(0, 256, (5, 255, 255, 3), np.uint8)
    network.exemplar(images[0, :127, :127])
    with torch.no_grad():
        template = model.features(torch.from_numpy(network._input(images[:1, :127, :127])))
        expected = model.score(template, model.features(torch.from_numpy(network._input(images))))[:, 0].numpy()
    for count in (1, 2, 5):
        error = network.responses(images[:count]) - expected[:count]
        assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(expected[:count])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.usefixtures("real_data")
def test_published_weights_on_a_real_sequence(capsys, tmp_path, format):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    output = tmp_path / f"siamfc{SUFFIXES[format]}"
    assert main(["export", "--format", format, "--weights", str(WEIGHTS), "-o", str(output)]) == 0
    files = {branch: output.with_suffix(f".{branch}{output.suffix}") for branch in ("exemplar", "search")}
    printed = capsys.readouterr()
    assert printed.err == "" and all(str(path) in printed.out for path in files.values())
    sequence = load_sequence(DATA / "sequences/MountainBike")
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sequence.frames[:12]]
    assert_same_tracking(load_model(WEIGHTS, ops="reference"), files, images, sequence.boxes[0])


def test_packages_load_without_this_package(tmp_path):
    model = small_net()
    files = export_model(model, tmp_path / "net.pt2", "torch")
    program = (
        "import sys\n"
        "sys.modules['fastops'] = sys.modules['tracker'] = None\n"
        "import torch\n"
        "exemplar, search = (torch.export.load(path).module() for path in sys.argv[1:])\n"
        "scores = search(exemplar(torch.full((1, 3, 127, 127), 90.0)), torch.full((4, 3, 255, 255), 60.0))\n"
        "print(tuple(scores.shape), f'{scores.mean():.4e}')\n"
    )
    arguments = [sys.executable, "-c", program, str(files["exemplar"]), str(files["search"])]
    child = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    with torch.no_grad():
        expected = model(torch.full((1, 3, 127, 127), 90.0), torch.full((4, 3, 255, 255), 60.0)).mean()
    assert child.returncode == 0, child.stderr
    shape, mean = child.stdout.rsplit(maxsplit=1)
    assert shape == "(4, 1, 17, 17)" and float(mean) == pytest.approx(float(expected), rel=1e-3)
    for path in files.values():
        assert b"tracker" not in path.read_bytes() and str(Path.home()).encode() not in path.read_bytes()
        assert path.stat().st_size < 1.2 * 4 * sum(p.numel() for p in model.parameters()) + 100_000


@pytest.mark.slow
def test_onnx_graphs(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    files = export_model(small_net(), tmp_path / "net.onnx", "onnx")
    graphs = {branch: onnx.load(path) for branch, path in files.items()}

    def shapes(values):
        return {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
        }

    exemplar, search = graphs["exemplar"].graph, graphs["search"].graph
    assert shapes(exemplar.input) == {"crop": [1, 3, 127, 127]}
    assert shapes(exemplar.output) == {"template": [1, 32, 6, 6]}
    assert shapes(search.input) == {"template": [1, 32, 6, 6], "searches": ["S", 3, 255, 255]}
    assert shapes(search.output) == {"scores": ["S", 1, 17, 17]}
    for model in graphs.values():
        onnx.checker.check_model(model, full_check=True)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", export.OPSET)]
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert os.getcwd().encode() not in model.SerializeToString()
    # The template is no constant: a convolution of the search branch has it as its weight.
    assert "template" not in {value.name for value in search.initializer}
    assert [node.op_type for node in search.node if "template" in node.input] == ["Conv"]


def test_the_model_stays_as_it_is():
    model = small_net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    branches = export_branches(model)
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    # Trained or not, the branches are those of eval mode.
    crop = torch.rand(1, 3, 127, 127) * 255
    with torch.no_grad():
        expected = model.eval().features(crop)
        assert (branches["exemplar"].module()(crop) - expected).norm() <= 1e-5 * expected.norm()


def test_a_failure_leaves_the_files_that_were_there(monkeypatch, tmp_path):
    (tmp_path / "net.exemplar.pt2").write_text("older file")

    def full(program, branch, path):
        path.write_bytes(b"part")
        if branch == "search":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_write_torch", full)
    with pytest.raises(OSError, match="No space left on device"):
        export_model(small_net(), tmp_path / "net.pt2", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["net.exemplar.pt2"]
    assert (tmp_path / "net.exemplar.pt2").read_text() == "older file"


def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path):
    weights = tmp_path / "net.safetensors"
    save_state(small_net(), weights)

    def assert_refused(message: str, *arguments: object) -> None:
        assert main(["export", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("tracker: error: ") and message in err

    given = ("--weights", weights, "-o")
    assert_refused("Missing option", *given, tmp_path / "a.pt2")
    assert_refused("format must be one of onnx, torch, got 'tflite'", "--format", "tflite", *given, tmp_path / "a.pt2")
    assert_refused("path must end in .pt2 for the format torch, got", "--format", "torch", *given, tmp_path / "a.onnx")
    assert_refused("--output must lie in an existing folder", "--format", "torch", *given, tmp_path / "no" / "a.pt2")
    (tmp_path / "b.search.pt2").mkdir()
    assert_refused("--output must be a file, got the folder", "--format", "torch", *given, tmp_path / "b.pt2")
    missing = ("--format", "torch", "--weights", tmp_path / "none.pth", "-o", tmp_path / "a.pt2")
    assert_refused("--weights must be an existing file, siamfc-relu,", *missing)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    remedy = "got no onnxscript: pip install "
    assert_refused(remedy, "--format", "onnx", *given, tmp_path / "a.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.search.pt2", "net.safetensors"]


def test_help_shows_examples(capsys):
    assert main(["export", "--help"]) == 0
    assert "tracker export --format onnx --weights siamfc.pth" in capsys.readouterr().out
