"""The network: shapes, state-dict keys, both sets of ops, checkpoints."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.paths import WEIGHTS
from tracker.network.checkpoint import load_model, load_state, save_state
from tracker.network.model import OPS, EagerNetwork, SiamFC, grouped_xcorr, scaled_channels

SMALL = {"width": 0.25, "se_reduction": 4, "ops": "reference"}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _images(n_exemplars: int = 1, n_searches: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randint(0, 256, (n_exemplars, 3, 127, 127)).float()
    return z, torch.randint(0, 256, (n_exemplars * n_searches, 3, 255, 255)).float()


@pytest.mark.parametrize("attention", ["none", "se"])
@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize("ops", ["fastops", "reference"])
def test_shapes_of_every_variant(activation, attention, ops):
    net = SiamFC(activation, attention, width=0.25, se_reduction=4, ops=ops).eval()
    z, x = _images(2, 3)
    with torch.no_grad():
        assert net.features(z).shape == (2, 64, 6, 6)
        assert net.features(x[:1]).shape == (1, 64, 22, 22)
        assert net(z, x).shape == (6, 1, 17, 17)
    kinds = {type(m).__name__ for m in net.backbone.modules()}
    assert ("Mish" in kinds) == (activation == "mish") and ("ReLU" in kinds) == (activation == "relu")


def test_keys_of_the_relu_variant():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    blocks = ["0.weight", "0.bias", *(f"1.{k}" for k in norm)]
    expected = [f"backbone.conv{i}.{k}" for i in range(1, 5) for k in blocks]
    expected += ["backbone.conv5.0.weight", "backbone.conv5.0.bias"]
    assert list(SiamFC(**SMALL).state_dict()) == expected
    attention = [f"attention.{k}" for k in ("w1", "b1", "w2", "b2")]
    assert set(SiamFC(attention="se", **SMALL).state_dict()) == {*expected, *attention}


def test_channels_follow_the_width():
    assert scaled_channels(1.0) == (96, 256, 384, 384, 256)
    assert scaled_channels(0.25) == (32, 64, 96, 96, 64)
    assert scaled_channels(0.01) == (16,) * 5
    norms = [m for m in SiamFC(**SMALL).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [32, 64, 96, 96]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-6, 0.05)}


@pytest.mark.parametrize("attention", ["none", "se"])
@pytest.mark.parametrize("activation", ["relu", "mish"])
def test_fastops_and_reference_agree(activation, attention):
    fast = SiamFC(activation, attention, **{**SMALL, "ops": "fastops"})
    plain = SiamFC(activation, attention, **SMALL)
    plain.load_state_dict(fast.state_dict(), strict=True)
    z, x = _images(2, 2)
    outputs, gradients = [], []
    for net in (fast, plain):
        out = net(z, x)  # train mode: batch statistics and every backward formula take part
        out.square().mean().backward()
        outputs.append(out.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    for a, b in (outputs, gradients):
        assert (a - b).norm() < 1e-4 * b.norm()


def test_se_attention_follows_the_paper():
    net = SiamFC(attention="se", **SMALL)
    x = torch.randn(2, 64, 5, 7)
    w1, b1, w2, b2 = (getattr(net.attention, k).detach().double().numpy() for k in ("w1", "b1", "w2", "b2"))
    squeezed = x.double().numpy().mean(axis=(2, 3))
    gate = 1 / (1 + np.exp(-(np.maximum(squeezed @ w1.T + b1, 0) @ w2.T + b2)))
    expected = x.numpy() * gate[:, :, None, None]
    np.testing.assert_allclose(net.attention(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_grouped_xcorr_pairs_each_template_with_its_searches():
    z, x = torch.randn(2, 3, 4, 5), torch.randn(6, 3, 9, 8)
    out = grouped_xcorr(z, x, 0.5)
    assert out.shape == (6, 1, 6, 4)
    for i in range(6):
        torch.testing.assert_close(out[i, 0], 0.5 * F.conv2d(x[i : i + 1], z[i // 3 : i // 3 + 1])[0, 0])
    with pytest.raises(ValueError, match=r"x must be \[k\*2, 3, H, W\], got \(5, 3, 9, 8\)"):
        grouped_xcorr(z, x[:5])


def test_out_scale_multiplies_the_score_map():
    small, large = SiamFC(**SMALL).eval(), SiamFC(**SMALL, out_scale=1.0).eval()
    large.load_state_dict(small.state_dict())
    z, x = _images(1, 1)
    with torch.no_grad():
        torch.testing.assert_close(small(z, x) * 1000, large(z, x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of relu, mish, arelu, asigmoid, atanh, got 'gelu'"),
        ({"attention": "cbam"}, "attention must be one of none, se, got 'cbam'"),
        ({"head": "rpn"}, "head must be one of xcorr, box, got 'rpn'"),
        ({"ops": "cuda"}, "ops must be one of fastops, reference, got 'cuda'"),
        ({"width": 0}, "width must be above 0 and at most 8, got 0"),
        ({"width": float("nan")}, "width must be above 0 and at most 8, got nan"),
        ({"se_reduction": 0}, "se_reduction must be an integer from 1 to the 256 channels, got 0"),
        ({"se_reduction": 1.5}, "se_reduction must be an integer from 1 to the 256 channels, got 1.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SiamFC(**arguments)


def test_eager_network_leaves_the_model_alone():
    net = SiamFC(**SMALL).train()
    network = EagerNetwork(net, dtype=torch.bfloat16)
    crops = np.random.default_rng(0).integers(0, 256, (3, 255, 255, 3), np.uint8)
    with pytest.raises(RuntimeError, match="exemplar must be called before responses"):
        network.responses(crops)
    network.exemplar(crops[0, 64:191, 64:191])
    maps = network.responses(crops)
    assert maps.shape == (3, 17, 17) and maps.dtype == np.float32
    assert net.training and next(net.parameters()).dtype == torch.float32
    assert int(net.backbone.conv1[1].num_batches_tracked) == 0


@pytest.mark.usefixtures("real_data")
def test_published_weights_load_strictly():
    net = SiamFC(ops="reference")
    net.load_state_dict(load_state(WEIGHTS), strict=True)
    loaded = load_model(WEIGHTS, ops="reference")
    assert loaded.settings() == net.settings() and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), loaded.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "mish", "attention": "se", "width": 0.25, "se_reduction": 8},
        {"activation": "relu", "attention": "none", "width": 0.3, "se_reduction": 16},
    ],
)
def test_saved_model_comes_back(tmp_path, arguments):
    net = SiamFC(**arguments, ops="reference").eval()
    save_state(net, tmp_path / "net.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    loaded = load_model(tmp_path / "net.safetensors", ops="reference")
    assert loaded.settings() == net.settings()
    z, x = _images(1, 1)
    with torch.no_grad():
        assert torch.equal(net(z, x), loaded(z, x))


def test_half_precision_is_for_the_file_alone(tmp_path):
    net, path = SiamFC(**SMALL).eval(), tmp_path / "net.safetensors"
    save_state(net, path, torch.float16)
    assert {value.dtype for key, value in load_state(path).items() if "num_batches" not in key} == {torch.float16}
    loaded = load_model(path, ops="reference")
    for wide, narrow in zip(net.parameters(), loaded.parameters(), strict=True):
        assert narrow.dtype == torch.float32 and torch.equal(narrow, wide.half().float())
    net.backbone.conv1[0].bias.data[3] = 1e5
    with pytest.raises(ValueError, match="got torch.float16, in which backbone.conv1.0.bias overflow"):
        save_state(net, path, torch.float16)


@pytest.mark.parametrize("width", [0.1, 0.25, 0.3, 0.5, 1.0, 1.7])
def test_variant_is_inferred_from_bare_keys(tmp_path, width):
    net = SiamFC("mish", "se", width=width, se_reduction=5, ops="reference")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "net.pth")
    loaded = load_model(tmp_path / "net.pth", activation="mish", ops="reference")
    assert [p.shape for p in loaded.parameters()] == [p.shape for p in net.parameters()]
    assert loaded.activation == "mish" and loaded.attention_kind == "se"
    assert load_model(tmp_path / "net.pth", ops="reference").activation == "relu"


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")

    def fail(file):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_state(SiamFC(**SMALL), path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"] and path.read_bytes() == b"old"
    with pytest.raises(ValueError, match="path must end in .safetensors, got .*net.pth"):
        save_state(SiamFC(**SMALL), tmp_path / "net.pth")


class _Pickled:
    """A class that no weights file may bring to life."""


def test_files_that_are_not_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be an existing file, got .*none.pth"):
        load_state(tmp_path / "none.pth")
    for name in ("text.pth", "text.pt"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(ValueError, match=f"path must be a file of plain weights, got .*{name}"):
            load_state(tmp_path / name)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="path must be a file of plain weights, got .*empty.pth"):
        load_state(tmp_path / "empty.pth")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(ValueError, match="path must be a safetensors file, got .*text.safetensors"):
        load_state(tmp_path / "text.safetensors")
    torch.save(_Pickled(), tmp_path / "object.pth")
    with pytest.raises(ValueError, match="path must be a file of plain weights, got .*object.pth"):
        load_state(tmp_path / "object.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="path must hold a dictionary of tensors, got .*list.pth"):
        load_state(tmp_path / "list.pth")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(ValueError, match="path must end in .pth, .pt or .safetensors, got .*net.onnx"):
        load_state(tmp_path / "net.onnx")


def test_keys_that_do_not_match_are_named(tmp_path):
    state = SiamFC(**SMALL).state_dict()
    path = tmp_path / "net.pth"

    def load(changed):
        torch.save(changed, path)
        load_model(path, ops="reference")

    with pytest.raises(ValueError, match="weights must have the key 'backbone.conv1.0.weight', got a"):
        load({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="keys must match the network, got missing backbone.conv3.1.bias in"):
        load({k: v for k, v in state.items() if k != "backbone.conv3.1.bias"})
    with pytest.raises(ValueError, match="keys must match the network, got unexpected head.bias in"):
        load(state | {"head.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="keys must match the network, got other shapes for backbone.conv1.1.bias in"):
        load(state | {"backbone.conv1.1.bias": torch.zeros(7)})


def test_convolutions_start_equal_at_one_seed_whatever_else_the_network_has():
    starts = []
    for activation, attention, head, ops in product(("relu", "mish"), ("none", "se"), ("xcorr", "box"), OPS):
        torch.manual_seed(7)
        network = SiamFC(activation, attention, head, width=0.125, ops=ops)
        starts.append([block[0].weight for block in network.backbone.children()])
    for start in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(start, starts[0], strict=True))
    torch.manual_seed(8)
    assert not torch.equal(SiamFC(width=0.125).backbone.conv1[0].weight, starts[0][0])
