"""Mish: exact tails, error in units in the last place, the in-place op, its errors."""

from __future__ import annotations

import math

import pytest
import torch

import fastops
from fastops import reference
from tests.support.op_table import DTYPES, channels_last, contiguous, offset, sliced, transposed

INF, NAN = math.inf, math.nan
MINIMUM = -1.1924606  # where f' = 0; f = -0.3088434

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def slope(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.fastops.mish_backward(torch.ones_like(x), x)


# ---- values --------------------------------------------------------------------------------------------------


@each_dtype
def test_tails_are_exact(dtype, device):
    x = torch.tensor([INF, 1e4, 90.0, -INF, -1e4, 0.0, -0.0], dtype=dtype, device=device)
    expected = torch.where(x > 0, x, torch.zeros_like(x).copysign(x))
    y = fastops.mish(x)
    assert torch.equal(y, expected)
    assert torch.equal(y.signbit(), x.signbit())
    assert fastops.mish(torch.tensor(NAN, dtype=dtype, device=device)).isnan()


@each_dtype
def test_slopes_of_the_tails_are_exact(dtype, device):
    x = torch.tensor([INF, 1e4, 90.0, -INF, -1e4], dtype=dtype, device=device)
    assert torch.equal(slope(x), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0], dtype=dtype, device=device))
    assert slope(torch.tensor(NAN, dtype=dtype, device=device)).isnan()


@each_dtype
def test_subnormals_are_not_flushed(dtype, device):
    """f(x) = 0.6 x near 0."""
    info = torch.finfo(dtype)
    steps = torch.tensor([5.0, -5.0, 100.0, -35.0, 50.0], dtype=torch.float64)  # multiples of 5: 0.6 x is a number
    smallest = info.smallest_normal * info.eps
    y = fastops.mish((steps * smallest).to(device, dtype))
    assert torch.equal(y.cpu().double(), steps * 0.6 * smallest)


def ulps(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error, in units in the last place of `expected` rounded down to a power of two."""
    info = torch.finfo(actual.dtype)
    exponent = torch.floor(torch.log2(expected.abs().clamp_min(info.smallest_normal)))
    return float(((actual.double() - expected).abs() / (torch.exp2(exponent) * info.eps)).max())


@pytest.mark.parametrize("low, high", [(-87, -20), (-20, 0), (-1.2, -1.185), (0, 20), (20, 100)])
def test_error_in_ulps(low, high, device):
    """Measured: 4.2 at most, near -1.8."""
    x = torch.linspace(low, high, 100_003, dtype=torch.float64).float().to(device)
    assert ulps(fastops.mish(x), reference.mish(x.double())) <= 5


@pytest.mark.parametrize("low, high", [(-87, -20), (-20, 20), (-1.2, -1.185), (20, 100)])
def test_error_of_the_slope(low, high, device):
    """Of 1.09, the largest slope; f' crosses 0 at the minimum, so its relative error has no bound there."""
    x = torch.linspace(low, high, 100_003, dtype=torch.float64).float().to(device).requires_grad_()
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.mish(wide).sum(), wide)
    (actual,) = torch.autograd.grad(fastops.mish(x).sum(), x)
    assert (actual.double() - expected).abs().max() <= 4 * torch.finfo(torch.float32).eps


def test_double_against_50_digits(device):
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed (torch brings it along, through sympy)")
    x = torch.cat((torch.linspace(-700, -30, 31), torch.linspace(-30, 30, 241))).double().to(device)
    with mpmath.workdps(50):
        expected = [float(v * mpmath.tanh(mpmath.log1p(mpmath.exp(v)))) for v in map(mpmath.mpf, x.tolist())]
    expected = torch.tensor(expected, dtype=torch.float64, device=device)
    assert ulps(fastops.mish(x), expected) <= 5


def test_below_the_range_of_exp(device):
    """Where e^x is subnormal in float32, the result, at most 1.1e-36, becomes -0."""
    x = torch.linspace(-200, -87, 1001, device=device)
    y = fastops.mish(x)
    assert y.signbit().all()
    assert y.abs().max() < 1.5e-36


def test_falls_then_rises(device):
    x = torch.arange(-20, 20, 1e-3, dtype=torch.float64).float().to(device)
    steps = fastops.mish(x).diff()
    assert (steps[x[1:] < MINIMUM - 0.01] < 0).all()
    assert (steps[x[:-1] > MINIMUM + 0.01] > 0).all()
    assert abs(float(fastops.mish(torch.tensor(MINIMUM, device=device))) + 0.3088434) < 1e-6


@pytest.mark.parametrize("layout", [contiguous, channels_last, transposed, offset])
def test_dense_layouts_are_kept(layout, device):
    x = layout(torch.randn(2, 3, 4, 5, device=device))
    assert fastops.mish(x).stride() == x.stride()
    assert torch.ops.fastops.mish_backward(torch.ones_like(x), x).stride() == x.stride()


# ---- in place ------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("layout", [contiguous, channels_last, transposed, sliced, offset, lambda t: t[:0]])
def test_in_place(layout, dtype, device):
    x = layout(torch.randn(2, 3, 4, 5).to(device, dtype))
    expected = fastops.mish(x)
    where = x.data_ptr(), x.stride()
    version = x._version
    assert fastops.mish_(x) is x
    assert (x.data_ptr(), x.stride()) == where
    assert torch.equal(x, expected)
    assert x._version > version


def test_in_place_0d_and_threads(device):
    for x in (torch.tensor(-1.5, device=device), torch.randn(40_001, device=device)):
        expected = fastops.mish(x)
        assert torch.equal(fastops.mish_(x), expected)


def test_in_place_on_a_view_leaves_the_rest(device):
    base = torch.randn(6, 7, device=device)
    expected = base.clone()
    expected[1:5, ::2] = fastops.mish(base[1:5, ::2])
    fastops.mish_(base[1:5, ::2])
    assert torch.equal(base, expected)


def test_in_place_has_gradients(device):
    leaf = torch.randn(4, 5, dtype=torch.float64, device=device, requires_grad=True)
    x = leaf * 2
    assert fastops.mish_(x) is x
    x[1:3, ::2] *= 3
    fastops.mish_(x[1:3, ::2])  # of a view: the rest has the gradient of one mish
    (actual,) = torch.autograd.grad(x.sum(), leaf)

    y = reference.mish(leaf * 2)
    inner = torch.zeros_like(y, dtype=torch.bool)
    inner[1:3, ::2] = True
    y = torch.where(inner, reference.mish(3 * y), y)
    (expected,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_in_place_on_what_another_gradient_needs_is_an_error(device):
    leaf = torch.randn(3, device=device, requires_grad=True)
    x = leaf.exp()  # saves its result
    fastops.mish_(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_in_place_on_a_leaf_that_requires_grad(device):
    x = torch.zeros(2, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        fastops.mish_(x)
    with torch.no_grad():
        fastops.mish_(x)


def test_in_place_compiles(device):
    def step(x):
        return fastops.mish_(x + 1) * 2

    torch._dynamo.reset()
    x = torch.randn(3, 5, device=device)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(x), step(x))


# ---- errors --------------------------------------------------------------------------------------------------

FLOATING = "must have dtype float32, float64, float16 or bfloat16, got"
ops = torch.ops.fastops


@pytest.mark.parametrize(
    "dtype, name",
    [(torch.int64, "int64"), (torch.uint8, "uint8"), (torch.bool, "bool"), (torch.complex64, "complex64")],
)
def test_dtype_errors(dtype, name, raises_everywhere):
    x = torch.zeros(3, dtype=dtype)
    raises_everywhere(fastops.mish, (x,), f"mish: x {FLOATING} {name}")
    raises_everywhere(fastops.mish_, (x,), f"mish_: x {FLOATING} {name}")
    raises_everywhere(ops.mish_backward, (x, x), f"mish_backward: x {FLOATING} {name}")


@pytest.mark.parametrize(
    "grad, message",
    [
        (torch.zeros(3, dtype=torch.float64), "must have the dtype of x (float32), got float64"),
        (torch.zeros(4), "must have the shape of x [3], got [4]"),
        (torch.zeros(3, 1), "must have the shape of x [3], got [3, 1]"),
        (torch.zeros(()), "must have the shape of x [3], got []"),
        (torch.zeros(3, device="meta"), "must be on the device of x (cpu), got meta"),
    ],
)
def test_backward_errors(grad, message, raises_everywhere):
    raises_everywhere(ops.mish_backward, (grad, torch.zeros(3)), f"mish_backward: grad {message}")
