"""fastops.accelerate fuses two modules only if they provably run one after the other; hooks and wrappers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
import fastops._accelerate
from fastops import accelerate, acceleration_report, restore
from fastops._accelerate import squeeze
from tests.support import lookalikes as like
from tests.support.accelerated import MISH, NORM, POOL, SE, Net, assert_close, changes, reasons

pytestmark = pytest.mark.usefixtures("one_thread")


def both_results(net: Net, x: Tensor):
    y = net.bn(net.conv(x))
    return y, net.act(y)


def once_without_norm(net: Net, x: Tensor):
    return net.act(net.conv(x)) + net.act(net.bn(net.conv(x)))


def in_training_only(net: Net, x: Tensor):
    y = net.bn(net.conv(x))
    return y if net.training else net.act(y)


def twice(net: Net, x: Tensor):
    """Both calls of the batch norm go to the activation, and nothing else does."""
    return net.act(net.bn(net.conv(x))) - net.act(net.bn(net.conv(-x)))


USED = "the result of the BatchNorm2d is used elsewhere too"
ELSEWHERE = "the Mish runs elsewhere too"


@pytest.mark.parametrize(
    "run, reason",
    [
        (lambda net, x: net.act(net.bn(net.conv(x))), None),
        (twice, None),
        (both_results, USED),
        (lambda net, x: net.act(net.bn(net.conv(x))) + net.bn(net.conv(x)), USED),
        (in_training_only, USED),
        (once_without_norm, ELSEWHERE),
        (lambda net, x: net.act(net.act(net.bn(net.conv(x)))), ELSEWHERE),
    ],
)
def test_pairs_in_forward_code(run, reason):
    torch.manual_seed(0)
    model = Net(run)
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, 4, 4)
    accelerate(model, verbose=False)
    assert changes(model) == ({NORM: 1} if reason is None else {MISH: 1})
    assert reasons(model) == ({} if reason is None else {"bn": reason})
    for training in (True, False):
        actual, expected = model.train(training)(x), original.train(training)(x)
        for a, e in zip(*((r if isinstance(r, tuple) else (r,)) for r in (actual, expected)), strict=True):
            assert_close(a, e, 1e-5)


def overwritten(net: Net, x: Tensor):
    y = net.conv(x)
    z = net.pool(net.act(y))
    return z + F.max_pool2d(y, 2)


@pytest.mark.parametrize(
    "run, inplace, reason",
    [
        (lambda net, x: net.pool(net.act(net.conv(x))), False, None),
        (lambda net, x: net.pool(net.act(net.conv(x))), True, None),
        (overwritten, False, None),
        (overwritten, True, "the Mish overwrites what may be used elsewhere too"),
        (
            lambda net, x: net.pool(net.act(net.same(net.conv(x)))),
            True,
            "the Mish overwrites what may be used elsewhere too",
        ),
        (lambda net, x: net.pool(net.act(x)), True, "the Mish overwrites what may be used elsewhere too"),
        (lambda net, x: net.pool(net.act(net.conv(x))) + net.pool(x).mean(), False, "the MaxPool2d runs elsewhere too"),
    ],
)
def test_mish_before_a_pool(run, inplace, reason):
    torch.manual_seed(0)
    model = Net(run, inplace)
    original = copy.deepcopy(model)
    x = torch.randn(2, 3, 4, 4)
    accelerate(model, verbose=False)
    assert changes(model) == ({POOL: 1} if reason is None else {MISH: 1})
    assert reasons(model) == ({} if reason is None else {"act": reason})
    assert_close(model(x.clone()), original(x.clone()), 1e-5)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"ceil_mode": True}, {"return_indices": True}])
def test_other_pools_are_left_alone(options):
    model = nn.Sequential(nn.Mish(), nn.MaxPool2d(2, **options))
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 1}
    assert reasons(model) == {"0": "the pool must have dilation 1, ceil_mode False and return_indices False"}


@pytest.mark.parametrize("arguments", [(2,), (3, 2), (3, 2, 1), ((3, 2), (1, 2), (1, 0))])
def test_settings_of_the_pool(arguments):
    model = nn.Sequential(nn.Mish(), nn.MaxPool2d(*arguments))
    original, x = copy.deepcopy(model), torch.randn(2, 3, 9, 10)
    accelerate(model, verbose=False)
    assert changes(model) == {POOL: 1}
    assert_close(model(x), original(x), 1e-6)


def test_optional_arguments_are_tried_both_ways():
    class Optional(Net):
        def forward(self, x: Tensor, mask: Tensor | None = None):
            y = self.bn(self.conv(x))
            return self.act(y) if mask is None else self.act(y * mask)

    model = Optional(None)
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 1}
    assert reasons(model) == {"bn": USED}


def test_sequentials_taken_apart_are_noticed():
    class Slices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish())

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.layers[:2](x)
            return y, self.layers[2](y)

    model = accelerate(Slices(), verbose=False)
    assert changes(model) == {MISH: 1}
    assert reasons(model) == {"layers.1": USED}


class Untraceable(nn.Module):
    """Its code depends on the size of the input; it looks into its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish())
        self.bn, self.act = nn.BatchNorm2d(3), nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 2:
            x = self.act(self.bn(x))
        for layer in self.layers[:2]:
            x = layer(x)
        return x


def test_untraceable_code():
    model = accelerate(Untraceable(), verbose=False)
    assert [change.name for change in acceleration_report(model).changed] == ["layers.1", "act"]
    (reason,) = reasons(model).values()
    assert reason.startswith(
        "what its Mish takes is unknown: torch.fx cannot trace it (TraceError: symbolically traced variables"
    )


def test_example_inputs_catch_what_the_graph_cannot():
    torch.manual_seed(0)
    model, x = Untraceable().eval(), torch.randn(2, 3, 4, 4)
    expected = model(x)
    accelerate(model, example_inputs=x, verbose=False)
    assert changes(model) == {}
    assert reasons(model) == {"": "its results on example_inputs differ"}
    assert torch.equal(model(x), expected)


def test_example_inputs_on_which_the_fused_model_fails(monkeypatch):
    model = nn.Sequential(like.OriginalSE(4, 2))
    monkeypatch.setattr(squeeze.FusedSqueezeExcitation, "forward", lambda self, x: x[100])
    monkeypatch.setattr(squeeze, "_difference", lambda *_: None)
    accelerate(model, example_inputs=torch.randn(2, 4, 3, 3), verbose=False)
    assert changes(model) == {} and type(model[0]) is like.OriginalSE
    (reason,) = reasons(model).values()
    assert reason.startswith("it fails on example_inputs: IndexError: index 100 is out of bounds")


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.drop = nn.Mish(inplace=True), nn.Dropout()

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.drop(self.act(a)) + b, "noise": torch.rand(3)}


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_example_inputs(kind):
    a, b = torch.randn(3), torch.randn(3)
    inputs = {"b": b, "a": a} if kind is dict else kind((a, b))
    before, generator = a.clone(), torch.get_rng_state()
    model = accelerate(TwoInputs(), example_inputs=inputs, verbose=False)
    assert changes(model) == {MISH: 1}
    assert torch.equal(a, before) and model.training and model.drop.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_one_activation_in_many_places():
    act = nn.Mish()
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), act, nn.Conv2d(4, 4, 1), act, nn.ReLU(), act)
    original, x = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    accelerate(model, verbose=False)
    assert [type(model[i]) for i in (2, 4, 6)] == [nn.Identity, fastops.nn.Mish, fastops.nn.Mish]
    assert model[4] is model[6]
    assert_close(model(x), original(x), 1e-5)
    restore(model)
    assert model[2] is act and model[4] is act and model[6] is act


def test_one_pool_in_two_places():
    pool = nn.MaxPool2d(2)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Mish(), pool, nn.Conv2d(4, 4, 1), pool)
    original, x = copy.deepcopy(model), torch.randn(2, 3, 4, 4)
    accelerate(model, verbose=False)
    assert changes(model) == {POOL: 1} and model[4] is pool
    assert_close(model(x), original(x), 1e-5)


def test_one_block_in_two_places():
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Mish(), like.OriginalSE(4, 2))
    model = nn.ModuleDict({"a": block, "b": nn.Sequential(block, block)})
    accelerate(model, verbose=False)
    assert changes(model) == {NORM: 1, ("OriginalSE", SE): 1}
    assert model["a"] is block and model["b"][0] is block and model["b"][1] is block


def test_one_batch_norm_in_two_places_is_left_alone():
    norm = nn.BatchNorm2d(4)
    model = nn.ModuleList([nn.Sequential(norm, nn.Mish()), nn.Sequential(norm, nn.ReLU())])
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 1}
    assert reasons(model) == {"0.0": "the batch norm is in several slots"}


# ---- hooks, wrappers, other classes --------------------------------------------------------------------------


HOOKS = ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]


@pytest.mark.parametrize("register", HOOKS)
def test_modules_with_hooks_are_left_alone(register):
    act = nn.Mish()
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Mish(), like.OriginalSE(4, 2), nn.Conv2d(4, 4, 1), act, act)
    for module in (model[0], model[2].fc[1], model[4]):
        getattr(module, register)(lambda *_: None)
    accelerate(model, verbose=False)
    assert [change.name for change in acceleration_report(model).changed] == ["1"]
    assert reasons(model) == {"2": "ReLU has hooks", "0": "BatchNorm2d has hooks", "4": "Mish has hooks"}


def test_a_hook_between_the_two():
    """The container's hook sees the result of the batch norm."""
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Mish())
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 3, 4, 4)
    model(x)
    accelerate(model, verbose=False)
    model(x)
    assert changes(model) == {MISH: 1}
    assert torch.equal(seen[0], seen[1])


def test_a_hook_around_both():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish()), nn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    assert changes(accelerate(model, verbose=False)) == {NORM: 1}


def test_a_forward_replaced_on_the_instance():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Mish(), like.OriginalSE(4, 2))
    model[0].forward = lambda x: x
    model[2].forward = lambda x: 2 * x
    x = torch.randn(2, 4, 3, 3)
    expected = model(x)
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 1}
    replaced = "was replaced on the instance"
    assert reasons(model) == {
        "0": f"the forward of BatchNorm2d {replaced}",
        "2": f"the forward of OriginalSE {replaced}",
    }
    assert_close(model(x), expected, 1e-6)


def quantized() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Mish())
    model.qconfig = object()
    return model


PARALLEL = "accelerate the module before it is wrapped for parallel training"


@pytest.mark.parametrize(
    "wrap, reason",
    [
        (nn.DataParallel, PARALLEL),
        (torch.jit.script, "it is compiled TorchScript"),
        (lambda model: torch.jit.trace(model, torch.randn(2, 4, 3, 3)), "it is compiled TorchScript"),
        (torch.compile, "accelerate the module before torch.compile"),
        (lambda model: quantized(), "it is quantized, or prepared for it"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_wrapped_modules_are_left_alone(wrap, reason):
    wrapped = wrap(nn.Sequential(nn.BatchNorm2d(4), nn.Mish()))
    classes = [type(module) for module in wrapped.modules()]
    model = nn.Sequential(wrapped, nn.Mish())
    accelerate(model, verbose=False)
    assert [change.name for change in acceleration_report(model).changed] == ["1"]
    assert reasons(model) == {"0": reason}
    assert [type(module) for module in wrapped.modules()] == classes
    assert reasons(accelerate(wrapped, verbose=False)) == {"": reason}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_distributed_data_parallel_is_left_alone(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.BatchNorm2d(4), nn.Mish()))
        assert reasons(accelerate(wrapped, verbose=False)) == {"": PARALLEL}
        accelerate(wrapped.module, verbose=False)  # changed inside the wrapper, on the user's request
        wrapped(torch.randn(2, 4, 3, 3)).sum().backward()
        assert wrapped.module[0].weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Mish())
    model = torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear})
    accelerate(model, verbose=False)
    assert changes(model) == {("BatchNorm1d + Mish", "fastops.nn.BatchNormMish1d"): 1}
    assert reasons(model) == {"0": "it is quantized, or prepared for it"}
