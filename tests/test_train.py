"""The training loop; a few steps on synthetic pairs must make a tracker that tracks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastops
from tracker import SiamFC, Tracker
from tracker.data.synthetic import SyntheticVideo
from tracker.draw import VideoWriter
from tracker.eval.metrics import iou
from tracker.train import TrainConfig, scale_responses, train


def small(width: float = 0.25, seed: int = 0) -> SiamFC:
    torch.manual_seed(seed)
    return SiamFC("mish", "se", width=width, ops="reference")


def boxes_on(model: SiamFC, frames, box) -> np.ndarray:
    return np.array([result.box for result in Tracker(model.eval(), backend="eager").track(frames, box)])


pytestmark = pytest.mark.usefixtures("one_thread")


VIDEOS = [SyntheticVideo(seed, 30, (320, 240), occlusions=1) for seed in (0, 1, 3)]


def mean_overlap(model: SiamFC) -> float:
    return float(np.mean([iou(boxes_on(model, video.images(), video.boxes[0]), video.boxes) for video in VIDEOS]))


@pytest.fixture(scope="module")
def trained() -> tuple[SiamFC, list[float]]:
    model = small()
    scale_responses(model)
    return model, train(model, TrainConfig(steps=30, batch_size=4, lr=5e-2, final_lr=5e-3))


def test_scale_responses_starts_the_loss_where_it_is_steep():
    model = small()
    before = model.backbone.conv5[0].weight.clone()
    scale_responses(model, 1.0)
    assert model.training  # left as it was
    assert model.backbone.conv5[0].weight.std() > 2 * before.std()
    half = {key: value.clone() for key, value in model.state_dict().items()}
    scale_responses(model, 1.0)  # the attention's gates move a little, so a second call changes little, not nothing
    ratio = model.backbone.conv5[0].weight.std() / half["backbone.conv5.0.weight"].std()
    assert 0.8 < ratio < 1.25


def test_scale_responses_refuses_a_dead_network():
    model = small(0.125)
    torch.nn.init.zeros_(model.backbone.conv5[0].weight)
    with pytest.raises(ValueError, match="scale_responses: model must give finite responses that vary, got deviation"):
        scale_responses(model, batch_size=1)


def test_same_seed_gives_the_same_network():
    runs = []
    for seed in (1, 1, 2):
        model = small(0.125)
        losses = train(model, TrainConfig(steps=2, batch_size=2, seed=seed))
        runs.append((losses, torch.cat([p.flatten() for p in model.parameters()])))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_without_the_library_the_losses_are_the_same(monkeypatch):
    config = TrainConfig(steps=3, batch_size=2, lr=5e-2)
    fused = train(small(0.125), config)
    monkeypatch.setattr(fastops, "load_error", "_cpu.so is missing")
    monkeypatch.delattr(fastops, "balanced_logistic_loss")
    assert train(small(0.125), config) == pytest.approx(fused, rel=1e-5)


def test_progress_and_learning_rate_schedule(monkeypatch):
    rates, calls = [], []
    step = torch.optim.SGD.step

    def record(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", record)
    config = TrainConfig(steps=3, batch_size=1, lr=1e-2, final_lr=1e-4)
    losses = train(small(0.125), config, progress=lambda done, loss: calls.append((done, loss)))
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4])
    assert calls == list(enumerate(losses, start=1))


def test_nan_stops_with_the_batch_and_leaves_the_weights(monkeypatch):
    model = small(0.125)
    poison = iter([0.0, 0.0, math.nan])

    class Poisoned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, z, x):
            return self.net(z, x) + next(poison)

    with pytest.raises(FloatingPointError, match="train: loss must be finite, got nan in batch 3 of 5"):
        train(Poisoned(), TrainConfig(steps=5, batch_size=1))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", ["steps", "batch_size", "lr", "final_lr"])
def test_config_is_checked(name):
    with pytest.raises(ValueError, match=f"TrainConfig: {name} must be positive, got 0"):
        TrainConfig(**{name: 0})


def test_short_training_makes_a_tracker(trained):
    model, losses = trained
    assert not model.training
    assert np.mean(losses[-5:]) < 0.62 < math.log(2)
    before, after = mean_overlap(small()), mean_overlap(model)
    assert after > 0.5 and after > before + 0.1, (before, after)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_boxes_from_a_written_video_equal_those_from_the_frames(trained, tmp_path, suffix):
    model, _ = trained
    video = SyntheticVideo(1, 20, (320, 240), occlusions=0)
    path = tmp_path / f"video{suffix}"
    with VideoWriter(path, video.size, 30) as writer:
        for image in video.images():
            writer.write(image)
    from_frames = boxes_on(model, video.images(), video.boxes[0])
    from_file = boxes_on(model, path, video.boxes[0])
    assert iou(from_frames, from_file).mean() >= 0.8
