"""SGDGC and AdamWGC against plain Python and torch.optim: trajectories, states, scaling, all an optimizer does."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import fastops
from fastops.optim import SGDGC, AdamWGC
from tests.support.op_table import channels_last, offset, transposed

# shape, layout, groups of a transposed convolution (0: none)
PARAMS = (
    ((5, 3, 3, 3), channels_last, 0),
    ((5,), lambda t: t, 0),
    ((6, 4, 2, 2), lambda t: t, 2),
    ((3, 70), offset, 0),
    ((4, 3, 5), transposed, 0),
    ((), lambda t: t, 0),
)
OPTIMIZERS = (SGDGC, AdamWGC)
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def parameters(dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape, *_ in PARAMS]
    return [nn.Parameter(layout(v.to(device, dtype))) for v, (_, layout, _) in zip(values, PARAMS, strict=True)]


def transposed_of(params: list[nn.Parameter]) -> dict[Tensor, int]:
    return {p: groups for p, (_, _, groups) in zip(params, PARAMS, strict=True) if groups}


def set_gradients(params: list[nn.Parameter], seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p).mul_(scale)


def centralized(grad: Tensor, groups: int) -> Tensor:
    """Row by row, from the definition."""
    result = grad.clone()
    parts = result.chunk(groups) if groups else [result.transpose(0, 1)]
    for part in parts:
        for channel in range(part.shape[1]):
            part[:, channel] -= part[:, channel].mean()
    return result


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], count: int = 10, first: int = 0) -> None:
    for seed in range(first, first + count):
        set_gradients(params, seed)
        optimizer.step()


def reference_steps(optimizer: torch.optim.Optimizer, params, options: dict, weight_decay: float, count: int = 10):
    """Weight decay and centralization in Python, the rest by torch.optim."""
    for seed in range(count):
        set_gradients(params, seed)
        for p, (shape, _, groups) in zip(params, PARAMS, strict=True):
            if options["maximize"]:
                p.grad.neg_()
            p.grad.add_(p.detach(), alpha=weight_decay)
            if options["centralize"] and len(shape) > (2 if options["conv_only"] else 1):
                p.grad = centralized(p.grad, groups)
        optimizer.step()


def assert_equal(actual, expected, dtype=torch.float32) -> None:
    tolerance = {torch.float64: 1e-13, torch.float32: 2e-6}[dtype]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


def combinations(**options) -> list[dict]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


WHICH = {"maximize": (False, True), "conv_only": (False, True), "centralize": (True, False)}
SGD_OPTIONS = [
    options
    for options in combinations(
        momentum=(0, 0.9), dampening=(0, 0.3), weight_decay=(0, 0.05), nesterov=(False, True), **WHICH
    )
    if not options["nesterov"] or (options["momentum"] and not options["dampening"])
]
ADAMW_OPTIONS = combinations(betas=((0.9, 0.999), (0.0, 0.5)), weight_decay=(0, 0.05), amsgrad=(False, True), **WHICH)


def ids(options: dict) -> str:
    return "-".join(name if value is True else f"{name}={value}" for name, value in options.items() if value)


# ---- trajectories --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", SGD_OPTIONS, ids=ids)
def test_sgd_trajectory(options, dtype, device):
    params, expected = parameters(dtype, device), parameters(dtype, device)
    optimizer = SGDGC(params, lr=0.1, transposed=transposed_of(params), **options)
    names = ("momentum", "dampening", "nesterov")
    plain = torch.optim.SGD(expected, lr=0.1, foreach=False, **{name: options[name] for name in names})
    steps(optimizer, params)
    reference_steps(plain, expected, options, options["weight_decay"])
    assert_equal(params, expected, dtype)
    for p, e in zip(params, expected, strict=True):
        assert optimizer.state[p].keys() == plain.state[e].keys()
        assert_equal(optimizer.state[p].values(), plain.state[e].values(), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", ADAMW_OPTIONS, ids=ids)
def test_adamw_trajectory(options, dtype, device):
    params, expected = parameters(dtype, device), parameters(dtype, device)
    optimizer = AdamWGC(params, lr=0.1, transposed=transposed_of(params), **options)
    names = ("betas", "weight_decay", "amsgrad")
    plain = torch.optim.AdamW(expected, lr=0.1, foreach=False, **{name: options[name] for name in names})
    steps(optimizer, params)
    reference_steps(plain, expected, options, weight_decay=0)  # it is decoupled
    assert_equal(params, expected, dtype)
    for p, e in zip(params, expected, strict=True):
        assert optimizer.state[p].keys() == plain.state[e].keys()
        assert_equal(optimizer.state[p].values(), plain.state[e].values(), dtype)


@each_optimizer
def test_defaults_are_those_of_torch(optimizer):
    theirs = {SGDGC: torch.optim.SGD, AdamWGC: torch.optim.AdamW}[optimizer](parameters()).defaults
    ours = optimizer(parameters()).defaults
    assert {name: ours[name] for name in ours.keys() & theirs.keys()}.items() <= theirs.items()
    assert ours.keys() - theirs.keys() == {"centralize", "conv_only", "transposed"}


def test_channel_means_stay_what_they_were(device):
    params = parameters(torch.float64, device)
    before = [p.detach().clone() for p in params]
    optimizer = SGDGC(params, lr=0.1, momentum=0.9, weight_decay=0.05, transposed=transposed_of(params))
    steps(optimizer, params)
    for p, b in zip(params, before, strict=True):
        if p.dim() > 1 and p not in optimizer.defaults["transposed"]:
            torch.testing.assert_close(p.detach().flatten(1).mean(1), b.flatten(1).mean(1))
    weight, was = params[2].detach().unflatten(0, (2, 3)), before[2].unflatten(0, (2, 3))
    torch.testing.assert_close(weight.mean((1, 3, 4)), was.mean((1, 3, 4)))


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_compute_in_float(optimizer, dtype, device):
    """One step equals the step of the same values in float32, rounded."""
    params = parameters(dtype, device)
    wide = [nn.Parameter(p.detach().float()) for p in params]
    options = {"lr": 0.1, "weight_decay": 0.05} | ({"momentum": 0.9} if optimizer is SGDGC else {})
    first, second = (optimizer(ps, transposed=transposed_of(ps), **options) for ps in (params, wide))
    for ps in (params, wide):
        set_gradients(params, 0)
        for p, half in zip(ps, params, strict=True):
            p.grad = half.grad.to(p.dtype)
    first.step()
    second.step()
    for p, w in zip(params, wide, strict=True):
        assert p.dtype == dtype
        torch.testing.assert_close(p.detach().float(), w.detach(), rtol=torch.finfo(dtype).eps, atol=1e-6)
        for name, value in first.state[p].items():
            assert value.dtype == (torch.float32 if name == "step" else dtype)


@each_optimizer
def test_parameters_of_several_dtypes_and_groups(optimizer, device):
    """Each as it would go alone."""
    layers = [nn.Linear(5, 3), nn.Linear(4, 2).double(), nn.Conv2d(2, 3, 3).bfloat16()]
    layers = [layer.to(device) for layer in layers]
    alone = copy.deepcopy(layers)
    groups = [
        {"params": [*layers[0].parameters(), *layers[1].parameters()]},
        {"params": [*layers[2].parameters()], "lr": 0.5, "weight_decay": 0.1, "centralize": False},
    ]
    together = optimizer(groups, lr=0.1)
    separate = [optimizer(layer.parameters(), lr=0.1) for layer in alone[:2]]
    separate.append(optimizer(alone[2].parameters(), lr=0.5, weight_decay=0.1, centralize=False))
    for seed in range(3):
        for layer, other, own in zip(layers, alone, separate, strict=True):
            set_gradients(list(layer.parameters()), seed)
            set_gradients(list(other.parameters()), seed)
            own.step()
        together.step()
    for layer, other in zip(layers, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


@each_optimizer
def test_a_parameter_without_gradient_waits(optimizer, device):
    """Its first step comes later than that of the others."""
    options = {"momentum": 0.9, "dampening": 0.3} if optimizer is SGDGC else {}
    params, expected = parameters(device=device), parameters(device=device)
    ours = optimizer(params, lr=0.1, **options)
    alone = [optimizer([p], lr=0.1, **options) for p in expected]
    for seed in range(4):
        set_gradients(params, seed)
        set_gradients(expected, seed)
        if seed < 2:
            params[0].grad = expected[0].grad = None
        ours.step()
        for own in alone:
            own.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


# ---- parameters, groups, transposed convolutions -------------------------------------------------------------


@each_optimizer
def test_a_module_names_its_transposed_convolutions(optimizer, device):
    def trained(**options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ConvTranspose1d(3, 2, 5))
        model.to(device)
        arguments = {name: value(model) for name, value in options.items()}
        ours = optimizer(arguments.pop("params"), lr=0.1, **arguments)
        steps(ours, list(model.parameters()), 3)
        return list(model.parameters())

    expected = trained(params=lambda m: m)
    spellings = (
        {"params": lambda m: m.parameters(), "transposed": lambda m: m},
        {"params": lambda m: m.named_parameters(), "transposed": lambda m: {m[1].weight: 2, m[2].weight: 1}},
        {"params": lambda m: [{"params": m[:2].parameters(), "transposed": m}, {"params": m[2].parameters()}]},
        {
            "params": lambda m: [{"params": m[:2].parameters()}, {"params": m[2].parameters()}],
            "transposed": lambda m: {m[1].weight: 2, m[2].weight: 1},
        },
    )
    for options in spellings:
        assert all(torch.equal(a, b) for a, b in zip(trained(**options), expected, strict=True))
    without = trained(params=lambda m: m.parameters())
    assert [torch.equal(a, b) for a, b in zip(without, expected, strict=True)] == [True, True, False, True, False, True]


@each_optimizer
def test_add_param_group(optimizer, device):
    params, expected = parameters(device=device), parameters(device=device)
    ours = optimizer(params[:2], lr=0.1)
    ours.add_param_group({"params": params[2:], "transposed": transposed_of(params), "lr": 0.2})
    groups = [{"params": expected[:2]}, {"params": expected[2:], "lr": 0.2}]
    steps(ours, params, 3)
    steps(optimizer(groups, lr=0.1, transposed=transposed_of(expected)), expected, 3)
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


# ---- states --------------------------------------------------------------------------------------------------


def saved(optimizer: torch.optim.Optimizer, device: str) -> dict:
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True, map_location=device)


@pytest.mark.parametrize(
    "ours, theirs, options",
    [
        (SGDGC, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
        (AdamWGC, torch.optim.AdamW, {"amsgrad": True, "weight_decay": 0.05}),
    ],
)
def test_states_go_to_torch_and_back(ours, theirs, options, device):
    """Torch's takes over after three steps, ours again after three more; all that without centralization."""
    params, expected = parameters(device=device), parameters(device=device)
    first = ours(params, lr=0.1, centralize=False, **options)
    steps(first, params, 3)
    second = theirs(params, lr=0.7)
    second.load_state_dict(saved(first, device))
    steps(second, params, 3, first=3)
    third = ours(params, lr=0.7, centralize=False)
    third.load_state_dict(saved(second, device))
    steps(third, params, 3, first=6)
    steps(theirs(expected, lr=0.1, **options), expected, 9)
    assert_equal(params, expected)
    group = third.param_groups[0]
    assert group["lr"] == 0.1 and group["centralize"] is False and "transposed" not in group


@each_optimizer
def test_torchs_state_leaves_the_groups_own_choices(optimizer):
    theirs = {SGDGC: torch.optim.SGD, AdamWGC: torch.optim.AdamW}[optimizer]
    params = parameters()
    ours = optimizer([{"params": params[:1]}, {"params": params[1:], "conv_only": False}], conv_only=True)
    ours.load_state_dict(theirs([{"params": params[:1]}, {"params": params[1:]}]).state_dict())
    assert [group["conv_only"] for group in ours.param_groups] == [True, False]
    assert [group["centralize"] for group in ours.param_groups] == [True, True]


def test_step_counts_of_torch_are_made_ours(device):
    """They may be on the CPU, and in float64 where that is the default dtype."""
    params = parameters(device=device)
    ours = AdamWGC(params)
    steps(ours, params, 1)
    state = copy.deepcopy(ours.state_dict())
    for values in state["state"].values():
        values["step"] = values["step"].double().cpu() + 4
    ours.load_state_dict(state)
    steps(ours, params, 1)
    for values in ours.state.values():
        assert values["step"].dtype == torch.float32 and values["step"].device == params[0].device
        assert values["step"] == 6


@each_optimizer
@pytest.mark.parametrize("missing", ["maximize", "nesterov", "amsgrad", "all that torch completes"])
def test_states_of_older_torch(optimizer, missing):
    """torch.optim's own __setstate__ takes what is missing for False."""
    theirs = {SGDGC: torch.optim.SGD, AdamWGC: torch.optim.AdamW}[optimizer]
    params = parameters()
    old = theirs(params, lr=0.1)
    steps(old, params, 1)
    state = copy.deepcopy(old.state_dict())
    names = ("maximize", "nesterov", "amsgrad", "foreach", "differentiable", "fused", "capturable")
    for group in state["param_groups"]:
        for name in names if " " in missing else (missing,):
            group.pop(name, None)
    for values in state["state"].values():
        if "step" in values:
            values["step"] = int(values["step"])  # before 1.12 it was a number
    ours, expected = optimizer(params, maximize=True, centralize=False), parameters()
    ours.load_state_dict(state)
    group = ours.param_groups[0]
    assert group["maximize"] is False and group["centralize"] is False and group["lr"] == 0.1
    reference = theirs(expected, lr=0.1)
    steps(reference, expected, 2)
    steps(ours, params, 1, first=1)
    assert_equal(params, expected)


@each_optimizer
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alike(optimizer, how, device):
    params = parameters(device=device)
    ours = optimizer(params, lr=0.1, transposed=transposed_of(params))
    steps(ours, params, 2)
    pair = (ours, params)
    other, others = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    steps(ours, params, 2, first=2)
    steps(other, others, 2, first=2)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    assert others[2] in other.defaults["transposed"]


# ---- learning rates, hooks, closures -------------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("lr_device", ["cpu", "same"])
def test_lr_as_a_tensor(optimizer, lr_device, device):
    params, expected = parameters(device=device), parameters(device=device)
    lr = torch.tensor(0.125, device=device if lr_device == "same" else "cpu")
    ours, plain = optimizer(params, lr=lr), optimizer(expected, lr=0.125)
    steps(ours, params, 2)
    lr.mul_(2)  # what a scheduler does
    steps(ours, params, 2, first=2)
    steps(plain, expected, 2)
    plain.param_groups[0]["lr"] = 0.25
    steps(plain, expected, 2, first=2)
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


@each_optimizer
@pytest.mark.parametrize("as_tensor", [False, True])
def test_schedulers(optimizer, as_tensor, device):
    params, expected = parameters(device=device), parameters(device=device)
    ours = optimizer(params, lr=torch.tensor(0.125, device=device) if as_tensor else 0.125)
    schedule = torch.optim.lr_scheduler.ExponentialLR(ours, 0.5)
    for seed in range(3):
        set_gradients(params, seed)
        ours.step()
        schedule.step()
    plain = optimizer(expected, lr=0.125)
    for seed, lr in enumerate((0.125, 0.0625, 0.03125)):
        set_gradients(expected, seed)
        plain.param_groups[0]["lr"] = lr
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))
    assert isinstance(ours.param_groups[0]["lr"], Tensor) is as_tensor


@each_optimizer
def test_one_cycle_moves_momentum_too(optimizer):
    ours = optimizer(parameters(), lr=0.1, **({"momentum": 0.9} if optimizer is SGDGC else {}))
    schedule = torch.optim.lr_scheduler.OneCycleLR(ours, max_lr=0.5, total_steps=4)
    steps(ours, [p for group in ours.param_groups for p in group["params"]], 1)
    schedule.step()
    group = ours.param_groups[0]
    assert (group["momentum"] if optimizer is SGDGC else group["betas"][0]) < 0.95


@each_optimizer
def test_hooks_and_closures(optimizer, device):
    (p,) = params = [nn.Parameter(torch.randn(3, 4, device=device))]
    ours = optimizer(params, lr=0.1)
    seen = []
    ours.register_step_pre_hook(lambda *_: seen.append("before"))
    ours.register_step_post_hook(lambda *_: seen.append("after"))

    def closure() -> Tensor:
        seen.append("closure")
        ours.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    first = ours.step(closure)
    assert first.requires_grad and ours.step(closure) < first
    assert seen == ["before", "closure", "after"] * 2
    assert ours.step() is None


# ---- GradScaler ----------------------------------------------------------------------------------------------


@each_optimizer
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(optimizer, unscale, device):
    """An overflow in the first step and one later; the others as if nothing were scaled."""
    options = {"momentum": 0.9, "dampening": 0.3} if optimizer is SGDGC else {}
    params, expected = parameters(device=device), parameters(device=device)
    ours, plain = optimizer(params, lr=0.1, **options), optimizer(expected, lr=0.1, **options)
    scaler = torch.amp.GradScaler(device, init_scale=1024.0)
    for seed in range(5):
        overflow = seed in (0, 3)
        scaler.scale(torch.zeros((), device=device))
        set_gradients(params, seed, scaler.get_scale())
        if overflow:
            params[3].grad[1, 2] = math.inf
        if unscale:
            scaler.unscale_(ours)
        before = [p.detach().clone() for p in params]
        states = copy.deepcopy(ours.state_dict()["state"])
        assert scaler.step(ours) is None
        scaler.update()
        if overflow:
            assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
            for old, new in zip(states.values(), ours.state_dict()["state"].values(), strict=False):
                assert all(torch.equal(old[name], new[name]) for name in old)
        else:
            set_gradients(expected, seed)
            plain.step()
    assert scaler.get_scale() == 256.0
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


@each_optimizer
def test_a_step_under_a_scaler_reads_nothing_back(optimizer, device, monkeypatch):
    params = parameters(device=device)
    ours = optimizer(params, lr=torch.tensor(0.1, device=device), **({"momentum": 0.9} if optimizer is SGDGC else {}))
    set_gradients(params, 0)
    ours.found_inf, ours.grad_scale = torch.zeros((), device=device), torch.ones((), device=device)

    def read(*_):
        raise AssertionError("the step waits for the device")

    for name in ("item", "__float__", "__bool__", "tolist", "cpu"):
        monkeypatch.setattr(Tensor, name, read)
    ours.step()


# ---- autograd, graphs, compile -------------------------------------------------------------------------------


@each_optimizer
def test_a_graph_from_before_the_step_notices(optimizer, device):
    p = nn.Parameter(torch.randn(3, 4, device=device))
    loss = p.square().sum()
    p.grad = torch.ones_like(p)
    optimizer([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_optimizer
def test_cuda_graph(optimizer):
    options = {"momentum": 0.9} if optimizer is SGDGC else {}
    params, expected = parameters(device="cuda"), parameters(device="cuda")
    lr = torch.tensor(0.1, device="cuda")
    ours = optimizer(params, lr=lr, **options)
    steps(ours, params, 1)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        ours.step()
    for _ in range(3):
        graph.replay()
    plain = optimizer(expected, lr=0.1, **options)
    set_gradients(expected, 0)
    for _ in range(4):
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


@each_optimizer
def test_compiled_step(optimizer, device):
    torch._dynamo.reset()
    options = {"momentum": 0.9} if optimizer is SGDGC else {}
    params, expected = parameters(device=device), parameters(device=device)
    ours, plain = optimizer(params, lr=0.1, **options), optimizer(expected, lr=0.1, **options)
    compiled = torch.compile(ours.step, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        set_gradients(params, seed)
        set_gradients(expected, seed)
        compiled()
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"lr": torch.zeros(2)}, r"lr must have one element, got \[2\]"),
        ({"momentum": -0.5}, "momentum must be at least 0, got -0.5"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
        ({"nesterov": True}, "nesterov must come with a momentum and without dampening"),
        (
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "nesterov must come with a momentum and without dampening",
        ),
    ],
)
def test_errors_of_sgd(options, message):
    with pytest.raises(ValueError, match=f"^SGDGC: {message}$"):
        SGDGC(parameters(), **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"betas": (1.0, 0.9)}, r"betas\[0\] must be at least 0 and below 1, got 1.0"),
        ({"betas": (0.9, -0.1)}, r"betas\[1\] must be at least 0 and below 1, got -0.1"),
        ({"eps": -1.0}, "eps must be at least 0, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
    ],
)
def test_errors_of_adamw(options, message):
    with pytest.raises(ValueError, match=f"^AdamWGC: {message}$"):
        AdamWGC(parameters(), **options)


@each_optimizer
def test_weights_that_are_alone_in_their_channel_move(optimizer):
    """Centralized, Linear(1, 1) would keep its weight for ever: here it learns y = 3 x + 1."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(1, 1)
    steps = optimizer(layer, lr=0.1, weight_decay=0)
    x = torch.linspace(-1, 1, 32)[:, None]
    for _ in range(300):
        steps.zero_grad()
        (layer(x) - 3 * x - 1).square().mean().backward()
        steps.step()
    assert layer.weight.item() == pytest.approx(3, abs=0.05) and layer.bias.item() == pytest.approx(1, abs=0.05)


@each_optimizer
def test_sparse_gradients_are_an_error(optimizer, device):
    embedding = nn.Embedding(5, 3, sparse=True).to(device)
    embedding(torch.tensor([1], device=device)).sum().backward()
    message = rf"^{optimizer.__name__}: gradients must be dense, got torch.sparse_coo of shape \[5, 3\]$"
    with pytest.raises(RuntimeError, match=message):
        optimizer(embedding.parameters()).step()


@each_optimizer
def test_complex_parameters_are_an_error(optimizer):
    p = nn.Parameter(torch.zeros(3, 2, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"params\[0\] must have dtype float32, .*, got complex64"):
        optimizer([p]).step()


def test_optim_is_public():
    assert fastops.optim.SGDGC is SGDGC and fastops.optim.AdamWGC is AdamWGC
