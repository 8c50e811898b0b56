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
from fastops.nn import frozen_conv
from tracker import BatchTracker, SiamFC, Tracker
from tracker.data.synthetic import SyntheticVideo
from tracker.engines import cuda
from tracker.engines import fused as engine_module
from tracker.engines.reference import ReferenceTracker
from tracker.eval.metrics import iou
from tracker.network import autotune, fused
from tracker.network.capture import measured_convolutions
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


@pytest.mark.parametrize("activation", ["relu", "mish", "arelu"])
def test_the_network_of_a_gpu(activation, monkeypatch):
    """Four channels of crops, dense convolutions, and one pass behind each convolution: here on the host."""
    model, crops = _trained_like(activation, "se"), _crops()
    expected = _responses(FusedNetwork(model), *crops)
    monkeypatch.setattr(fused, "CROP_CHANNELS", {"cpu": 4})
    monkeypatch.setattr(frozen_conv, "ONE_PASS", {"cpu"})
    network = FusedNetwork(model, dense=["conv2", "conv5"])
    assert [conv.groups for conv in map(_convolution, network._convs)] == [1, 1, 1, 2, 1]
    assert _convolution(network._convs[0]).weight.shape[1] == network.crop_channels == 4
    actual = _responses(network, *crops)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def _convolution(layer) -> frozen_conv.FrozenConv2d:
    return layer if isinstance(layer, frozen_conv.FrozenConv2d) else layer._conv


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_tracker_with_crops_of_four_channels(dtype, monkeypatch):
    model, video = _trained_like("mish", "none"), SyntheticVideo(0, 6, (320, 240))

    def boxes() -> tuple[np.ndarray, torch.Tensor]:
        tracker = Tracker(model, dtype=dtype)
        tracker.init(video.frame(0)[0], video.boxes[0])
        return np.stack([tracker.update(video.frame(i)[0]).box for i in range(1, 6)]), tracker._engine._engine._crops

    expected, three = boxes()
    monkeypatch.setattr(fused, "CROP_CHANNELS", {"cpu": 4})
    actual, four = boxes()
    assert three.shape[1] == 3 and four.shape[1] == 4 and not four[:, 3].any()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.05)


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


def test_dense_convolutions_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, cpu = _trained_like("relu", "none"), torch.device("cpu")
    measured = []
    times = {(): 1.0, ("conv2",): 0.9, ("conv4",): 0.99, ("conv5",): 0.5}

    def measure(model, device, dtype, dense):
        measured.append((dtype, *dense))
        return times[tuple(dense)]

    monkeypatch.setattr(autotune, "_measure", measure)
    for dtype, count in ((torch.float32, 4), (torch.float32, 4), (torch.bfloat16, 8)):
        assert autotune.dense_convolutions(model, cpu, dtype) == ("conv2", "conv5")
        assert len(measured) == count
    times.update({("conv2",): 1.1, ("conv5",): 1.1})
    assert autotune.dense_convolutions(_trained_like("mish", "se"), cpu, torch.float32) == ()
    assert autotune.dense_convolutions(_trained_like("mish", "se"), cpu, torch.float32) == () and len(measured) == 12


def test_measuring_a_dense_network():
    assert autotune._measure(_trained_like("relu", "none"), torch.device("cpu"), torch.float32, ["conv2"]) > 0


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_convolutions_are_measured_unless_they_must_be_deterministic(deterministic, before, monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", before)
    monkeypatch.setattr(cudnn, "deterministic", deterministic)
    with pytest.raises(KeyError), measured_convolutions():
        assert cudnn.benchmark == (before or not deterministic)
        raise KeyError
    assert cudnn.benchmark == before


def test_fastest_dtype_needs_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert autotune.fastest_dtype(_trained_like("relu", "none")) in autotune.CANDIDATES["cpu"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_are_captured_as_cuda_graphs(monkeypatch):
    # Else the kernels of the convolutions are chosen anew by the first capture.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    model, video = _trained_like("mish", "se"), SyntheticVideo(0, 10, (320, 240))
    frames = [video.frame(i)[0] for i in range(10)]
    captured, eager = BatchTracker(model, device="cuda:0"), BatchTracker(model, device="cuda:0")
    eager._engine._graphs.step = lambda key, run, state: (run(), torch.cuda.synchronize())
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
    # Of two targets and of one, of frames on the host and on the device.
    assert len(captured._engine._graphs._captured) == 4 and all(captured._engine._graphs._captured.values())
    assert not eager._engine._graphs._captured
    assert np.array_equal(*results)


class _HostEvent:
    def record(self, stream) -> None: ...
    def synchronize(self) -> None: ...


@pytest.fixture
def gpu_on_the_host(monkeypatch) -> None:
    """The buffers for a GPU, on the host."""
    monkeypatch.setattr(engine_module.torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda s: None))
    monkeypatch.setattr(
        engine_module.torch.cuda, "current_stream", lambda device: SimpleNamespace(wait_stream=lambda s: None)
    )
    monkeypatch.setattr(engine_module.torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(engine_module.torch.cuda, "Event", _HostEvent)
    empty = torch.empty
    monkeypatch.setattr(engine_module.torch, "empty", lambda *size, pin_memory=False, **o: empty(*size, **o))


def test_frames_of_one_call_have_buffers_of_their_own(gpu_on_the_host):
    uploads = cuda.Uploads(torch.device("cpu"))
    images = [torch.full((4, 5, 3), i, dtype=torch.uint8) for i in range(4)]
    first = [uploads(image, place) for place, image in enumerate(images)]
    uploads.finish(first[0])
    assert all(torch.equal(frame, image) for frame, image in zip(first, images, strict=True))
    assert uploads(images[3], 0).data_ptr() == first[0].data_ptr()
    for side in range(2 * cuda.MAX_BUFFERS):
        uploads(torch.zeros(2, 2 + side, 3, dtype=torch.uint8), 0)
    assert len(uploads._buffers) == cuda.MAX_BUFFERS


def test_frames_wait_for_their_step_in_pinned_memory(gpu_on_the_host):
    uploads = cuda.Uploads(torch.device("cpu"))
    images = [torch.full((4, 5, 3), i, dtype=torch.uint8) for i in range(3)]
    frame = uploads(images[1], 0)
    pinned = uploads.take_waiting(frame)
    assert torch.equal(pinned, images[1]) and uploads.take_waiting(frame) is None
    frame = uploads(images[2], 0)
    uploads.finish(frame)
    assert torch.equal(frame, images[2]) and uploads.take_waiting(frame) is None
    other = uploads(images[1], 1)
    assert torch.equal(other, images[1]) and uploads.take_waiting(other) is None


def _as_on_a_gpu(tracker: BatchTracker) -> list:
    """Let a tracker replay its steps. The keys of the captured ones are added to the list; a replay runs the step as it
    was at its capture."""
    engine, keys = tracker._engine, []
    engine._uploads, engine._chunk = cuda.Uploads(torch.device("cpu")), 64
    engine._graphs._capture = lambda run, state: keys.append(len(keys)) or SimpleNamespace(replay=run)
    engine._reserve(engine.capacity)
    return keys


def _boxes(tracker: BatchTracker, images) -> np.ndarray:
    return np.stack([result.box for _, result in sorted(tracker.update(images).items())])


def test_graphs_of_a_changing_number_of_targets(gpu_on_the_host):
    model, video = _trained_like("mish", "se"), SyntheticVideo(0, 40, (320, 240))
    plain, replaying = BatchTracker(model), BatchTracker(model)
    keys = _as_on_a_gpu(replaying)
    rng, targets = np.random.default_rng(0), []
    for i in range(40):
        frame = video.frame(i)[0]
        if i < 20 or i >= 30:  # up to 12 targets, then down to 2, then up again
            box = (*rng.uniform(10, 150, 2), 40, 30)
            added = {tracker.add(frame, box) for tracker in (plain, replaying)}
            targets += added if len(targets) < 12 else ()
            if targets[-1] not in added:
                for tracker in (plain, replaying):
                    tracker.drop(*added)
        elif len(targets) > 2:
            gone = targets.pop(rng.integers(len(targets)))
            for tracker in (plain, replaying):
                tracker.drop(gone)
        np.testing.assert_allclose(_boxes(replaying, frame), _boxes(plain, frame), rtol=0, atol=0.1)
    assert len(keys) <= 6  # 1 ... 16 rows; the table grew, which voids the graphs, at the first of each number


def test_videos_share_a_graph(gpu_on_the_host):
    model = _trained_like("relu", "none")
    videos = {
        name: SyntheticVideo(name, 12, size) for name, size in ((0, (320, 240)), (1, (200, 160)), (2, (320, 240)))
    }
    plain, replaying = BatchTracker(model), BatchTracker(model)
    keys = _as_on_a_gpu(replaying)
    for tracker in (plain, replaying):
        for count in range(2):
            for name, video in videos.items():
                tracker.add(video.frame(0)[0], video.boxes[0] + 3 * count, name)
        tracker.drop(1)
    for i in range(1, 12):
        frames = {name: video.frame(i)[0] for name, video in videos.items() if i < 8 or name != 1}
        np.testing.assert_allclose(_boxes(replaying, frames), _boxes(plain, frames), rtol=0, atol=0.1)
    assert len(keys) == 2  # of three videos, of two


def test_steps_may_have_more_rows_than_the_table(gpu_on_the_host):
    """Five targets of one video and two of another: 8 and 2 rows, in a table of 8."""
    model, video = _trained_like("relu", "none"), SyntheticVideo(0, 5, (320, 240))
    plain, replaying = BatchTracker(model), BatchTracker(model)
    _as_on_a_gpu(replaying)
    for tracker in (plain, replaying):
        for name in "aabaaba":
            tracker.add(video.frame(0)[0], video.boxes[0] + 2 * len(tracker), name)
    assert replaying._engine.capacity == 8
    for i in range(1, 5):
        frames = dict.fromkeys("ab", video.frame(i)[0])
        np.testing.assert_allclose(_boxes(replaying, frames), _boxes(plain, frames), rtol=0, atol=0.1)
