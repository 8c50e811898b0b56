"""FusedNetwork, the tracker's own way to run the model, against the model itself."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import fastops
from tracker import SiamFC, Tracker
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.model import EagerNetwork
from tracker.pipeline import FusedNetwork
from tracker.reference import ReferenceTracker

VARIANTS = [(activation, attention) for activation in ("relu", "mish") for attention in ("none", "se")]


def _trained_like(activation: str, attention: str, ops: str = "fastops") -> SiamFC:
    """A network whose batch norms have statistics that matter; fresh ones would make folding them nearly trivial."""
    torch.manual_seed(0)
    model = SiamFC(activation, attention, width=0.25, ops="reference")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.momentum = None  # running statistics of the batch below
        model.train()(*(255 * torch.rand(2, 3, side, side) for side in (127, 255)))
    twin = SiamFC(activation, attention, width=0.25, ops=ops)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def _crops() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (127, 127, 3), np.uint8), rng.integers(0, 256, (3, 255, 255, 3), np.uint8)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize(("activation", "attention"), VARIANTS)
def test_responses_are_the_models(activation, attention, dtype, tolerance, device):
    exemplar, crops = _crops()
    exact = EagerNetwork(_trained_like(activation, attention, "reference"), device=device, dtype=torch.float64)
    fused = FusedNetwork(_trained_like(activation, attention), device=device, dtype=dtype)
    for network in (exact, fused):
        network.exemplar(exemplar)
    expected, actual = exact.responses(crops), fused.responses(crops)
    assert actual.dtype == np.float32 and actual.shape == (3, 17, 17)
    spread = np.linalg.norm(expected - expected.mean())
    assert np.linalg.norm(actual - expected) < max(tolerance, 1e-6) * np.linalg.norm(expected)
    assert np.linalg.norm(actual - expected) < 50 * max(tolerance, 1e-6) * spread  # not only the offset is right


@pytest.mark.parametrize(("activation", "attention"), [("relu", "none"), ("mish", "se")])
def test_boxes_are_the_reference_trackers(activation, attention):
    video = SyntheticVideo(0, 12, (320, 240))
    trackers = (
        ReferenceTracker(_trained_like(activation, attention, "reference")),
        Tracker(_trained_like(activation, attention)),
    )
    boxes = []
    for tracker in trackers:
        tracker.init(video.frame(0)[0], video.boxes[0])
        boxes.append(np.array([tracker.update(video.frame(i)[0]).box for i in range(1, 12)]))
    assert iou(*boxes).min() > 0.95


@pytest.mark.parametrize("ops", ["fastops", "reference"])
@pytest.mark.parametrize(("activation", "attention"), VARIANTS)
def test_an_accelerated_model_gives_the_same_boxes(activation, attention, ops):
    model = _trained_like(activation, attention, ops)
    accelerated = fastops.accelerate(copy.deepcopy(model), verbose=False)
    report = fastops.acceleration_report(accelerated)
    assert bool(report.changed) == (activation == "mish" or (attention, ops) == ("se", "reference"))
    video = SyntheticVideo(0, 4, (320, 240))
    for backend in ("fastops", "eager"):
        boxes = []
        for network in (model, accelerated):
            tracker = Tracker(network, backend=backend)
            tracker.init(video.frame(0)[0], video.boxes[0])
            boxes.append(np.array([tracker.update(video.frame(i)[0]).box for i in range(1, 4)]))
        if backend == "fastops":
            assert np.array_equal(*boxes)
        else:
            assert iou(*boxes).min() > 0.95
    assert fastops.acceleration_report(accelerated) == report  # trackers work on copies


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parameters_are_copied(dtype):
    model = _trained_like("mish", "se").to(dtype)
    exemplar, crops = _crops()
    network = FusedNetwork(model)
    network.exemplar(exemplar)
    before = network.responses(crops)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert np.array_equal(network.responses(crops), before)


def test_exemplar_comes_first():
    with pytest.raises(RuntimeError, match="FusedNetwork: exemplar must be called before responses, got no template"):
        FusedNetwork(_trained_like("relu", "none")).responses(_crops()[1])
