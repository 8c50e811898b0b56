"""The network: shapes, state-dict keys, both sets of ops, checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.paths import ROOT, WEIGHTS
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
    net.backbone.conv1[1].running_var[3] = 1e6  # as trained networks have it
    save_state(net, path, torch.float16)
    dtypes = {key: value.dtype for key, value in load_state(path).items() if "num_batches" not in key}
    assert {key for key, dtype in dtypes.items() if dtype == torch.float32} == {
        key for key in dtypes if "running" in key
    }
    assert set(dtypes.values()) == {torch.float16, torch.float32}
    loaded = load_model(path, ops="reference")
    assert loaded.backbone.conv1[1].running_var[3] == 1e6
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
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch" * 99)
    with pytest.raises(ValueError, match="path must be a file of plain weights, got .*net.onnx"):
        load_state(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-lfs pointer in place"),
        (b"\n <!DOCTYPE html><html><body>Google Drive - Virus scan warning", "a web page in place of the file"),
        (b"<html><head><title>403</title>", "a web page in place of the file"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_what_came_in_place_of_weights_is_named(tmp_path, start, what, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(start)
    with pytest.raises(ValueError, match=f"path must be a file of plain weights, got .*{suffix}, {what}"):
        load_model(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.99])
def test_a_truncated_file_is_called_so(tmp_path, part):
    path = tmp_path / "net.pth"
    torch.save(SiamFC(**SMALL).state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match="got .*net.pth, a truncated or damaged one"):
        load_model(path)
    path = tmp_path / "net.safetensors"
    save_state(SiamFC(**SMALL), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ValueError, match="path must be a safetensors file, got .*, a damaged one"):
        load_model(path)


def _plain(state):
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


KEPT_AS = {
    "as it is": lambda state: state,
    "without num_batches_tracked": _plain,
    "model_state_dict": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer": {"state": {}}},
    "state_dict": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "best": 0.5},
    "lightning": lambda state: {
        "pytorch-lightning_version": "2.0",
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "hyper_parameters": {"lr": 0.01},
    },
    "compiled": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "another name": lambda state: {"epoch": torch.tensor(3), "siamfc": state, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": _plain(state)}},
    "numbers beside": lambda state: {**state, "epoch": 7, "note": "best"},
    "float64": lambda state: {k: v.double() if v.is_floating_point() else v for k, v in state.items()},
    "float16": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".ckpt", ".bin", "", ".safetensors"])
@pytest.mark.parametrize("kept", list(KEPT_AS))
def test_checkpoints_as_people_have_them(tmp_path, kept, suffix):
    model = SiamFC("relu", width=0.25, ops="reference")
    path = tmp_path / f"net{suffix}"
    torch.save(KEPT_AS[kept](model.state_dict()), path)
    loaded = load_model(path, ops="reference")
    for key, value in model.state_dict().items():
        assert torch.allclose(loaded.state_dict()[key].double(), value.double(), atol=1e-3), key
    assert all(value.dtype == torch.float32 for value in loaded.parameters())


def test_files_of_torch_before_zip_and_safetensors_by_their_content(tmp_path):
    model = SiamFC(**SMALL)
    torch.save(model.state_dict(), tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    save_state(model, tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").rename(tmp_path / "model.bin")
    for name in ("old.tar", "model.bin"):
        assert load_state(tmp_path / name).keys() == model.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64])
def test_integer_convolutions_are_refused(tmp_path, dtype):
    state = SiamFC(**SMALL).state_dict()
    state["backbone.conv2.0.weight"] = state["backbone.conv2.0.weight"].to(dtype)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"weights must be floating-point, got {dtype} for backbone.conv2.0.weight"):
        load_model(tmp_path / "net.pth", ops="reference")


def test_the_message_names_what_was_found_and_the_nearest_network(tmp_path):
    state = SiamFC(**SMALL).state_dict()
    torch.save({"generator": {"a": torch.zeros(1)}, "critic": {"b": torch.zeros(1)}}, tmp_path / "gan.pth")
    with pytest.raises(ValueError, match="a dict with the keys critic, generator"):
        load_model(tmp_path / "gan.pth")
    torch.save(state | {"head.bias": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(
        ValueError, match=r"unexpected head.bias in .*; the nearest network is SiamFC\(activation='relu'"
    ):
        load_model(tmp_path / "net.pth", ops="reference")
    with pytest.raises(FileNotFoundError, match="got siamfc .the package has the weights siamfc-relu, siamfc-mish-se,"):
        load_model("siamfc")


def test_the_same_weights_give_the_same_bytes(tmp_path):
    """The library's own order of the metadata is another one in each process."""
    program = (
        "import sys, torch\nfrom tracker import SiamFC\nfrom tracker.network.checkpoint import save_state\n"
        "torch.manual_seed(0)\nsave_state(SiamFC('relu', width=0.125, ops='reference'), sys.argv[1])\n"
    )
    for name in "abc":
        path = str(tmp_path / f"{name}.safetensors")
        subprocess.run([sys.executable, "-c", program, path], check=True, cwd=ROOT)
    one, two, three = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one == two == three
    assert load_model(tmp_path / "a.safetensors", ops="reference").activation == "relu"


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
