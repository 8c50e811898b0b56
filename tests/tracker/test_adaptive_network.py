"""SiamFC with the activations whose shape is learned: stock PyTorch, fused ops, inference, checkpoints, training."""

from __future__ import annotations

import pytest
import torch

from tracker import SiamFC
from tracker.network.box_head import BoxOutput
from tracker.network.checkpoint import load_model, save_state
from tracker.network.fused import FusedNetwork
from tracker.network.model import ADAPTIVE
from tracker.training.config import DataConfig, TrainConfig, ValidationConfig
from tracker.training.loop import train

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.parametrize("activation", ADAPTIVE)]


def shaped(activation: str, head: str = "xcorr", ops: str = "fastops") -> SiamFC:
    """A network whose activations are not those that they start as, and whose batch norms have statistics."""
    torch.manual_seed(0)
    model = SiamFC(activation, "se", head, width=0.125, ops=ops)
    model.train()(*(255 * torch.rand(2, 3, side, side) for side in (127, 255)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".a", ".b", ".c", ".d")):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
    return model.eval()


def maps(output) -> torch.Tensor:
    return torch.cat(output, 1) if isinstance(output, BoxOutput) else output


@torch.no_grad()
@pytest.mark.parametrize("head", ["xcorr", "box"])
def test_fused_inference_is_the_model(activation, head):
    model, plain = shaped(activation, head), SiamFC(activation, "se", head, width=0.125, ops="reference").eval()
    plain.load_state_dict(model.state_dict())
    z, x = (255 * torch.rand(n, 3, side, side) for n, side in ((1, 127), (2, 255)))
    expected = maps(plain(z, x))
    torch.testing.assert_close(maps(model(z, x)), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    network = FusedNetwork(model)
    z, x = (t.contiguous(memory_format=torch.channels_last) for t in (z, x))
    found = network.scores(network.features(z), network.features(x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(maps(SiamFC("relu", "se", head, width=0.125).eval()(z, x)), expected, rtol=0.1)


def test_a_checkpoint_tells_the_activation(activation, tmp_path):
    model = shaped(activation)
    save_state(model, tmp_path / "net.safetensors")
    loaded = load_model(tmp_path / "net.safetensors")
    assert loaded.activation == activation and torch.equal(loaded.backbone.conv1[2].a, model.backbone.conv1[2].a)


def test_training_changes_the_shapes(activation):
    torch.manual_seed(0)
    model = SiamFC(activation, width=0.125)
    before = [model.backbone.conv2[2].get_parameter(name).item() for name in "abcd"]
    config = TrainConfig(
        steps=2, batch_size=2, data=DataConfig(synthetic=8, workers=0), validation=ValidationConfig(every=0)
    )
    train(model, config)
    after = [model.backbone.conv2[2].get_parameter(name).item() for name in "abcd"]
    assert all(a != b for a, b in zip(after, before, strict=True))
