"""What the tracker does must not depend on torch's default dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import fastops
from tracker import BatchTracker, SiamFC, Tracker
from tracker.data.pairs import PairDataset
from tracker.data.synthetic import SyntheticVideo
from tracker.network.checkpoint import load_model
from tracker.network.pretrained import find_weights
from tracker.training.config import DataConfig, TrainConfig
from tracker.training.loop import train
from tracker.training.teacher import Teacher

pytestmark = pytest.mark.usefixtures("one_thread")
VIDEO = SyntheticVideo(0, 5, (160, 120), occlusions=0)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tracked(tracker: Tracker) -> np.ndarray:
    tracker.init(VIDEO.image(0), VIDEO.boxes[0])
    return np.array([tracker.update(VIDEO.image(index)).box for index in range(1, 5)])


def in_both(function) -> tuple:
    single = function()
    torch.set_default_dtype(torch.float64)
    return single, function()


@pytest.mark.parametrize("head", ["xcorr", "box"])
@pytest.mark.parametrize("backend", ["fastops", "eager"])
def test_a_tracker_of_weights_is_the_same(double, tmp_path, head, backend):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    torch.save(SiamFC("relu", head=head, width=0.25, ops="reference").state_dict(), tmp_path / "net.pth")
    single, wide = in_both(lambda: tracked(Tracker.from_pretrained(tmp_path / "net.pth", backend=backend)))
    assert np.array_equal(single, wide)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_packaged_weights_track(double, dtype):
    assert tracked(Tracker.from_pretrained("siamfc-mish-se", dtype=dtype)).shape == (4, 4)
    assert {p.dtype for p in load_model(find_weights("siamfc-relu")).parameters()} == {torch.float32}


def test_a_batch_tracker(double):
    tracker = BatchTracker(load_model(find_weights("siamfc-relu")))
    target = tracker.add(VIDEO.image(0), VIDEO.boxes[0])
    assert set(tracker.update(VIDEO.image(1))) == {target}


def test_training_runs(double, tmp_path):
    config = TrainConfig(steps=2, batch_size=2, data=DataConfig(workers=0))
    model = SiamFC("mish", width=0.125).float()
    losses = train(model, config, pairs=PairDataset.synthetic(seed=0, pairs=8), folder=tmp_path)
    assert len(losses) == 2 and np.isfinite(losses).all()


@pytest.mark.parametrize("head, score_loss", [("xcorr", "balanced"), ("xcorr", "mean"), ("box", "mean")])
@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-5), (torch.bfloat16, 0.02)])
def test_a_network_of_another_dtype_trains(dtype, close, head, score_loss):
    config = TrainConfig(steps=2, batch_size=2, score_loss=score_loss, data=DataConfig(workers=0))
    losses, pairs = [], PairDataset.synthetic(seed=0, pairs=8)
    for kind in (torch.float32, dtype):
        torch.manual_seed(0)
        model = SiamFC("mish", "se", head, width=0.125).to(kind)
        losses.append(train(model, config, pairs=pairs))
        assert {p.dtype for p in model.parameters()} == {kind}
    assert losses[1] == pytest.approx(losses[0], rel=close)


@pytest.mark.parametrize("width", [0.125, 0.25])  # with and without an adapter of the features
def test_a_network_of_float64_learns_from_a_teacher(width):
    torch.manual_seed(0)
    teacher = Teacher(SiamFC("relu", width=0.125), torch.device("cpu"), torch.float32)
    config = TrainConfig(steps=1, batch_size=2, data=DataConfig(workers=0))
    model = SiamFC("relu", width=width).double()
    assert np.isfinite(train(model, config, pairs=PairDataset.synthetic(pairs=4), teacher=teacher)).all()


def test_a_dtype_that_does_not_fit_is_refused():
    model = SiamFC("relu", width=0.125)
    with pytest.raises(ValueError, match="^precision must be float32 for a network of float64, got bfloat16$"):
        train(model.double(), TrainConfig(precision="bfloat16"), pairs=PairDataset.synthetic(pairs=8))
    model.float().backbone.conv1.double()
    with pytest.raises(ValueError, match="^model must be all .*, got torch.float32, torch.float64"):
        train(model, pairs=PairDataset.synthetic(pairs=8))
    with pytest.raises(ValueError, match="^model must be all .*, got torch.float16"):
        train(model.half(), pairs=PairDataset.synthetic(pairs=8))


@pytest.mark.parametrize("optimizer", [fastops.optim.SGDGC, fastops.optim.AdamWGC])
def test_optimizers_step_and_load(double, optimizer):
    layer = torch.nn.Conv2d(3, 4, 3)
    steps = optimizer(layer, lr=torch.tensor(0.1))
    for _ in range(2):
        layer(torch.ones(1, 3, 3, 3)).sum().backward()
        steps.step()
        steps.load_state_dict(steps.state_dict())
    assert layer.weight.dtype == torch.float64 and layer.weight.isfinite().all()
