"""QuantizedConv2d against the convolution that it comes from."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastops.nn import PIXELS, Quantization, QuantizedConv2d, best_range, bias_correction

FUNCTIONS = {"none": lambda x: x, "relu": F.relu, "mish": F.mish, "sigmoid": torch.sigmoid}


def convolution(groups: int = 2) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 40, 3, stride=2, padding=1, groups=groups), nn.BatchNorm2d(40).eval()
    with torch.no_grad():
        for t in (norm.weight, norm.running_var):
            t.uniform_(0.5, 2)
        for t in (norm.bias, norm.running_mean):
            t.normal_()
    return conv.requires_grad_(False), norm.requires_grad_(False)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("pool", [None, (3, 2)])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_is_near_the_convolution(activation, pool):
    conv, norm = convolution()
    input = Quantization.of_range(-2, 3)
    x = input.dequantize(input.quantize(torch.randn(2, 8, 33, 41)))
    before = norm(conv(x))
    wanted = FUNCTIONS[activation](before)
    wanted = wanted if pool is None else F.max_pool2d(wanted, *pool)
    kind = torch.sigmoid if activation == "sigmoid" else activation
    module = QuantizedConv2d.from_float(conv, norm, kind, input=input, range=best_range(before, kind, pool), pool=pool)
    levels = module(x)
    assert levels.dtype == torch.uint8 and levels.is_contiguous(memory_format=torch.channels_last)
    assert relative(module.output.dequantize(levels), wanted) < 0.02
    assert torch.equal(levels, module(input.quantize(x)))
    assert relative(module.sums(x), before) < 0.01
    if pool is None:
        last = QuantizedConv2d.from_float(conv, norm, kind, input=input)
        assert last(x).dtype == torch.float32 and relative(last(x), wanted) < 0.01


def test_all_levels_of_mish_are_the_nearest():
    """A convolution by 1 from levels to the same levels: the table alone is left."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    levels = Quantization.of_range(-4, 6)
    module = QuantizedConv2d.from_float(conv, activation="mish", input=levels, range=(-4, 6))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    error = module.output.dequantize(module(every)) - F.mish(levels.dequantize(every))
    assert error.abs().max() <= 0.5001 * module.output.scale


def test_first_layer_takes_pixels():
    conv = nn.Conv2d(3, 16, 11, stride=2).requires_grad_(False)
    x = torch.randint(0, 256, (1, 3, 63, 63), dtype=torch.uint8)
    module = QuantizedConv2d.from_float(conv, input=PIXELS)
    assert relative(module(x), conv(x.float())) < 0.01


def test_correction_takes_the_mean_error_away():
    conv, norm = convolution()
    input = Quantization.of_range(-1, 1)  # cuts the values off: the error has a mean
    x = torch.randn(4, 8, 33, 41) + 0.5
    wanted = norm(conv(x))
    plain = QuantizedConv2d.from_float(conv, norm, input=input)
    correction = bias_correction(wanted, plain, x)
    corrected = QuantizedConv2d.from_float(conv, norm, input=input, correction=correction)
    mean = lambda module: (module(x) - wanted).mean((0, 2, 3)).abs().max()  # noqa: E731
    assert mean(plain) > 0.05 and mean(corrected) < 1e-3


def test_large_biases_and_dead_channels_stay_exact():
    conv = nn.Conv2d(4, 3, 1).requires_grad_(False)
    conv.weight[0] = 0
    conv.bias[:] = torch.tensor([1000.0, -1000.0, 0.5])
    x = torch.randn(1, 4, 5, 5)
    y = QuantizedConv2d.from_float(conv, input=Quantization.of_range(-3, 3))(x)
    assert torch.isfinite(y).all()
    assert (y[:, 0] - 1000).abs().max() < 1e-3 and (y - conv(x)).abs().max() < 0.2


def test_state_copies_and_changes_of_the_weights():
    conv, norm = convolution()
    input = Quantization.of_range(-2, 2)
    x = torch.randn(1, 8, 20, 20)
    module = QuantizedConv2d.from_float(conv, norm, "mish", input=input, range=(-3, 3))
    other = QuantizedConv2d.from_float(conv, norm, "mish", input=Quantization.of_range(0, 9), range=(-1, 1))
    expected = module(x)
    assert not torch.equal(other(x), expected)
    other.load_state_dict(module.state_dict())
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same(x), expected) and same.output == module.output
    module.weight.zero_()
    assert not torch.equal(module(x), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gelu"}, "activation must be none, relu, mish or a function, got 'gelu'"),
        ({"conv": nn.Conv2d(8, 8, 3, padding="same")}, "conv must have numbers as padding"),
        ({"conv": nn.Conv2d(8, 8, 3, dilation=2)}, "conv must have numbers as padding"),
        ({"range": None, "pool": (2, 2)}, "pool must go with a range"),
        ({"correction": torch.zeros(3)}, r"correction must have shape \[8\], got \[3\]"),
        ({"range": (0.0, 0.0)}, "low and high must be finite and apart"),
        ({"range": (0.0, float("inf"))}, "low and high must be finite and apart"),
    ],
)
def test_errors(change, message):
    arguments = {"conv": nn.Conv2d(8, 8, 3), "activation": "none", "input": PIXELS, "range": (-1, 1)} | change
    with pytest.raises(ValueError, match=message):
        QuantizedConv2d.from_float(arguments.pop("conv"), **arguments)
    conv = nn.Conv2d(1, 1, 1)
    nn.init.constant_(conv.weight, float("nan"))
    with pytest.raises(ValueError, match="conv must have finite weights and bias"):
        QuantizedConv2d.from_float(conv, input=PIXELS)
