"""What is special to bias_activation: the change of dtype, its errors, and FrozenConv2d by way of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastops
from fastops import reference
from fastops.nn import FrozenConv2d, frozen_conv
from tests.support.op_table import assert_accurate, channels_last

HALF_TYPES = (torch.float16, torch.bfloat16)


def images(dtype: torch.dtype, device: str, channels: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(2, channels, 7, 9, generator=generator)
    return channels_last(x.to(device, dtype)), torch.randn(channels, generator=generator).to(device)


@pytest.mark.kernels
@pytest.mark.parametrize("window", [(1, 1), (3, 2)], ids=["values", "windows"])
@pytest.mark.parametrize("activation", ["none", "relu", "mish"])
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_float32_results_of_half_types_are_not_rounded(dtype, channels, activation, window, device):
    x, bias = images(dtype, device, channels)
    for b in (bias, bias.to(dtype)):
        actual = fastops.bias_activation(x, b, activation, *window, dtype=torch.float32)
        assert actual.dtype == torch.float32 and actual.is_contiguous(memory_format=torch.channels_last)
        assert_accurate(actual, reference.bias_activation(x.double(), b.double(), activation, *window), True)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
def test_a_float32_bias_beside_a_half_type_is_not_rounded(dtype, device):
    x, bias = images(dtype, device)
    actual = fastops.bias_activation(x, bias, "mish")
    assert actual.dtype == dtype
    assert_accurate(actual, reference.bias_activation(x.double(), bias.double(), "mish"), True)


@pytest.mark.kernels
@pytest.mark.parametrize("window", [(1, 1), (3, 2)], ids=["values", "windows"])
@pytest.mark.parametrize("activation", ["none", "relu", "mish"])
def test_nan_passes(activation, window, device):
    x, bias = images(torch.float32, device)
    x[0, 3, 4, 4] = float("nan")
    actual = fastops.bias_activation(x, bias, activation, *window)
    expected = reference.bias_activation(x, bias, activation, *window)
    assert actual.isnan().any()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


x, bias = torch.zeros(2, 3, 5, 6), torch.zeros(3)
ERRORS = {
    "dims": ((x[0], bias), "x must be [N, C, H, W], got [3, 5, 6]"),
    "dtype_of_x": ((x.int(), bias), "x must have dtype float32, float64, float16 or bfloat16, got int32"),
    "window": ((x, bias, "none", [6, 3]), "x must hold a window of 6 x 3 with its padding, got [2, 3, 5, 6]"),
    "stride": ((x, bias, "none", 1, 0), "stride must be two numbers of at least 1, got [0, 0]"),
    "shape": ((x, bias[:2]), "bias must have shape [C] = [3], got [2]"),
    "dtype": ((x, bias.double()), "bias must have the dtype of x (float32), got float64"),
    "half": ((x.half(), bias.double()), "bias must have the dtype of x (float16) or float32, got float64"),
    "activation": ((x, bias, "tanh"), "activation must be none, relu or mish, got tanh"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, raises_everywhere):
    args, message = ERRORS[case]
    raises_everywhere(fastops.bias_activation, args, f"bias_activation: {message}")


def test_dtype_must_be_float32_or_that_of_x(device):
    with pytest.raises(RuntimeError, match="bias_activation: dtype must be float32, the dtype of x, got float16"):
        fastops.bias_activation(x.to(device), bias.to(device), dtype=torch.float16)
    with pytest.raises(RuntimeError, match="dtype must be float16, the dtype of x, or float32, got bfloat16"):
        fastops.bias_activation(x.half().to(device), bias.to(device), dtype=torch.bfloat16)


@pytest.mark.parametrize("max_pool", [None, (3, 2)])
@pytest.mark.parametrize("activation", ["none", "relu", "mish"])
@pytest.mark.parametrize("one_pass", [False, True])
def test_frozen_conv_equals_its_layers(one_pass, activation, max_pool, device, monkeypatch):
    monkeypatch.setattr(frozen_conv, "ONE_PASS", {device} if one_pass else set())
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, groups=2), nn.BatchNorm2d(16)
    nn.init.normal_(norm.running_mean)
    layers = {"none": [], "relu": [nn.ReLU()], "mish": [nn.Mish()]}[activation]
    pool = [nn.MaxPool2d(*max_pool)] if max_pool else []
    model = nn.Sequential(conv, norm, *layers, *pool).eval().to(device).double()
    frozen = FrozenConv2d(conv, norm, activation, max_pool=max_pool)
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64, device=device)
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), model(x))
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(model(leaf).square().sum(), leaf)
    torch.testing.assert_close(torch.autograd.grad(frozen(leaf).square().sum(), leaf), expected)


@pytest.mark.parametrize("one_pass", [False, True])
def test_output_dtype(one_pass, device, monkeypatch):
    monkeypatch.setattr(frozen_conv, "ONE_PASS", {device} if one_pass else set())
    conv = nn.Conv2d(8, 16, 3, padding=1)
    x = torch.randn(2, 8, 9, 11, dtype=torch.bfloat16, device=device)
    with torch.no_grad():
        y = FrozenConv2d(conv, device=device, dtype=torch.bfloat16, output_dtype=torch.float32)(x)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y, conv.to(device)(x.float()), rtol=0.02, atol=0.02)
        assert FrozenConv2d(conv, device=device, dtype=torch.bfloat16)(x).dtype == torch.bfloat16
