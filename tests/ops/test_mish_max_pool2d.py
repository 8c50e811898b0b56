"""mish_max_pool2d: which position wins, special values, arguments as torch takes them, the module, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastops
from fastops import reference
from fastops.ops.relu_max_pool2d import relu_max_pool2d
from tests.support.op_table import DTYPES, channels_last, contiguous, transposed, upstream

ops = torch.ops.fastops
INF, NAN = float("inf"), float("nan")

each_layout = pytest.mark.parametrize("layout", [contiguous, channels_last])


def gradient(function, x: torch.Tensor, grad: torch.Tensor, *window) -> torch.Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(function(leaf, *window), leaf, grad)[0]


def winners_gradient(x: torch.Tensor, grad: torch.Tensor, *window) -> torch.Tensor:
    """The gradient of `torchs`, but 0, not 0 times a slope of NaN, at a NaN that does not win."""
    of_mish = gradient(F.max_pool2d, reference.mish(x), grad, *window)
    slope = ops.mish_backward(torch.ones_like(x), x)
    return torch.where(of_mish == 0, 0.0, of_mish * slope)


def torchs(x: torch.Tensor, *window) -> torch.Tensor:
    return F.max_pool2d(reference.mish(x), *window)


# ---- which position wins ---------------------------------------------------------------------------------------


@each_layout
@pytest.mark.parametrize("channels", [1, 3, 16, 70])
def test_equal_values_and_special_values(channels, layout, device):
    """Draws of few values, on both sides of Mish's minimum: NaN, infinities, zeros and many ties. Of equal values the
    first has the gradient, of NaN the last."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([-4.0, -2.0, -1.0, 0.0, -0.0, 0.5, -INF, INF, NAN], dtype=torch.float64)
    for window in ((3, 2, 1), (2, 1, 0), ((3, 2), (1, 3), (0, 1))):
        for drawn in (4, 8, 9):
            at = torch.randint(0, drawn, (2, channels, 11, 13), generator=generator)
            x = layout(values[at].to(device))
            expected = torchs(x, *window)
            assert torch.equal(fastops.mish_max_pool2d(x, *window).isnan(), expected.isnan())
            actual = fastops.mish_max_pool2d(x.float(), *window).double()
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7, equal_nan=True)
            grad = layout(torch.rand(expected.shape, generator=generator).double().to(device))
            for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
                actual = gradient(fastops.mish_max_pool2d, x.to(dtype), grad.to(dtype), *window).double()
                exact = winners_gradient(x, grad, *window)
                torch.testing.assert_close(actual, exact, rtol=tolerance, atol=tolerance, equal_nan=True)


@each_layout
@pytest.mark.parametrize("channels", [2, 64])
def test_one_nan_reaches_its_windows_only(channels, layout, device):
    x = torch.randn(1, channels, 9, 9, device=device)
    x[0, 1, 4, 4] = NAN
    bad = fastops.mish_max_pool2d(layout(x)).isnan()
    expected = torch.zeros_like(bad)
    expected[0, 1, 1:3, 1:3] = True
    assert torch.equal(bad, expected)


@each_layout
def test_the_winner_may_be_the_smallest(layout, device):
    """f(-5) = -0.0336 > f(-2) = -0.2525: all of the gradient goes to -5."""
    x = torch.full((1, 16, 3, 3), -2.0, device=device)
    x[:, :, 1, 2] = -5.0
    y = fastops.mish_max_pool2d(layout(x))
    torch.testing.assert_close(y, reference.mish(torch.full((1, 16, 1, 1), -5.0, device=device)))
    grad = gradient(fastops.mish_max_pool2d, layout(x), torch.ones_like(y))
    assert torch.equal(grad != 0, x == -5.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_compare_before_rounding(dtype, device):
    """f(-1.1875) = -0.3088415 and f(-1.2) = -0.3088357 are one number in half precision; the larger one wins."""
    x = torch.tensor([[-1.1875, -1.203125]], dtype=dtype, device=device)[None]
    of = reference.mish(x.double())[0, 0]
    assert of[0] < of[1] and of[0].to(dtype) == of[1].to(dtype)
    grad = gradient(fastops.mish_max_pool2d, x, torch.ones(1, 1, 1, dtype=dtype, device=device), (1, 2), 2)
    assert grad[0, 0, 0] == 0 and grad[0, 0, 1] != 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padding_never_wins(dtype, device):
    """Where all of a window is -inf the result is f(-inf) = -0, as without padding."""
    x = torch.full((1, 17, 4, 4), -INF, dtype=dtype, device=device)
    for layout in (contiguous, channels_last):
        leaf = layout(x).requires_grad_()
        y = fastops.mish_max_pool2d(leaf, 3, 2, 1)
        assert (y == 0).all()
        (grad,) = torch.autograd.grad(y.sum(), leaf)
        assert (grad == 0).all()


# ---- arguments and layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "window", [(), (3,), (2, None), (3, 1, 1), ((3, 2), (2, 1), (1, 0)), ([3], [2], [1]), (torch.Size((2, 2)), None)]
)
def test_arguments_are_those_of_max_pool2d(window, device):
    x = torch.randn(2, 3, 7, 8, device=device)
    actual, expected = fastops.mish_max_pool2d(x, *window), torchs(x, *(window or (3,)), *((2,) * (len(window) < 2)))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
    if len(window) > 1:
        module = fastops.nn.MishMaxPool2d(*window)
        assert torch.equal(module(x), actual)


def test_module():
    assert repr(fastops.nn.MishMaxPool2d(3, 2)) == "MishMaxPool2d(kernel_size=3, stride=2, padding=0)"
    assert fastops.nn.MishMaxPool2d((3, 2)).stride == (3, 2)
    x = torch.randn(3, 6, 6)
    torch.testing.assert_close(fastops.nn.MishMaxPool2d(2)(x), torchs(x, 2), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout, kept", [(contiguous, False), (channels_last, True), (transposed, False)])
def test_memory_format(layout, kept, device):
    x = layout(torch.randn(2, 5, 7, 9, device=device)).requires_grad_()
    y = fastops.mish_max_pool2d(x)
    (grad_x,) = torch.autograd.grad(y, x, upstream(y))
    memory_format = torch.channels_last if kept else torch.contiguous_format
    assert y.is_contiguous(memory_format=memory_format) and grad_x.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("window", [(3, 2, 0), (5, 1, 2), (2, 3, 1)])
def test_bands_of_rows_agree(window, layout, device):
    """Rows are shared out in bands; windows that lie across two of them add to both."""
    x = layout(torch.randn(1, 40, 90, 33, dtype=torch.float64, device=device))
    grad = upstream(torchs(x, *window))
    actual = gradient(fastops.mish_max_pool2d, x, grad, *window)
    torch.testing.assert_close(actual, gradient(torchs, x, grad, *window), rtol=1e-12, atol=1e-12)


# ---- errors ----------------------------------------------------------------------------------------------------

x = torch.zeros(2, 3, 5, 6)
pair, ones, zeros = [3, 3], [2, 2], [0, 0]

ERRORS = {
    "dtype": (
        (x.int(), pair, ones, zeros),
        "x must have dtype float32, float64, float16 or bfloat16, got int32",
    ),
    "dims": ((x[0, 0], pair, ones, zeros), "x must be [N, C, H, W] or [C, H, W], got [5, 6]"),
    "five_dims": ((x[None], pair, ones, zeros), "x must be [N, C, H, W] or [C, H, W], got [1, 2, 3, 5, 6]"),
    "kernel_0": ((x, [3, 0], ones, zeros), "kernel_size must be two numbers of at least 1, got [3, 0]"),
    "kernel_of_three": ((x, [3, 3, 3], ones, zeros), "kernel_size must be two numbers of at least 1, got [3, 3, 3]"),
    "kernel_too_large": (
        (x, [1 << 15, 1 << 15], ones, zeros),
        "kernel_size must have fewer than 2^30 values, got [32768, 32768]",
    ),
    "stride": ((x, pair, [0, 1], zeros), "stride must be two numbers of at least 1, got [0, 1]"),
    "padding": ((x, pair, ones, [0, 2]), "padding must be two numbers from 0 to half of kernel_size, got [0, 2]"),
    "below_0": ((x, pair, ones, [-1, 0]), "padding must be two numbers from 0 to half of kernel_size, got [-1, 0]"),
    "rows": ((x, [6, 3], ones, zeros), "x must hold a window of 6 x 3 with its padding, got [2, 3, 5, 6]"),
    "columns": ((x, [3, 9], ones, [0, 1]), "x must hold a window of 3 x 9 with its padding, got [2, 3, 5, 6]"),
    "no_rows": ((x[:, :, :0], ones, ones, [1, 1]), "x must hold a window of 2 x 2 with its padding, got [2, 3, 0, 6]"),
}  # fmt: skip
GRAD_ERRORS = {
    "dtype": (torch.zeros(2, 3, 2, 2).double(), "must have the dtype of x (float32), got float64"),
    "shape": (torch.zeros(2, 3, 2, 3), "must have shape [2, 3, 2, 2], got [2, 3, 2, 3]"),
    "dims": (torch.zeros(3, 2, 2), "must have shape [2, 3, 2, 2], got [3, 2, 2]"),
    "device": (torch.zeros(2, 3, 2, 2, device="meta"), "must be on the device of x (cpu), got meta"),
}


@pytest.mark.parametrize("args, message", ERRORS.values(), ids=ERRORS)
def test_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.mish_max_pool2d, args, f"mish_max_pool2d: {message}")
    backward = (args[0], *args)
    raises_everywhere(ops.mish_max_pool2d_backward, backward, f"mish_max_pool2d_backward: {message}")


@pytest.mark.parametrize("grad, message", GRAD_ERRORS.values(), ids=GRAD_ERRORS)
def test_grad_errors(grad, message, raises_everywhere):
    args = (grad, x, pair, ones, zeros)
    raises_everywhere(ops.mish_max_pool2d_backward, args, f"mish_max_pool2d_backward: grad {message}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 96, 13, 11), (1, 37, 9, 16), (3, 3, 5, 5), (2, 64, 3, 3)], ids=str)
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 2), (2, 2), (3, 1), (3, 3)])
def test_relu_max_pool2d(shape, kernel_size, stride, dtype):
    torch.manual_seed(0)
    x = (torch.randn(shape) - 0.5).to(dtype)
    x[0, 1, 2, 1], x[-1, 2, 0, 2], x[0, 0, 1, 1] = NAN, INF, -INF
    expected = F.max_pool2d(x, kernel_size, stride).relu()
    for layout in (torch.contiguous_format, torch.channels_last):
        y = relu_max_pool2d(x.contiguous(memory_format=layout), kernel_size, stride)
        assert torch.equal(y.isnan(), expected.isnan()) and torch.equal(y.nan_to_num(7), expected.nan_to_num(7))
        assert y.is_contiguous(memory_format=layout)
    with pytest.raises(RuntimeError, match="relu_max_pool2d: x must hold a window of 17 x 17"):
        relu_max_pool2d(x.contiguous(memory_format=torch.channels_last), 17, 1)


def test_relu_max_pool2d_kernel_is_for_channels_last(raises_everywhere):
    message = "relu_max_pool2d: x must be channels_last"
    raises_everywhere(ops.relu_max_pool2d.default, (torch.ones(1, 4, 5, 5), [3, 3], [2, 2], [0, 0]), message)
