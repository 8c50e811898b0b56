"""fastops.accelerate: what it fuses computes the same, what it cannot prove it leaves alone, and all can be undone."""

from __future__ import annotations

import copy
import doctest
import pickle
from collections import Counter
from collections.abc import Callable

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
import fastops._accelerate
from fastops import accelerate, acceleration_report, restore
from fastops._accelerate import squeeze
from tracker.model import SiamFC

pytestmark = pytest.mark.usefixtures("one_thread")

NORM = ("BatchNorm2d + Mish", "fastops.nn.BatchNormMish2d")
POOL = ("Mish + MaxPool2d", "fastops.nn.MishMaxPool2d")
MISH = ("Mish", "fastops.nn.Mish")
SE = "FusedSqueezeExcitation"


def siamfc() -> nn.Module:
    return SiamFC("mish", "se", width=0.25, ops="reference")


# name -> (how to make it, shapes of its inputs, what is changed, the classes of what is left alone)
NETWORKS = {
    "resnet": (like.ResNet, [(2, 3, 33, 33)], {NORM: 3, MISH: 3, POOL: 1}, []),
    "se_torchvision": (
        lambda: like.ResNet(like.TorchvisionSE),
        [(2, 3, 33, 33)],
        {NORM: 3, MISH: 3, POOL: 1, ("TorchvisionSE", SE): 3},
        [],
    ),
    "se_timm": (
        lambda: like.ResNet(like.TimmSE),
        [(2, 3, 33, 33)],
        {NORM: 3, MISH: 3, POOL: 1, ("TimmSE", SE): 3},
        [],
    ),
    "se_original": (
        lambda: like.ResNet(like.OriginalSE),
        [(2, 3, 33, 33)],
        {NORM: 3, MISH: 3, POOL: 1, ("OriginalSE", SE): 3},
        [],
    ),
    "yolo": (like.Yolo, [(2, 3, 32, 32)], {NORM: 9}, []),
    "efficient": (like.MBConv, [(2, 8, 6, 7)], {}, ["TorchvisionSE"]),
    "norm_act": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), like.BatchNormAct2d(4, nn.Mish), nn.Conv2d(4, 4, 3)),
        [(2, 3, 9, 9)],
        {("BatchNormAct2d", NORM[1]): 1},
        [],
    ),
    "signals": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), like.Mish(), like.FunctionalSE(8, 2)),
        [(2, 3, 12)],
        {("BatchNorm1d + Mish", "fastops.nn.BatchNormMish1d"): 1, ("FunctionalSE", SE): 1},
        [],
    ),
    "features": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Mish(), nn.Linear(8, 4), nn.Mish()),
        [(8, 6)],
        {("BatchNorm1d + Mish", "fastops.nn.BatchNormMish1d"): 1, MISH: 1},
        [],
    ),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4, affine=False), nn.Mish(inplace=True)),
        [(2, 2, 5, 6, 7)],
        {("BatchNorm3d + Mish", "fastops.nn.BatchNormMish3d"): 1},
        [],
    ),
    "siamfc": (
        siamfc,
        [(1, 3, 127, 127), (2, 3, 159, 159)],
        {NORM: 2, POOL: 2, ("ReferenceSEAttention", SE): 1},
        [],
    ),
}

every_network = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, list[Tensor]]:
    make, shapes, *_ = NETWORKS[name]
    torch.manual_seed(0)
    model = make().to(dtype)
    with torch.no_grad():  # gates that are not all about one half, statistics that are not 0 and 1
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / max(parameter[:1].numel(), 1) ** 0.5)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model, [torch.randn(shape, dtype=dtype) for shape in shapes]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert (actual - expected).norm() <= tolerance * expected.norm().clamp_min(1e-30)


def assert_same_function(actual: nn.Module, expected: nn.Module, inputs: list[Tensor]) -> None:
    """Results in eval mode, and two steps of training: results, gradients and statistics."""
    actual, expected = copy.deepcopy(actual), copy.deepcopy(expected)
    with torch.no_grad():
        assert_close(actual.eval()(*inputs), expected.eval()(*inputs))
    actual.train()
    expected.train()
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9) for model in (actual, expected)]
    for _ in range(2):
        for model, optimizer in zip((actual, expected), optimizers, strict=True):
            optimizer.zero_grad()
            y = model(*inputs)
            (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            optimizer.step()
        for (name, a), e in zip(actual.named_parameters(), expected.parameters(), strict=True):
            # A bias before a batch norm has the gradient 0, to rounding.
            assert (a.grad - e.grad).norm() <= 1e-9 * (e.grad.norm() + 1e-3), name
    for (name, a), e in zip(actual.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.allclose(a, e, rtol=1e-9, atol=1e-12), name


def changes(model: nn.Module) -> Counter:
    return Counter((change.was, change.now) for change in acceleration_report(model).changed)


def reasons(model: nn.Module) -> dict[str, str]:
    return {left.name: left.reason for left in acceleration_report(model).left_alone}


# ---- whole networks ------------------------------------------------------------------------------------------


@every_network
def test_networks_compute_the_same(name):
    model, inputs = network(name)
    original = copy.deepcopy(model)
    assert accelerate(model, verbose=False) is model
    assert changes(model) == NETWORKS[name][2]
    assert [left.kind for left in acceleration_report(model).left_alone] == NETWORKS[name][3]
    assert_same_function(model, original, inputs)


@every_network
def test_parameters_and_modes_stay(name):
    model, _ = network(name)
    model.eval()
    first = next(model.parameters()).requires_grad_(False)
    modes = {key: m.training for key, m in model.named_modules(remove_duplicate=False)}
    tensors = dict(model.state_dict(keep_vars=True))
    accelerate(model, verbose=False)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    assert all(after[key] is tensor for key, tensor in tensors.items())
    assert {key: m.training for key, m in model.named_modules(remove_duplicate=False)} == modes
    assert not first.requires_grad


@every_network
def test_old_checkpoints_load(name):
    model, inputs = network(name)
    checkpoint = copy.deepcopy(model.state_dict())
    expected = model.eval()(*inputs)
    accelerate(model, verbose=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for assign in (False, True):
        model.load_state_dict(checkpoint, assign=assign)
        assert_close(model(*inputs), expected)


@every_network
def test_restore(name):
    model, inputs = network(name)
    original = copy.deepcopy(model)
    modules = list(model.named_modules(remove_duplicate=False))
    classes = [type(module) for _, module in modules]
    attributes = [set(vars(module)) for _, module in modules]
    accelerate(model, verbose=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    weights = {key: t.clone() for key, t in model.state_dict().items()}
    model.eval()
    assert restore(model) is model
    assert all(a is b for (_, a), (_, b) in zip(model.named_modules(remove_duplicate=False), modules, strict=True))
    assert [type(module) for _, module in modules] == classes
    assert [set(vars(module)) for _, module in modules] == attributes
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(t, weights[key]) for key, t in model.state_dict().items())
    original.load_state_dict(weights)
    assert torch.equal(model(*inputs), original.eval()(*inputs))
    assert acceleration_report(model) == fastops._accelerate.AccelerationReport((), ())


@every_network
def test_a_second_time_changes_nothing(name):
    model, _ = network(name)
    accelerate(model, verbose=False)
    modules, report = list(model.modules()), acceleration_report(model)
    accelerate(model, verbose=False)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert acceleration_report(model) == report
    restore(model)
    assert changes(model) == {}


@every_network
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(name, duplicate):
    model, inputs = network(name)
    original = copy.deepcopy(model)
    copied = duplicate(accelerate(model, verbose=False))
    assert acceleration_report(copied) == acceleration_report(model)
    assert_same_function(copied, original, inputs)
    restore(copied)
    assert changes(copied) == {} and changes(model) == NETWORKS[name][2]
    assert [type(module) for module in copied.modules()] == [type(module) for module in original.modules()]
    assert_same_function(copied, original, inputs)


@pytest.mark.parametrize("name", ["se_timm", "yolo", "norm_act", "signals", "siamfc"])
def test_compile(name):
    torch._dynamo.reset()
    model, inputs = network(name, torch.float32)
    with torch.no_grad():
        expected = model.eval()(*inputs)
        compiled = torch.compile(accelerate(model, verbose=False), fullgraph=True, backend="aot_eager")
        assert_close(compiled(*inputs), expected, 1e-5)


def test_a_compiled_model_notices_that_its_module_changed():
    torch._dynamo.reset()
    model, inputs = network("se_timm", torch.float32)
    graphs: list[str] = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph

    compiled = torch.compile(model.eval(), backend=backend)
    with torch.no_grad():
        expected = compiled(*inputs)
        accelerate(model, verbose=False)
        assert_close(compiled(*inputs), expected, 1e-5)
        assert "fastops" not in graphs[0] and "fastops" in "".join(graphs[1:])
        restore(model)
        assert torch.equal(compiled(*inputs), expected)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float16, 1e-2)])
def test_other_dtypes(dtype, tolerance):
    model, inputs = network("se_torchvision")
    expected = model.eval()(*inputs)
    model.to(dtype)
    accelerate(model, verbose=False)
    assert changes(model) == NETWORKS["se_torchvision"][2]
    y = model(*(t.to(dtype) for t in inputs))
    assert y.dtype == dtype
    assert_close(y.double(), expected, tolerance)


def test_autocast():
    model, inputs = network("se_torchvision", torch.float32)
    original = copy.deepcopy(model)
    accelerate(model, verbose=False)
    results = []
    for m in (model, original):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m(*inputs)
        y.float().square().sum().backward()
        results.append((y, m.conv1.weight.grad))
    assert results[0][0].dtype == results[1][0].dtype
    assert_close(results[0][0].float(), results[1][0].float(), 5e-2)
    assert_close(results[0][1], results[1][1], 0.2)


def test_moves_to_another_dtype_and_back():
    model, inputs = network("se_original")
    expected = model.eval()(*inputs)
    accelerate(model, verbose=False).float()
    assert_close(model(*(t.float() for t in inputs)).double(), expected, 1e-5)
    restore(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_close(model(*(t.float() for t in inputs)).double(), expected, 1e-5)


def test_channels_last():
    model, inputs = network("se_torchvision")
    expected = model.eval()(*inputs)
    accelerate(model.to(memory_format=torch.channels_last), verbose=False)
    assert_close(model(*(t.to(memory_format=torch.channels_last) for t in inputs)), expected)


# ---- what it must not disturb --------------------------------------------------------------------------------


class Counting(nn.Module):
    """Changes attributes, buffers and parameters, and draws random numbers, whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish(), like.OriginalSE(4, 2))
        self.factor = nn.Parameter(torch.ones(1))
        self.register_buffer("steps", torch.zeros(1))
        self.calls, self.seen = 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.steps += 1
        with torch.no_grad():
            next(iter(self.parameters())).mul_(2)
        return self.layers(x) * self.factor * torch.rand(1)


def test_looking_at_a_model_does_not_run_it():
    model = Counting()
    seen: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    state = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    accelerate(model, verbose=False)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (model.calls, model.seen, seen) == (0, [], [])
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


def test_shared_activations_of_other_models_stay():
    first, second = like.Conv(3, 4), like.Conv(3, 4)
    accelerate(first, verbose=False)
    assert second.act is like.Conv.default_act and type(second.act) is nn.Mish


def test_optimizers_and_references_go_on():
    model, inputs = network("se_torchvision")
    norm, attention = model.layer1[0].bn1, model.layer1[0].se
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerate(model, verbose=False)
    assert model.layer1[0].bn1 is norm and isinstance(norm, nn.BatchNorm2d) and model.layer1[0].se is attention
    before = [norm.weight.clone(), attention.fc1.weight.clone()]
    model(*inputs).sum().backward()
    optimizer.step()
    assert not torch.equal(norm.weight, before[0]) and not torch.equal(attention.fc1.weight, before[1])


def test_settings_of_a_batch_norm_outlive_both_ways():
    model, _ = network("resnet")
    accelerate(model, verbose=False)
    model.layer1[0].bn1.momentum = 0.5
    restore(model)
    assert model.layer1[0].bn1.momentum == 0.5


# ---- squeeze-and-excitation ----------------------------------------------------------------------------------


class Doubled(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Detached(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.fc(self.avg_pool(x).view(n, c)).view(n, c, 1, 1).detach()


class DoubledInEval(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else 2 * super().forward(x)


class Unused(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return x


def hard_sigmoid_se() -> nn.Module:
    return like.TorchvisionSE(8, 4, scale_activation=nn.Hardsigmoid)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: like.TorchvisionSE(8, 4, nn.SiLU), "it has SiLU, and the fused block only ReLU and Sigmoid"),
        (lambda: like.TorchvisionSE(8, 4, nn.ReLU6), "it has ReLU6, and the fused block only ReLU and Sigmoid"),
        (hard_sigmoid_se, "it has Hardsigmoid, and the fused block only ReLU and Sigmoid"),
        (lambda: like.EfficientSE(8, 4, nn.SiLU), "it has SiLU, and the fused block only ReLU and Sigmoid"),
        (lambda: like.TimmSE(8, 4, gate=nn.Tanh), "it has Tanh, and the fused block only ReLU and Sigmoid"),
        (
            lambda: like.TimmSE(8, 4, add_maxpool=True),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode",
        ),
        (
            lambda: like.TimmSE(8, 4, norm=nn.BatchNorm2d),
            "it holds more than two layers (bn.weight, bn.bias, bn.running_mean, bn.running_var, "
            "bn.num_batches_tracked)",
        ),
        (lambda: Doubled(8, 4), "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode"),
        (
            lambda: DoubledInEval(8, 4),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in eval mode",
        ),
        (
            lambda: Detached(8, 4),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the gradient of the input differs in training mode",
        ),
    ],
)
def test_other_gates_are_left_alone(make, reason):
    model = nn.Sequential(make())
    cls = type(model[0])
    accelerate(model, verbose=False)
    assert type(model[0]) is cls
    assert reasons(model) == {"0": reason}


def two_layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 4, 1), *between, nn.Conv2d(4, 8, 1))


@pytest.mark.parametrize(
    "model",
    [
        two_layers(nn.ReLU()),
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), two_layers(nn.ReLU()), nn.Sigmoid()),  # the gate alone
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.Conv2d(8, 8, 1),
        nn.Bilinear(1, 8, 8),
        Unused(8, 4),
        two_layers(nn.BatchNorm2d(4), nn.ReLU()),
    ],
)
def test_other_modules_with_two_layers_are_not_mentioned(model):
    accelerate(model, verbose=False)
    assert acceleration_report(model) == fastops._accelerate.AccelerationReport((), ())


def test_layers_that_start_at_zero_do_not_hide_the_rest():
    model = nn.Sequential(like.TorchvisionSE(8, 4, nn.SiLU), like.TorchvisionSE(8, 4)).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    accelerate(model, verbose=False)
    assert [change.name for change in acceleration_report(model).changed] == ["1"]


@pytest.mark.parametrize("make", [like.TorchvisionSE, like.EfficientSE])
def test_an_image_without_a_batch(make):
    torch.manual_seed(0)
    block = make(8, 4)
    x = torch.randn(8, 8, 8)  # [C, H, W], where N = C would do as well
    if make is like.EfficientSE:  # which means another thing by three dimensions
        with pytest.raises(IndexError):
            accelerate(block, verbose=False)(x)
        return
    expected = block(x)
    assert torch.equal(accelerate(block, verbose=False)(x), expected)


def test_further_arguments():
    torch.manual_seed(0)
    block, x = like.FunctionalSE(8, 4), torch.randn(2, 8, 5)
    expected, half = block(x), block(x, strength=0.5)
    accelerate(block, verbose=False)
    assert_close(block(x), expected, 1e-6)
    assert_close(block(x, strength=0.5), half, 1e-6)
    assert_close(block(x, 0.5), half, 1e-6)


def test_our_own_block_is_fused_already():
    model = nn.Sequential(fastops.nn.SEAttention(8, 4))
    accelerate(model, verbose=False)
    assert acceleration_report(model) == fastops._accelerate.AccelerationReport((), ())


# ---- pairs: proven, or left alone ----------------------------------------------------------------------------


class Net(nn.Module):
    """conv, bn, act and pool, run by a function."""

    def __init__(self, run: Callable[[Net, Tensor], object], inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish(inplace)
        self.pool, self.same = nn.MaxPool2d(2), nn.Identity()
        self.run = run

    def forward(self, x: Tensor):
        return self.run(self, x)


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
    assert reasons(model) == {"0.0": "the batch norm sits in several places"}


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
        accelerate(wrapped.module, verbose=False)  # changed under the wrapper, at the user's word
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


def test_other_batch_norms_are_left_alone():
    class OwnNorm(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = nn.Sequential(OwnNorm(4), nn.Mish(), nn.SyncBatchNorm(4), nn.Mish(), nn.LazyBatchNorm2d(), nn.Mish())
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 3}
    assert set(reasons(model).values()) == {"only BatchNorm1d, BatchNorm2d, BatchNorm3d can be fused"}
    assert list(reasons(model)) == ["0", "2", "4"]


def test_batch_norms_of_other_classes_do_not_stop_the_trace():
    model = Net(lambda net, x: net.act(net.bn(net.conv(net.other(x)))))
    model.other = like.BatchNormAct2d(3, nn.ReLU)
    accelerate(model, verbose=False)
    assert changes(model) == {NORM: 1} and type(model.other) is like.BatchNormAct2d


def test_a_norm_with_dropout_is_left_alone():
    model = nn.Sequential(like.BatchNormAct2d(4, nn.Mish, nn.Dropout))
    accelerate(model, verbose=False)
    assert reasons(model) == {"0": "fused, the result differs in training mode"}
    assert changes(model) == {MISH: 1}  # the activation in it


def test_a_norm_with_a_hook_on_its_activation_is_left_alone():
    model = nn.Sequential(like.BatchNormAct2d(4, nn.Mish))
    model[0].act.register_forward_hook(lambda *_: None)
    accelerate(model, verbose=False)
    assert changes(model) == {}
    assert reasons(model) == {"0": "Mish has hooks", "0.act": "Mish has hooks"}


def test_modules_called_mish():
    model = nn.Sequential(like.Mish(), like.HardMish(), fastops.nn.Mish(), nn.Mish(inplace=True), like.Mish())
    model[4].inplace = True  # says so and does not
    accelerate(model, verbose=False)
    assert [type(module) for module in model] == [fastops.nn.Mish, like.HardMish, *[fastops.nn.Mish] * 3]
    assert [getattr(module, "inplace", None) for module in model] == [False, None, False, True, False]
    assert reasons(model) == {"1": "fused, the result differs in training mode"}


def test_a_lone_activation():
    act = nn.Mish()
    assert accelerate(act, verbose=False) is act
    assert reasons(act) == {"": "it is the model itself, and only what a model holds is replaced"}
    assert reasons(accelerate(fastops.nn.Mish(), verbose=False)) == {}


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = like.ResNet(like.TimmSE)
    accelerate(model, verbose=False)
    assert changes(model) == NETWORKS["se_timm"][2]
    assert all(p.is_meta for p in model.parameters())


def test_kernels_that_are_wrong_are_not_used(monkeypatch):
    """The comparison before the swap would notice an error of 1 %."""
    se_attention, mish = squeeze.se_attention, fastops.nn.activation.mish
    monkeypatch.setattr(squeeze, "se_attention", lambda *args: 1.01 * se_attention(*args))
    monkeypatch.setattr(fastops.nn.activation, "mish", lambda x: 1.01 * mish(x))
    model = nn.Sequential(like.OriginalSE(4, 2), nn.Mish())
    accelerate(model, verbose=False)
    assert changes(model) == {}
    assert reasons(model) == {
        "0": "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode",
        "1": "fused, the result differs in training mode",
    }


# ---- the report ----------------------------------------------------------------------------------------------


def test_table(capsys):
    model = nn.Sequential(*(nn.Mish() for _ in range(5)), like.HardMish())
    accelerate(model)
    assert capsys.readouterr().out == (
        "accelerate: 5 changed, 1 left alone\n"
        "changed 5     Mish      -> fastops.nn.Mish                          0, 1 and 3 more\n"
        "left alone 1  HardMish  fused, the result differs in training mode  5\n"
    )
    accelerate(nn.ReLU())
    assert capsys.readouterr().out == "accelerate: 0 changed, 0 left alone\n"
    accelerate(model, verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("function", [accelerate, restore])
def test_errors(function):
    with pytest.raises(TypeError, match=f"^{function.__name__}: model must be a torch.nn.Module, got dict$"):
        function({})


def test_examples_in_docstrings():
    result = doctest.testmod(fastops._accelerate)
    assert result.attempted > 0 and result.failed == 0
