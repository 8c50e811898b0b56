"""FusedNetwork and FusedEngine against the model itself and OpenCV."""

from __future__ import annotations

import copy
import gc
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastops
from tracker import BatchTracker, SiamFC, Tracker
from tracker.data.synthetic import SyntheticVideo
from tracker.engines import cuda
from tracker.engines import fused as engine_module
from tracker.engines.reference import ReferenceTracker
from tracker.eval.metrics import iou
from tracker.network import autotune
from tracker.network.fused import FusedNetwork
from tracker.network.model import EagerNetwork

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
    copied = SiamFC(activation, attention, width=0.25, ops=ops)
    copied.load_state_dict(model.state_dict())
    return copied.eval()


def _crops() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (127, 127, 3), np.uint8), rng.integers(0, 256, (3, 255, 255, 3), np.uint8)


def _input(network: FusedNetwork, crops: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(crops).to(network.device).permute(0, 3, 1, 2).to(network.dtype)


@torch.inference_mode()
def _responses(network: FusedNetwork, exemplar: np.ndarray, crops: np.ndarray) -> np.ndarray:
    template = network.features(_input(network, exemplar[None]))
    return network.scores(template, network.features(_input(network, crops)))[:, 0].cpu().numpy()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-12)],
)
@pytest.mark.parametrize(("activation", "attention"), VARIANTS)
def test_responses_are_the_models(activation, attention, dtype, tolerance, device):
    exemplar, crops = _crops()
    exact = EagerNetwork(_trained_like(activation, attention, "reference"), device=device, dtype=torch.float64)
    fused = FusedNetwork(_trained_like(activation, attention), device=device, dtype=dtype)
    exact.exemplar(exemplar)
    expected, actual = exact.responses(crops), _responses(fused, exemplar, crops)
    assert actual.dtype == (np.float64 if dtype == torch.float64 else np.float32) and actual.shape == (3, 17, 17)
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
    network = FusedNetwork(model)
    before = _responses(network, *_crops())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert np.array_equal(_responses(network, *_crops()), before)


def test_steps_keep_nothing():
    """Crops of every frame land in the same memory, and Python holds no more after many frames than before."""
    tracker = Tracker(_trained_like("relu", "none"))
    video = SyntheticVideo(0, 8, (320, 240))
    frames = [video.frame(i)[0] for i in range(8)]
    tracker.init(frames[0], video.boxes[0])
    engine = tracker._engine._engine
    crops, before = engine._crops.data_ptr(), engine._crops.clone()
    for frame in frames:
        tracker.update(frame)
    assert engine._crops.data_ptr() == crops and not torch.equal(engine._crops, before)
    tracemalloc.start()
    try:
        held = []
        for _ in range(2):
            for frame in frames[1:]:
                tracker.update(frame)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 4096


def test_fastest_dtype_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = _trained_like("relu", "none")
    measured = []
    times = {torch.float32: 1.0, torch.bfloat16: 0.5}

    def measure(model, device, dtype):
        measured.append(dtype)
        return times[dtype]

    monkeypatch.setattr(autotune, "_measure", measure)
    assert autotune.fastest_dtype(model) == torch.bfloat16 and len(measured) == 2
    assert autotune.fastest_dtype(model) == torch.bfloat16 and len(measured) == 2
    times[torch.bfloat16] = 0.97  # too little gain for fewer bits
    assert autotune.fastest_dtype(_trained_like("mish", "se")) == torch.float32
    autotune.cache_path().write_text("not json")
    assert autotune.fastest_dtype(model) == torch.float32
    assert Tracker(model, dtype="auto").network.dtype == torch.float32


def test_fastest_dtype_needs_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert autotune.fastest_dtype(_trained_like("relu", "none")) in autotune.CANDIDATES["cpu"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_are_captured_as_cuda_graphs():
    model, video = _trained_like("mish", "se"), SyntheticVideo(0, 10, (320, 240))
    frames = [video.frame(i)[0] for i in range(10)]
    captured, eager = BatchTracker(model, device="cuda:0"), BatchTracker(model, device="cuda:0")
    eager._engine._replay = eager._engine._follow
    results = []
    for tracker in (captured, eager):
        first = tracker.add(frames[0], video.boxes[0])
        second = tracker.add(torch.from_numpy(frames[0]).cuda(), (10, 10, 40, 30))
        boxes = []
        for i, frame in enumerate(frames[1:]):
            if i == 5:
                tracker.drop(first)
            image = frame if i % 2 else torch.from_numpy(frame).cuda()
            boxes.append(np.stack([result.box for result in tracker.update(image).values()]))
        results.append(np.concatenate(boxes))
        assert second in tracker.targets
    assert len(captured._engine._graphs._captured) == 2 and all(
        captured._engine._graphs._captured.values()
    )  # of two targets, of one
    assert not eager._engine._graphs._captured
    assert np.array_equal(*results)


class _HostEvent:
    def record(self, stream) -> None: ...
    def synchronize(self) -> None: ...


def test_frames_of_one_call_have_buffers_of_their_own(monkeypatch):
    """The buffers for a GPU, on the host."""
    monkeypatch.setattr(engine_module.torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda s: None))
    monkeypatch.setattr(
        engine_module.torch.cuda, "current_stream", lambda device: SimpleNamespace(wait_stream=lambda s: None)
    )
    monkeypatch.setattr(engine_module.torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(engine_module.torch.cuda, "Event", _HostEvent)
    empty = torch.empty
    monkeypatch.setattr(engine_module.torch, "empty", lambda *size, pin_memory=False, **o: empty(*size, **o))
    uploads = cuda.Uploads(torch.device("cpu"))
    images = [torch.full((4, 5, 3), i, dtype=torch.uint8) for i in range(4)]
    first = [uploads(image, place) for place, image in enumerate(images)]
    assert all(torch.equal(frame, image) for frame, image in zip(first, images, strict=True))
    assert uploads(images[3], 0).data_ptr() == first[0].data_ptr()
    for side in range(2 * cuda.MAX_BUFFERS):
        uploads(torch.zeros(2, 2 + side, 3, dtype=torch.uint8), 0)
    assert len(uploads._buffers) == cuda.MAX_BUFFERS
