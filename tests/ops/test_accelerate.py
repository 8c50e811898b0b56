"""fastops.accelerate on whole networks: same function, same parameters, and everything can be undone."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest
import torch
from torch import Tensor, nn

import fastops
import fastops._accelerate
from fastops import accelerate, acceleration_report, restore
from tests.support import lookalikes as like
from tests.support.accelerated import MISH, NORM, POOL, SE, assert_close, changes
from tracker.network.model import SiamFC

pytestmark = pytest.mark.usefixtures("one_thread")


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
    with torch.no_grad():  # gates away from one half, statistics other than 0 and 1
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / max(parameter[:1].numel(), 1) ** 0.5)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model, [torch.randn(shape, dtype=dtype) for shape in shapes]


def assert_same_function(actual: nn.Module, expected: nn.Module, inputs: list[Tensor]) -> None:
    """Results in eval mode; results, gradients and statistics of two training steps."""
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


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = like.ResNet(like.TimmSE)
    accelerate(model, verbose=False)
    assert changes(model) == NETWORKS["se_timm"][2]
    assert all(p.is_meta for p in model.parameters())


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
