"""Accelerated models and fused modules in torch's tools: tracing, export, ONNX, conversion, vmap, sharding."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import fastops
from fastops import accelerate, acceleration_report, restore
from tests.support import lookalikes as like

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Squeeze-and-excitation by hand."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


def plain() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Mish(), Block(), nn.Mish(inplace=True), nn.Conv2d(8, 8, 3)
    return nn.Sequential(*layers, nn.Mish(), nn.MaxPool2d(2), nn.Mish()).eval()


MODULES = {
    "Mish": lambda: nn.Sequential(fastops.nn.Mish()),
    "Mish in place": lambda: nn.Sequential(nn.Conv2d(3, 3, 1), fastops.nn.Mish(inplace=True)),
    "BatchNormMish2d": lambda: nn.Sequential(fastops.nn.BatchNormMish2d(3)).eval(),
    "MishMaxPool2d": lambda: nn.Sequential(fastops.nn.MishMaxPool2d(2)),
    "SEAttention": lambda: nn.Sequential(fastops.nn.SEAttention(3, 1)),
    "AffineMish": lambda: nn.Sequential(fastops.nn.AffineMish(3)),
    "AReLU": lambda: nn.Sequential(fastops.nn.AReLU()),
    "WinogradConv2d": lambda: nn.Sequential(fastops.nn.WinogradConv2d(3, 4, 3)),
    "accelerated": lambda: accelerate(plain(), verbose=False),
    "accelerated ResNet": lambda: accelerate(like.ResNet(like.TimmSE).eval(), verbose=False),
}
each_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)


def images() -> Tensor:
    return torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(1))


@each_module
def test_jit_trace(make):
    model = make()
    traced = torch.jit.trace(model, images())
    with torch.no_grad():
        torch.testing.assert_close(traced(images() * 2), model(images() * 2))


@each_module
def test_fx(make):
    model = make()
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(images()), model(images()))


def test_fx_of_a_fused_module_alone():
    with pytest.raises(
        TypeError, match=r"BatchNormMish2d: torch.fx must trace a module that holds it, or fastops.rest"
    ):
        torch.fx.symbolic_trace(fastops.nn.BatchNormMish2d(3))


@each_module
def test_export(make):
    model = make()
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), model(images()))


@each_module
@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(make, dynamo, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = make(), tmp_path / "a.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        expected = model(images())
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images(),), path, dynamo=dynamo, verbose=False)
    session = runtime.InferenceSession(path)
    (got,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", [fastops.nn.BatchNormMish1d, fastops.nn.BatchNormMish2d, fastops.nn.BatchNormMish3d])
def test_a_conversion_that_would_lose_the_mish_is_an_error(norm):
    message = (
        rf"{norm.__name__} must not be converted .* Convert the model before fastops.accelerate, or after fastops.r"
    )
    with pytest.raises(RuntimeError, match=message):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(norm(8)))
    model = accelerate(plain(), verbose=False)
    with pytest.raises(RuntimeError, match=r"fastops.restore"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(restore(model))
    assert isinstance(converted[1], nn.SyncBatchNorm) and isinstance(converted[2], nn.Mish)
    assert accelerate(nn.Sequential(norm(8), nn.Mish()), verbose=False)[0].weight.shape == (8,)


class PoolsBySize(Block):
    """Mean for small images, maximum for large ones: the same function only up to a size."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True) if x.shape[2] < 32 else x.amax((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))


class SizedMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.mish(x) if x.shape[-1] < 32 else nn.functional.silu(x)


def test_blocks_are_tried_at_a_second_size():
    model = nn.Sequential(PoolsBySize(), SizedMish(), Block())
    expected = model(torch.ones(1, 8, 40, 40).cumsum(2))
    model = accelerate(model, verbose=False)
    assert [left.kind for left in acceleration_report(model).left_alone] == ["PoolsBySize", "SizedMish"]
    torch.testing.assert_close(model(torch.ones(1, 8, 40, 40).cumsum(2)), expected)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.block = nn.BatchNorm2d(8), nn.Mish(), PoolsBySize()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.block(self.act(y)) + y


def test_a_second_time_keeps_what_was_left_alone():
    model = accelerate(Branches(), verbose=False)
    first = acceleration_report(model)
    assert len(first.left_alone) == 2
    for _ in range(2):
        assert acceleration_report(accelerate(model, verbose=False)) == first
        model = copy.deepcopy(model)
    assert acceleration_report(restore(model)).left_alone == ()


@pytest.mark.parametrize("shape, sizes", [((1,), (3,)), ((2, 1), (2, 4)), ((1, 1, 3), (5, 2, 3))])
def test_in_place_on_an_expanded_tensor(shape, sizes, raises_everywhere):
    message = f"mish_: x must have memory for each element (clone it first), got {list(sizes)} expanded"
    with pytest.raises(RuntimeError) as caught:
        fastops.mish_(torch.ones(shape).expand(sizes))
    assert str(caught.value) == message
    assert fastops.mish_(torch.ones(shape).expand(sizes).clone()).shape == sizes


@pytest.mark.parametrize("mapped", [(0, 0), (None, 0), (0, None), (1, 1)], ids=str)
@pytest.mark.parametrize("biases", [True, False])
def test_vmap_of_squeeze_and_excitation(mapped, biases, capfd):
    torch.manual_seed(0)
    x, w1, w2 = torch.randn(3, 2, 8, 5, 5), torch.randn(3, 2, 8), torch.randn(3, 8, 2)
    b1, b2 = (torch.randn(3, 2), torch.randn(3, 8)) if biases else (None, None)
    dims = (mapped[0], *[mapped[1]] * 4)

    def place(t: Tensor, dim: int | None) -> Tensor:
        return t[0] if dim is None else t.movedim(0, dim)

    inputs = [None if t is None else place(t, dim) for t, dim in zip((x, w1, b1, w2, b2), dims, strict=True)]
    dims = tuple(None if t is None else dim for t, dim in zip(inputs, dims, strict=True))
    got = torch.vmap(fastops.se_attention, dims)(*inputs)
    torch.testing.assert_close(got, torch.vmap(fastops.reference.se_attention, dims)(*inputs), rtol=1e-4, atol=1e-5)
    assert "file us an issue" not in capfd.readouterr().err


@pytest.mark.parametrize("optimizer", [fastops.optim.SGDGC, fastops.optim.AdamWGC])
def test_flat_parameters_are_one_clear_error(optimizer, tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        message = "params must keep their shapes to be centralized, got a flat parameter of FSDP1"
        for shard in (
            lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True),
            lambda model: FullyShardedDataParallel(model, device_id=torch.device("cpu")),
        ):
            model = shard(nn.Sequential(nn.Linear(4, 4)))
            steps = optimizer(model.parameters(), lr=0.1)
            model(torch.ones(2, 4)).sum().backward()
            with pytest.raises(RuntimeError, match=f"^{optimizer.__name__}: {message}"):
                steps.step()
            with pytest.raises(RuntimeError, match=f"^centralize_gradients_: {message}"):
                fastops.centralize_gradients_(model)
    finally:
        distributed.destroy_process_group()
