"""The tracker: published accuracy, equality with the reference, clamps, score, errors."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import fastops
from tests.support.paths import DATA, WEIGHTS
from tracker import SiamFC, Tracker, TrackerConfig
from tracker.data.otb import load_sequence
from tracker.engines.eager import crop_region
from tracker.engines.reference import ReferenceTracker, crop_padded_image
from tracker.engines.target import Start
from tracker.eval.metrics import precision_score, success_auc


def _read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def _boxes(tracker, frames: list[Path], box: np.ndarray) -> np.ndarray:
    tracker.init(_read(frames[0]), box)
    return np.array([box] + [tracker.update(_read(frame)).box for frame in frames[1:]])


def _small_net(**arguments) -> SiamFC:
    torch.manual_seed(0)
    return SiamFC(width=0.25, ops="reference", **arguments)


def _noise(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class ScriptedNetwork:
    """Answers with a bump of height `contrast` at `cell` of the map of `scale`, over flat maps."""

    def __init__(self, cell: tuple[int, int] = (8, 8), scale: int = 1, contrast: float = 10.0) -> None:
        self.cell, self.scale, self.contrast = cell, scale, contrast
        self.shapes: list[tuple[int, ...]] = []

    def exemplar(self, crop):
        self.shapes.append(crop.shape)

    def responses(self, crops):
        self.shapes.append(crops.shape)
        maps = np.zeros((len(crops), 17, 17), np.float32)
        maps[self.scale][self.cell] = self.contrast
        return maps


def _scripted(box, image=None, **config) -> tuple[Tracker, ScriptedNetwork]:
    tracker = Tracker(_small_net(), backend="eager", config=TrackerConfig(**{"redetect": False, **config}))
    tracker.network = network = ScriptedNetwork()
    tracker.init(_noise() if image is None else image, box)
    return tracker, network


@pytest.mark.usefixtures("real_data")
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.01), (torch.bfloat16, 0.015)], ids=str)
@pytest.mark.parametrize(
    ("name", "auc", "precision"),
    [
        ("Crossing", 0.771, 1.000),
        ("Deer", 0.732, 1.000),
        ("Skiing", 0.473, 1.000),
        ("Dog", 0.412, 0.929),
        ("MountainBike", 0.728, 1.000),
        ("vot_bag", 0.643, 0.990),
    ],
)
def test_accuracy_of_the_published_weights(name, auc, precision, dtype, tolerance):
    sequence = load_sequence(DATA / "sequences" / name)
    frames, target = sequence.frames[:200], sequence.boxes[:200]
    boxes = _boxes(Tracker(weights=WEIGHTS, dtype=dtype), frames, target[0])
    assert success_auc(boxes, target) == pytest.approx(auc, abs=tolerance)
    if dtype == torch.float32:
        assert precision_score(boxes, target) == pytest.approx(precision, abs=0.01)


@pytest.mark.usefixtures("real_data")
@pytest.mark.slow
def test_eager_tracker_gives_the_boxes_of_the_reference():
    # The clamps, the cropping without a padded copy and the score must leave no trace on a target in view.
    sequence = load_sequence(DATA / "sequences/Deer")
    frames, box = sequence.frames[:40], sequence.boxes[0]
    expected = _boxes(ReferenceTracker(weights=WEIGHTS), frames, box)
    assert np.array_equal(_boxes(Tracker(weights=WEIGHTS, backend="eager"), frames, box), expected)


def test_eager_tracker_gives_the_boxes_of_the_reference_at_the_border():
    net = _small_net(activation="mish", attention="se")
    frames = [np.roll(_noise(90, 110), 3 * i, axis=1) for i in range(6)]
    box = (-6, 60, 31, 44)
    trackers = ReferenceTracker(net), Tracker(net, backend="eager")
    for tracker in trackers:
        tracker.init(frames[0], box)
    for frame in frames[1:]:
        expected, got = (tracker.update(frame).box for tracker in trackers)
        assert np.array_equal(got, expected)


@pytest.mark.slow
def test_compiled_reference_agrees():
    net, box = _small_net(), (50, 40, 30, 20)
    boxes = []
    for compile in (False, True):
        tracker = ReferenceTracker(net, compile=compile)
        tracker.init(_noise(), box)
        boxes.append([tracker.update(np.roll(_noise(), (4 * i, 7 * i), (0, 1))).box for i in range(1, 4)])
    assert np.ptp(boxes[0], axis=0)[:2].min() > 1  # the target moved
    np.testing.assert_allclose(boxes[1], boxes[0], atol=0.5)


def test_crop_equals_the_padded_image():
    image, rng = _noise(60, 83), np.random.default_rng(1)
    color = np.mean(image, axis=(0, 1))
    out = np.empty((255, 255, 3), np.uint8)
    for i in range(300):
        size = float(np.exp(rng.uniform(0, np.log(700)))) if i >= 12 else rng.uniform(2000, 2500)
        center = rng.uniform(-1.5, 2.5, 2).astype(np.float32) * image.shape[:2] if i >= 12 else rng.uniform(-40, 99, 2)
        if i % 3 == 0:
            center = np.round(center * 2) / 2  # ties in rounding the corners
        crop_region(image, center, size, np.rint(color).astype(np.uint8), out)
        assert np.array_equal(out, crop_padded_image(image, center, size, 255, color)), (center, size)


@pytest.mark.parametrize("size", [2047.0, 2049.0, 1e4, 1e5, 3.9e6])
def test_crop_of_any_size_is_quick(size):
    image, out = _noise(480, 640), np.empty((255, 255, 3), np.uint8)
    color = np.array([9, 8, 7], np.uint8)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        crop_region(image, np.array([240.0, 320.0]), size, color, out)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.25
    assert np.array_equal(out[0, 0], color)


def test_displacement_by_hand():
    tracker, network = _scripted((50, 40, 20, 12), window_influence=0.0)
    network.cell = (10, 6)
    result = tracker.update(_noise())
    # Cells 10 and 6 peak at 16 * cell + 7 (the first of two equal samples) of 272, 8 / 16 crop px apart.
    search = np.sqrt((20 + 16) * (12 + 16)) * 255 / 127
    dy, dx = ((16 * cell + 7 - 135.5) * 0.5 * search / 255 for cell in (10, 6))
    np.testing.assert_allclose(result.box, [50 + dx, 40 + dy, 20, 12], rtol=1e-6)
    assert network.shapes == [(127, 127, 3), (3, 255, 255, 3), (3, 255, 255, 3)]


def test_size_follows_the_best_scale():
    tracker, network = _scripted((50, 40, 20, 12))
    network.scale = 2
    box = tracker.update(_noise()).box
    np.testing.assert_allclose(box[2:], np.array([20, 12]) * (0.41 + 0.59 * 1.0375), rtol=1e-6)


def test_penalty_keeps_the_scale_unless_another_is_clearly_better():
    tracker, network = _scripted((50, 40, 20, 12))
    for factor, grows in ((1 / 0.98, False), (1 / 0.97, True)):
        maps = np.zeros((3, 17, 17), np.float32)
        maps[:, 8, 8] = 1, 1, factor
        network.responses = lambda crops, maps=maps: maps
        assert (tracker.update(_noise()).box[2] > 20.2) == grows


@pytest.mark.parametrize(("cell", "corner"), [((0, 0), (0, 0)), ((16, 16), (159, 119)), ((0, 16), (159, 0))])
def test_centre_stays_within_the_image(cell, corner):
    tracker, network = _scripted((60, 40, 30, 20))
    network.cell = cell
    for _ in range(60):
        box = tracker.update(_noise()).box
    np.testing.assert_allclose(box[:2] + (box[2:] - 1) / 2, corner, atol=1e-4)


@pytest.mark.parametrize(("scale", "expected"), [(0, (6, 4)), (2, (320, 640 / 3))])
def test_size_stays_within_its_limits(scale, expected):
    tracker, network = _scripted((60, 40, 30, 20))
    network.scale = scale
    for _ in range(250):
        box = tracker.update(_noise()).box
    np.testing.assert_allclose(box[2:], expected, rtol=1e-5)


@pytest.mark.parametrize("box", [(80, 60, 3, 1), (-7920, -5940, 16000, 12000)])
def test_a_target_beyond_a_limit_keeps_its_size(box):
    tracker, _ = _scripted(box)
    for _ in range(3):
        result = tracker.update(_noise())
    np.testing.assert_allclose(result.box[2:], box[2:], rtol=1e-6)


def test_box_a_hundred_times_the_image_is_tracked_in_bounded_time():
    # A padded copy of the image would need 12 GB here.
    tracker = Tracker(_small_net(), backend="eager")
    start = time.perf_counter()
    tracker.init(_noise(), (-7920, -5940, 16000, 12000))
    box = tracker.update(_noise()).box
    assert time.perf_counter() - start < 5
    assert np.isfinite(box).all()


def test_target_leaving_the_image_does_not_stop_the_tracker():
    background, patch = np.full((120, 160, 3), 90, np.uint8), _noise(24, 30)
    tracker = Tracker(_small_net(), backend="eager")
    for x in range(120, 220, 12):
        image = background.copy()
        image[40:64, x : x + 30] = patch[:, : max(0, 160 - x)]
        if x == 120:
            tracker.init(image, (x, 40, 30, 24))
            continue
        box = tracker.update(image).box
        cx, cy = box[:2] + (box[2:] - 1) / 2
        assert 0 <= cx <= 159 and 0 <= cy <= 119 and 4 <= box[2:].min() and (box[2:] <= (320, 240)).all()


def test_score_is_contrast_relative_to_the_first_frame_and_lost_needs_several_misses():
    tracker, network = _scripted((60, 40, 30, 20), lost_score=0.35, lost_frames=3)
    contrasts = [10, 8, 3, 3, 4, 3, 3, 3, 0, 9, 20]
    results = []
    for network.contrast in contrasts:
        results.append(tracker.update(_noise()))
    assert [r.score for r in results] == pytest.approx([min(c / 10, 1) for c in contrasts], rel=1e-6)
    assert [r.lost for r in results] == [c == 0 or i == 7 for i, c in enumerate(contrasts)]


def test_featureless_first_frame_scores_zero():
    tracker, network = _scripted((60, 40, 30, 20))
    network.contrast = 0.0
    tracker.init(_noise(), (60, 40, 30, 20))
    assert tracker.update(_noise()).score == 0.0


def test_score_of_the_first_frame_itself_is_one():
    tracker = Tracker(_small_net(), backend="eager", config=TrackerConfig(scale_num=1))
    tracker.init(_noise(), (60, 40, 30, 20))
    assert tracker.update(_noise()).score == 1.0


def test_grey_and_tensor_images():
    grey = _noise()[..., 0]
    box = (60, 40, 30, 20)
    boxes = []
    for image in (np.stack([grey] * 3, axis=2), grey, grey[..., None], torch.from_numpy(np.stack([grey] * 3, axis=2))):
        tracker = Tracker(_small_net(), backend="eager")
        tracker.init(image, box)
        boxes.append(tracker.update(image).box)
    assert all(np.array_equal(boxes[0], other) for other in boxes[1:])


def test_starting_on_a_large_frame_is_quick():
    image, tracker = _noise(2160, 3840), Tracker(_small_net(), backend="eager")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        Start.of(image, (60, 40, 30, 20), tracker.config)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1  # the mean of NumPy takes 0.7 s
    expected = np.rint(image.mean((0, 1)))
    assert np.array_equal(Start.of(image, (60, 40, 30, 20), tracker.config).color, expected)
    assert np.array_equal(Start.of(torch.from_numpy(image), (60, 40, 30, 20), tracker.config).color, expected)


def test_track_yields_every_frame():
    frames = [np.roll(_noise(), i, axis=0) for i in range(4)]
    results = list(Tracker(_small_net(), backend="eager").track(frames, (60, 40, 30, 20)))
    assert len(results) == 4
    assert results[0].box.tolist() == [60, 40, 30, 20] and results[0].score == 1.0 and not results[0].lost
    tracker = Tracker(_small_net(), backend="eager")
    tracker.init(frames[0], (60, 40, 30, 20))
    for frame, result in zip(frames[1:], results[1:], strict=True):
        assert np.array_equal(tracker.update(frame).box, result.box)
        assert result.box.dtype == np.float64 and isinstance(result.score, float) and isinstance(result.lost, bool)


def test_tracker_can_be_started_again():
    tracker = Tracker(_small_net(), backend="eager")
    boxes = []
    for _ in range(2):
        tracker.init(_noise(), (60, 40, 30, 20))
        boxes.append([tracker.update(_noise(seed=seed)).box for seed in (1, 2)])
    assert np.array_equal(boxes[0], boxes[1])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 3), r"box must be four finite numbers x, y, w, h, got \(1, 2, 3\)"),
        ((1, 2, float("nan"), 4), "box must be four finite numbers"),
        ((1, 2, float("inf"), 4), "box must be four finite numbers"),
        ("box", "box must be four finite numbers x, y, w, h, got 'box'"),
        (None, "box must be four finite numbers x, y, w, h, got None"),
        ((1, 2, 0, 4), "box must have sides above 0 and at most 1e.06 px, got 0 x 4"),
        ((1, 2, 5, -4), "box must have sides above 0 and at most 1e.06 px, got 5 x -4"),
        ((1, 2, 5, 1e7), "box must have sides above 0 and at most 1e.06 px, got 5 x 1e.07"),
        ((160, 2, 5, 5), "box must overlap the image of 160 x 120 px, got 160, 2, 5, 5"),
        ((-5, 2, 5, 5), "box must overlap the image of 160 x 120 px, got -5, 2, 5, 5"),
        ((2, -9, 5, 5), "box must overlap the image of 160 x 120 px, got 2, -9, 5, 5"),
    ],
)
def test_bad_boxes(box, message):
    with pytest.raises(ValueError, match=message):
        Tracker(_small_net(), backend="eager").init(_noise(), box)


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \[0, 8, 3\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"uint8 \[3, 8, 8\]"),
        ([[0]], "list"),
    ],
)
def test_bad_images(image, got):
    tracker, _ = _scripted((60, 40, 30, 20))
    with pytest.raises(ValueError, match=f"image must be .*got {got}"):
        tracker.init(image, (1, 1, 4, 4))
    with pytest.raises(ValueError, match=f"image must be .*got {got}"):
        tracker.update(image)


def test_update_before_init():
    with pytest.raises(RuntimeError, match="init must be called before update, got no target"):
        Tracker(_small_net(), backend="eager").update(_noise())


def test_response_that_is_not_finite_stops_the_tracker():
    tracker, network = _scripted((60, 40, 30, 20))
    network.contrast = float("nan")
    with pytest.raises(FloatingPointError, match="the network's response must be finite, got NaN or infinity"):
        tracker.update(_noise())


def test_config_must_fit_the_network():
    config = TrackerConfig(instance_size=271, response_size=19)
    tracker, network = Tracker(_small_net(), backend="eager", config=config), ScriptedNetwork()
    tracker.network = network
    with pytest.raises(ValueError, match=r"network must give score maps \[3, 19, 19\], got \[3, 17, 17\]"):
        tracker.init(_noise(), (60, 40, 30, 20))


def test_bad_tracker_arguments():
    net = _small_net()
    with pytest.raises(ValueError, match="backend must be one of fastops, eager, got 'cudnn'"):
        Tracker(net, backend="cudnn")
    with pytest.raises(ValueError, match=r"one of model and weights must be given, got neither \(from_pre"):
        Tracker(backend="eager")
    with pytest.raises(ValueError, match="one of model and weights must be given, got both"):
        Tracker(net, weights="net.pth", backend="eager")
    for dtype in (torch.int8, np.float32, torch.float8_e4m3fn, "auto"):
        with pytest.raises(ValueError, match="dtype must be torch.float32, .*torch.float16, got "):
            Tracker(net, dtype=dtype, backend="eager")
    with pytest.raises(ValueError, match=r"model must be a SiamFC, got str \(a path goes into weights\)"):
        Tracker("siamfc.pth", backend="eager")
    with pytest.raises(AttributeError, match='network can be replaced with backend "eager" only'):
        Tracker(SiamFC(width=0.25)).network = ScriptedNetwork()
    with pytest.raises(FileNotFoundError, match="path must be an existing file, got none.pth"):
        Tracker.from_pretrained("none.pth", backend="eager")
    with pytest.raises(ValueError, match="keys must be among exemplar_size, .*, got scale_count, zoom"):
        Tracker.from_pretrained("none.pth", zoom=2, scale_count=5)
    with pytest.raises(ValueError, match="one of model and weights must be given, got neither"):
        ReferenceTracker()
    with pytest.raises(ValueError, match="model must have ops=\"reference\", got 'fastops'"):
        ReferenceTracker(SiamFC(width=0.25))
    accelerated = fastops.accelerate(_small_net(activation="mish"), verbose=False)
    with pytest.raises(ValueError, match="model must not be accelerated .*, got fused backbone"):
        ReferenceTracker(accelerated)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale_num": 2}, "scale_num must be odd and at least 1, got 2"),
        ({"scale_num": 3.0}, "scale_num must be an integer, got 3.0"),
        ({"context": "half"}, "context must be a number, got 'half'"),
        ({"context": -0.1}, "context must be at least 0 and finite, got -0.1"),
        ({"scale_step": 1.0}, "scale_step must be greater than 1 and finite, got 1.0"),
        ({"scale_lr": 1.1}, "scale_lr must be between 0 and 1, got 1.1"),
        ({"window_influence": float("nan")}, "window_influence must be between 0 and 1, got nan"),
        ({"lost_frames": 0}, "lost_frames must be at least 1, got 0"),
        ({"min_target_size": 0.0}, "min_target_size must be positive and finite, got 0.0"),
        ({"instance_size": 100}, "instance_size must be at least exemplar_size, got 100"),
        ({"response_size": 18}, r"response_size must be \(instance_size .* = 17, got 18"),
        ({"response_up": True}, "response_up must be an integer, got True"),
    ],
)
def test_bad_config(values, message):
    with pytest.raises(ValueError, match=message):
        TrackerConfig(**values)


def test_config_from_dict_takes_every_field():
    config = TrackerConfig(scale_num=5, lost_frames=9)
    assert TrackerConfig.from_dict({f.name: getattr(config, f.name) for f in fields(config)}) == config


@pytest.mark.parametrize("device", ["cuda:99", "toaster", "cuda:x"])
def test_devices_that_are_not_there(device):
    what = "one of this machine's . GPUs" if device == "cuda:99" else "cpu, cuda or cuda:N"
    with pytest.raises(ValueError, match=f"device must be {what}, got '{device}'"):
        Tracker.from_pretrained(device=device)
    with pytest.raises(ValueError, match=f"device must be {what}"):
        Tracker(SiamFC(width=0.125), device=device, backend="eager")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(ValueError, match="device must be one of this machine's 0 GPUs, got 'cuda'"):
        Tracker.from_pretrained(device="cuda")
