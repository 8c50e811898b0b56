"""Cross-correlation: agreement with conv2d, pairing, scale and bias, layouts, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fastops
from tests.support.op_samples import OPS
from tests.support.op_table import Draw, channels_last, contiguous, requiring_grad, transposed, upstream

ops = torch.ops.fastops


def pair(z: tuple, x: tuple, device: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = Draw(dtype, device)
    return draw(*z), draw(*x)


# ---- values --------------------------------------------------------------------------------------------------


def test_is_conv2d_for_one_template(device):
    z, x = pair((1, 20, 6, 5), (1, 20, 22, 21), device)
    torch.testing.assert_close(fastops.xcorr(z, x), F.conv2d(x, z), rtol=1e-12, atol=1e-12)
    expected = F.conv2d(x, z.transpose(0, 1), groups=20)
    torch.testing.assert_close(fastops.xcorr_depthwise(z, x), expected, rtol=1e-12, atol=1e-12)


def test_the_template_is_not_flipped(device):
    z = torch.arange(6.0, device=device).reshape(1, 1, 2, 3)
    x = torch.zeros(1, 1, 3, 5, device=device)
    x[0, 0, 1, 2] = 1  # y(u, v) = z(1 - u, 2 - v)
    expected = torch.tensor([[5.0, 4.0, 3.0], [2.0, 1.0, 0.0]], device=device)
    assert torch.equal(fastops.xcorr(z, x)[0, 0], expected)
    assert torch.equal(fastops.xcorr_depthwise(z, x)[0, 0], expected)


@pytest.mark.parametrize("nz, nx", [(1, 4), (4, 1), (2, 6), (6, 2), (3, 3)])
@pytest.mark.parametrize("op", ["xcorr", "xcorr_depthwise"])
def test_consecutive_pairs_share_an_item(op, nz, nx, device):
    z, x = pair((nz, 5, 2, 3), (nx, 5, 4, 5), device)
    pairs = max(nz, nx)
    run = getattr(fastops, op)
    result = run(z, x)
    assert len(result) == pairs
    for b in range(pairs):
        i, j = b // (pairs // nz), b // (pairs // nx)
        assert torch.equal(result[b], run(z[i : i + 1], x[j : j + 1])[0])


def test_scale_and_bias(device):
    z, x = pair((2, 5, 2, 3), (2, 5, 4, 5), device)
    bias = torch.tensor([1.75], dtype=torch.float64, device=device)
    plain = fastops.xcorr(z, x)
    torch.testing.assert_close(fastops.xcorr(z, x, 1e-3), 1e-3 * plain, rtol=1e-14, atol=0)
    torch.testing.assert_close(fastops.xcorr(z, x, 1e-3, bias), 1e-3 * plain + 1.75, rtol=1e-14, atol=0)
    assert torch.equal(fastops.xcorr(z, x, 1.0, torch.zeros_like(bias)), plain)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_gradient_of_the_bias_has_its_shape(shape, device):
    z, x = pair((1, 3, 2, 2), (2, 3, 4, 4), device)
    bias = torch.ones(shape, dtype=torch.float64, device=device, requires_grad=True)
    result = fastops.xcorr(z, x, 0.1, bias)
    grad = upstream(result)
    (actual,) = torch.autograd.grad(result, bias, grad)
    assert actual.shape == shape
    torch.testing.assert_close(actual, grad.sum().expand(shape), rtol=1e-14, atol=0)


def test_gradients_are_linear_in_the_scale(device):
    z, x = pair((2, 3, 2, 2), (2, 3, 4, 5), device)
    grad = upstream(fastops.xcorr(z, x))
    plain = ops.xcorr_backward(grad, z, x, 1.0)
    for actual, expected in zip(ops.xcorr_backward(grad, z, x, -0.01), plain, strict=True):
        torch.testing.assert_close(actual, -0.01 * expected, rtol=1e-13, atol=0)


def test_no_channels_leave_the_bias(device):
    z, x = pair((2, 0, 2, 2), (2, 0, 3, 3), device)
    y = fastops.xcorr(z, x, 3.0, torch.full((1,), 7.0, dtype=torch.float64, device=device))
    assert torch.equal(y, torch.full((2, 1, 2, 2), 7.0, dtype=torch.float64, device=device))


@pytest.mark.parametrize("of_z", [contiguous, channels_last, transposed])
@pytest.mark.parametrize("of_x", [contiguous, channels_last, transposed])
def test_memory_format(of_z, of_x, device):
    z, x = pair((2, 5, 2, 3), (2, 5, 4, 5), device)
    z, x = requiring_grad(OPS["xcorr_depthwise"], (of_z(z), of_x(x)))

    def is_channels_last(t: torch.Tensor) -> bool:
        assert t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last)
        return not t.is_contiguous()

    scores = fastops.xcorr(z, x)
    assert scores.is_contiguous()
    depthwise = fastops.xcorr_depthwise(z, x)
    assert is_channels_last(depthwise) == (of_x is channels_last)
    for result in (scores, depthwise):
        grad_z, grad_x = torch.autograd.grad(result, (z, x), upstream(result))
        assert is_channels_last(grad_z) == (of_z is channels_last)
        assert is_channels_last(grad_x) == (of_x is channels_last)


# ---- errors --------------------------------------------------------------------------------------------------

z = torch.zeros(2, 3, 2, 3)
x = torch.zeros(4, 3, 5, 6)
bias = torch.zeros(1)

ERRORS = {
    "dtype": ((z.long(), x.long()), "z must have dtype float32, float64, float16 or bfloat16, got int64"),
    "z_dims": ((z[0], x), "z must be 4-D [N, C, h, w], got [3, 2, 3]"),
    "x_dims": ((z, x[None]), "x must be 4-D [N, C, H, W], got [1, 4, 3, 5, 6]"),
    "x_dtype": ((z, x.half()), "x must have the dtype of z (float32), got float16"),
    "x_device": ((z, x.to("meta")), "x must be on the device of z (cpu), got meta"),
    "channels": ((z, x[:, :2]), "x must have the channels of z (3), got 2"),
    "no_rows": ((z[:, :, :0], x), "z must not have an empty template, got [2, 3, 0, 3]"),
    "no_columns": ((z[..., :0], x), "z must not have an empty template, got [2, 3, 2, 0]"),
    "x_lower": ((z, x[:, :, :1]), "x must be at least as large as z (2 x 3), got 1 x 6"),
    "x_narrower": ((z, x[..., :2]), "x must be at least as large as z (2 x 3), got 5 x 2"),
    "batches": ((z, x[:3]), "x must have a batch that divides, or is divided by, that of z (2), got 3"),
    "no_searches": ((z, x[:0]), "x must have a batch that divides, or is divided by, that of z (2), got 0"),
    "no_templates": ((z[:0], x), "x must have a batch that divides, or is divided by, that of z (0), got 4"),
}
BIAS_ERRORS = {
    "elements": (torch.zeros(2), "must have one element, got [2]"),
    "none": (torch.zeros(1, 0), "must have one element, got [1, 0]"),
    "dtype": (bias.double(), "must have the dtype of x (float32), got float64"),
    "device": (bias.to("meta"), "must be on the device of x (cpu), got meta"),
}


@pytest.mark.parametrize("args, message", ERRORS.values(), ids=ERRORS)
def test_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.xcorr, args, f"xcorr: {message}")
    raises_everywhere(fastops.xcorr_depthwise, args, f"xcorr_depthwise: {message}")
    raises_everywhere(ops.xcorr_backward, (x, *args, 1.0), f"xcorr_backward: {message}")
    raises_everywhere(ops.xcorr_depthwise_backward, (x, *args), f"xcorr_depthwise_backward: {message}")


@pytest.mark.parametrize("wrong, message", BIAS_ERRORS.values(), ids=BIAS_ERRORS)
def test_bias_errors(wrong, message, raises_everywhere):
    raises_everywhere(fastops.xcorr, (z, x, 1.0, wrong), f"xcorr: bias {message}")


@pytest.mark.parametrize("op, channels, scale", [("xcorr", 1, (1.0,)), ("xcorr_depthwise", 3, ())])
def test_grad_errors(op, channels, scale, raises_everywhere):
    backward = getattr(ops, f"{op}_backward")
    right = torch.zeros(4, channels, 4, 4)
    wrong = {
        f"must have shape [4, {channels}, 4, 4], got [2, {channels}, 4, 4]": right[:2],
        f"must have shape [4, {channels}, 4, 4], got [4, {channels + 1}, 4, 4]": torch.zeros(4, channels + 1, 4, 4),
        f"must have shape [4, {channels}, 4, 4], got [4, {channels}, 3, 4]": right[:, :, :3],
        f"must have shape [4, {channels}, 4, 4], got [4, {channels}, 4, 5]": torch.zeros(4, channels, 4, 5),
        f"must have shape [4, {channels}, 4, 4], got [4, {channels}, 4]": right[..., 0],
        "must have the dtype of x (float32), got bfloat16": right.bfloat16(),
        "must be on the device of x (cpu), got meta": right.to("meta"),
    }
    for message, grad in wrong.items():
        raises_everywhere(backward, (grad, z, x, *scale), f"{op}_backward: grad {message}")
