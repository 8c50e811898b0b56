"""Results of 16-bit types, for every value there is: within half a unit of the last place, and a hundredth for the
arithmetic before it is rounded, of float64's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastops
from fastops import reference

HALF_TYPES = (torch.float16, torch.bfloat16)
DIGITS = {torch.float16: (10, -14), torch.bfloat16: (7, -126)}  # of the mantissa; least exponent of a normal number


def every_value(dtype: torch.dtype) -> Tensor:
    """All from -80 to the largest: below that the float32 in between would leave the normal numbers."""
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    return x[x.isfinite() & (x >= -80)]


def units(actual: Tensor, exact: Tensor) -> Tensor:
    """The distance in units of the last place of ``exact`` in the dtype of ``actual``."""
    mantissa, least = DIGITS[actual.dtype]
    exponent = torch.frexp(exact.abs())[1] - 1
    return (actual.double() - exact).abs() / torch.exp2((exponent.clamp(min=least) - mantissa).double())


def channels(x: Tensor) -> Tensor:
    """As [1, 8, n, 1], channels_last."""
    padded = torch.cat((x, x.new_ones(-len(x) % 8)))
    return padded.view(1, -1, 1, 8).permute(0, 3, 1, 2)


def identity(x: Tensor, kind) -> tuple[Tensor, ...]:
    return tuple(torch.full((1,), value, dtype=x.dtype) for value in kind)


FORWARD = {
    "mish": (fastops.mish, reference.mish),
    "affine_mish": tuple(
        lambda x, f=f: f(channels(x), x.new_ones(8), x.new_zeros(8))
        for f in (fastops.affine_mish, reference.affine_mish)
    ),
    "mish_max_pool2d": tuple(
        lambda x, f=f: f(channels(x), 1, 1) for f in (fastops.mish_max_pool2d, reference.mish_max_pool2d)
    ),
    "bias_activation": tuple(
        lambda x, f=f: f(channels(x), x.new_zeros(8), "mish")
        for f in (fastops.bias_activation, reference.bias_activation)
    ),
    "adaptive_sigmoid": tuple(
        lambda x, f=f: f(x, *identity(x, (1, 1, 0, 0))) for f in (fastops.adaptive_sigmoid, reference.adaptive_sigmoid)
    ),
    "adaptive_tanh": tuple(
        lambda x, f=f: f(x, *identity(x, (1, 1, 0, 0))) for f in (fastops.adaptive_tanh, reference.adaptive_tanh)
    ),
}


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("op", FORWARD)
def test_rounding_of_every_value(op, dtype):
    x = every_value(dtype)
    fused, expected = FORWARD[op]
    off = units(fused(x), expected(x.double()))
    assert off.max() < 0.51


TAILS = {"adaptive_sigmoid": 16, "adaptive_tanh": 8}


def gradient(function, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    y = function(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", HALF_TYPES, ids=str)
@pytest.mark.parametrize("op", [op for op in FORWARD if op != "bias_activation"])  # torch's own gradient
def test_rounding_of_every_gradient(op, dtype):
    x = every_value(dtype)
    if op in TAILS:  # autograd's s (1 - s) and 1 - t^2 cancel beyond, in float64 too
        x = x[x.abs() < TAILS[op]]
    fused, expected = FORWARD[op]
    actual, exact = gradient(fused, x), gradient(expected, x.double())
    # Where the slope of Mish is 0 its two terms cancel.
    near_root = "mish" in op and ((x.double() + 1.1924606).abs() < 0.25)
    slack = torch.where(torch.as_tensor(near_root), 1e-6 / exact.abs().clamp(min=1e-30), 0.0)
    mantissa = DIGITS[dtype][0]
    off = units(actual, exact) - slack * 2 ** (mantissa + 1)
    assert off.max() < 0.51, (x[off.argmax()].item(), off.max())
