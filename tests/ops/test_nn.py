"""Modules: the same as the functions, and good citizens of torch.nn. The examples in all public docstrings."""

from __future__ import annotations

import copy
import doctest
import importlib
import io
import pickle
import pkgutil

import pytest
import torch
from torch import nn

import fastops
import fastops.nn
import fastops.ops
import fastops.reference

# name -> (how to make it, shapes of its inputs)
MODULES = {
    "Mish": (lambda: fastops.nn.Mish(), [(2, 3, 4, 4)]),
    "Mish_inplace": (lambda: fastops.nn.Mish(inplace=True), [(2, 3, 4, 4)]),
    "AffineMish": (lambda: fastops.nn.AffineMish(6), [(2, 6, 4, 4)]),
    "BatchNormMish1d": (lambda: fastops.nn.BatchNormMish1d(6), [(5, 6)]),
    "BatchNormMish2d": (lambda: fastops.nn.BatchNormMish2d(6), [(2, 6, 4, 4)]),
    "MishMaxPool2d": (lambda: fastops.nn.MishMaxPool2d(3, 2, 1), [(2, 6, 4, 4)]),
    "SEScale": (lambda: fastops.nn.SEScale(), [(2, 6, 4, 4), (2, 6)]),
    "SEAttention": (lambda: fastops.nn.SEAttention(6, reduction=1), [(2, 6, 4, 4)]),
    "SEAttention_no_bias": (lambda: fastops.nn.SEAttention(6, reduction=1, bias=False), [(2, 6, 4, 4)]),
    "ASigmoid": (lambda: fastops.nn.ASigmoid(), [(2, 6, 4, 4)]),
    "ATanh_channels": (lambda: fastops.nn.ATanh(6), [(2, 6, 4, 4)]),
    "AReLU_channels": (lambda: fastops.nn.AReLU(6, b=0.25), [(2, 6, 4, 4)]),
    "BalancedLogisticLoss": (lambda: fastops.nn.BalancedLogisticLoss(), [(2, 6, 4, 4)]),
    "CrossCorrelation": (lambda: fastops.nn.CrossCorrelation(0.1), [(1, 6, 2, 2), (3, 6, 4, 4)]),
    "CrossCorrelation_bias": (lambda: fastops.nn.CrossCorrelation(0.1, bias=True), [(1, 6, 2, 2), (3, 6, 4, 4)]),
}

every_module = pytest.mark.parametrize("make, shapes", MODULES.values(), ids=MODULES)


def inputs_of(shapes: list[tuple[int, ...]], device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device=device) for shape in shapes]


# ---- the same as the functions -------------------------------------------------------------------------------


def test_mish(device):
    x = torch.randn(2, 3, device=device)
    assert torch.equal(fastops.nn.Mish()(x), fastops.mish(x))
    expected = fastops.mish(x)
    assert fastops.nn.Mish(inplace=True)(x) is x
    assert torch.equal(x, expected)


def test_se_scale(device):
    x, logits = inputs_of([(2, 3, 4), (2, 3)], device)
    assert torch.equal(fastops.nn.SEScale()(x, logits), fastops.se_scale(x, logits))


@pytest.mark.parametrize("bias", [True, False])
def test_se_attention(bias, device):
    (x,) = inputs_of([(2, 32, 4, 4)], device)
    module = fastops.nn.SEAttention(32, bias=bias, device=device)
    assert torch.equal(module(x), fastops.se_attention(x, module.w1, module.b1, module.w2, module.b2))


@pytest.mark.parametrize("bias", [True, False])
def test_cross_correlation(bias, device):
    z, x = inputs_of([(1, 3, 2, 2), (3, 3, 4, 5)], device)
    module = fastops.nn.CrossCorrelation(0.25, bias=bias, device=device)
    if bias:
        nn.init.constant_(module.bias, 1.5)
    assert torch.equal(module(z, x), fastops.xcorr(z, x, 0.25, module.bias))


def test_balanced_logistic_loss(device):
    (x,) = inputs_of([(2, 1, 9, 9)], device)
    centers = torch.tensor([[4.0, 5.0], [3.5, 2.0]], device=device)
    module = fastops.nn.BalancedLogisticLoss(radius=5.0, stride=2.0, reduction="none")
    assert torch.equal(module(x), fastops.balanced_logistic_loss(x, 5.0, 2.0, "none"))
    assert torch.equal(module(x, centers), fastops.balanced_logistic_loss(x, 5.0, 2.0, "none", centers))
    assert repr(module) == "BalancedLogisticLoss(radius=5.0, stride=2.0, reduction='none')"


# ---- parameters ----------------------------------------------------------------------------------------------


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def test_state_dicts():
    assert shapes_of(fastops.nn.Mish()) == shapes_of(fastops.nn.SEScale()) == {}
    attention = fastops.nn.SEAttention(48, reduction=16)
    assert shapes_of(attention) == {"w1": (3, 48), "w2": (48, 3), "b1": (3,), "b2": (48,)}
    assert shapes_of(fastops.nn.SEAttention(48, bias=False)) == {"w1": (3, 48), "w2": (48, 3)}
    assert shapes_of(fastops.nn.SEAttention(4, reduction=16))["w1"] == (1, 4)  # at least one hidden unit
    assert shapes_of(fastops.nn.CrossCorrelation()) == {}
    assert shapes_of(fastops.nn.CrossCorrelation(bias=True)) == {"bias": (1,)}


def test_parameters_start_as_those_of_linear():
    torch.manual_seed(0)
    module = fastops.nn.SEAttention(1024, reduction=16)
    for parameters, fan_in in (((module.w1, module.b1), 1024), ((module.w2, module.b2), 64)):
        for parameter in parameters:
            bound = fan_in**-0.5
            assert 0.9 * bound < parameter.abs().max() <= bound
    before = module.w1.clone()
    module.reset_parameters()
    assert not torch.equal(module.w1, before)
    assert fastops.nn.CrossCorrelation(bias=True).bias.item() == 0


def test_device_and_dtype_of_parameters():
    for module in (
        fastops.nn.SEAttention(8, device="meta", dtype=torch.float64),
        fastops.nn.CrossCorrelation(bias=True, device="meta", dtype=torch.float64),
    ):
        for parameter in module.parameters():
            assert parameter.is_meta and parameter.dtype == torch.float64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0,), "SEAttention: channels must be at least 1, got 0"),
        ((-3,), "SEAttention: channels must be at least 1, got -3"),
        ((8, 0), "SEAttention: reduction must be at least 1, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        fastops.nn.SEAttention(*arguments)


def test_repr():
    assert repr(fastops.nn.Mish()) == "Mish()"
    assert repr(fastops.nn.Mish(inplace=True)) == "Mish(inplace=True)"
    assert repr(fastops.nn.SEScale()) == "SEScale()"
    assert repr(fastops.nn.SEAttention(32, 8, bias=False)) == "SEAttention(32, reduction=8, bias=False)"
    assert repr(fastops.nn.CrossCorrelation(0.001)) == "CrossCorrelation(scale=0.001, bias=False)"


# ---- citizens of torch.nn ------------------------------------------------------------------------------------


@every_module
def test_copies_and_pickles(make, shapes):
    module = make()
    inputs = inputs_of(shapes)
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    loaded = make()
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    expected = module(*(t.clone() for t in inputs))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(other(*(t.clone() for t in inputs)), expected)


@every_module
def test_two_steps_of_training(make, shapes):
    """A convolution in front has a gradient whatever the module; the loss falls."""
    torch.manual_seed(0)
    module = make()
    first = [nn.Conv2d(shape[1], shape[1], 1) if len(shape) == 4 else nn.Linear(shape[1], shape[1]) for shape in shapes]
    network = nn.ModuleList([*first, module])
    inputs = inputs_of(shapes)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = (module(*(layer(t) for layer, t in zip(first, inputs, strict=True))) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.any(), name
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]


@every_module
def test_modules_compile(make, shapes):
    torch._dynamo.reset()
    module = make().eval()
    inputs = inputs_of(shapes)
    expected = module(*(t.clone() for t in inputs))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(*(t.clone() for t in inputs)), expected)


# ---- documentation -------------------------------------------------------------------------------------------

PUBLIC = ["fastops._ext", "fastops._backends"] + [
    f"{package.__name__}.{module.name}"
    for package in (fastops.ops, fastops.nn, fastops.reference)
    for module in pkgutil.iter_modules(package.__path__)
    if not module.name.startswith("_")
]


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_in_docstrings(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.attempted > 0, "no example"
    assert result.failed == 0


@pytest.mark.parametrize("name", [name for name in fastops.__all__ if callable(getattr(fastops, name))])
def test_public_functions_have_an_example(name):
    assert ">>> " in getattr(fastops, name).__doc__
