"""Squeeze-and-excitation: what the two ops have in common, extreme logits, no pixels, layouts, errors."""

from __future__ import annotations

import pytest
import torch

import fastops
from tests.support.op_samples import OPS
from tests.support.op_table import channels_last, contiguous, requiring_grad, sliced, transposed, upstream

ops = torch.ops.fastops


def make(op: str, sample: str, device: str, dtype: torch.dtype = torch.float32) -> tuple:
    return OPS[op].make(sample, dtype, device)


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [(2,), (4,), (2, 4)], ids=["no_b1", "no_b2", "no_biases"])
def test_absent_biases_are_zeros(absent, device):
    inputs = make("se_attention", "four_dims", device)
    zeros = tuple(torch.zeros_like(t) if i in absent else t for i, t in enumerate(inputs))
    without = tuple(None if i in absent else t for i, t in enumerate(inputs))
    result = fastops.se_attention(*without)
    assert torch.equal(result, fastops.se_attention(*zeros))
    grad = upstream(result)
    expected = ops.se_attention_backward(grad, *zeros)
    for actual, e in zip(ops.se_attention_backward(grad, *without), expected, strict=True):
        assert torch.equal(actual, e)


@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_attention_is_the_scale_of_its_excitation(layout, device):
    x, w1, b1, w2, b2 = make("se_attention", "four_dims", device, torch.float64)
    logits = torch.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2
    actual = fastops.se_attention(layout(x), w1, b1, w2, b2)
    torch.testing.assert_close(actual, fastops.se_scale(x, logits), rtol=1e-14, atol=1e-14)


def test_mean_of_large_values_of_one_sign(device):
    """The squeeze adds in float32 but pairwise enough: 2^20 ones have the mean 1."""
    x = torch.ones(1, 2, 1024, 1024, device=device)
    w1, w2 = torch.eye(2, device=device), torch.eye(2, device=device)
    expected = torch.sigmoid(torch.ones((), dtype=torch.float64))
    for layout in (contiguous, channels_last):
        y = fastops.se_attention(layout(x), w1, None, w2, None)
        torch.testing.assert_close(y[0, 0, 0, 0].double().cpu(), expected, rtol=1e-6, atol=0)


def test_mean_of_no_pixels_is_nan(device):
    """As with torch.mean: the result has no values, and the gradients of the weights are NaN."""
    x = torch.ones(2, 3, 0, 4, device=device, requires_grad=True)
    w1 = torch.ones(2, 3, device=device, requires_grad=True)
    w2 = torch.ones(3, 2, device=device, requires_grad=True)
    y = fastops.se_attention(x, w1, None, w2, None)
    assert y.shape == x.shape
    grad_x, *weights = torch.autograd.grad(y.sum(), (x, w1, w2))
    assert grad_x.shape == x.shape
    for grad in weights:
        assert grad.isnan().all()


@pytest.mark.parametrize("dtype, largest", [(torch.float32, 80.0), (torch.float64, 700.0)])
def test_extreme_logits_keep_their_relative_accuracy(dtype, largest, device):
    logits = torch.linspace(-largest, largest, 41, dtype=dtype, device=device)[None]
    x = torch.full((1, 41, 2), 3.0, dtype=dtype, device=device)
    expected = 3 * torch.sigmoid(logits.double())
    actual = fastops.se_scale(x, logits)[:, :, 0].double()
    torch.testing.assert_close(actual, expected, rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype, largest", [(torch.float32, 80.0), (torch.float64, 700.0)])
def test_gradient_of_extreme_logits_does_not_cancel(dtype, largest, device):
    """s (1 - s) is e^-|logit|, not 0, for large logits."""
    logits = torch.linspace(-largest, largest, 41, dtype=dtype, device=device)[None]
    x = torch.full((1, 41, 2), 3.0, dtype=dtype, device=device)
    expected = 6 * torch.sigmoid(logits.double()) * torch.sigmoid(-logits.double())
    _, actual = ops.se_scale_backward(torch.ones_like(x), x, logits)
    torch.testing.assert_close(actual.double(), expected, rtol=16 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    "layout, kept", [(contiguous, False), (channels_last, True), (transposed, False), (sliced, False)]
)
@pytest.mark.parametrize("op", ["se_scale", "se_attention"])
def test_memory_format(op, layout, kept, device):
    inputs = list(make(op, "four_dims", device))
    inputs[0] = layout(inputs[0])
    inputs = requiring_grad(OPS[op], inputs)
    result = OPS[op].op(*inputs)
    (grad_x,) = torch.autograd.grad(result, inputs[0], upstream(result))
    memory_format = torch.channels_last if kept else torch.contiguous_format
    assert result.is_contiguous(memory_format=memory_format)
    assert grad_x.is_contiguous(memory_format=memory_format)


# ---- errors --------------------------------------------------------------------------------------------------

FLOATING = "must have dtype float32, float64, float16 or bfloat16, got"
x = torch.zeros(2, 3, 4, 4)
logits = torch.zeros(2, 3)
w1, b1, w2, b2 = torch.zeros(5, 3), torch.zeros(5), torch.zeros(3, 5), torch.zeros(3)

SCALE_ERRORS = {
    "dtype": ((x.int(), logits.int()), f"x {FLOATING} int32"),
    "dims": ((x[0, 0, 0], logits), "x must have at least 2 dimensions [N, C, ...], got [4]"),
    "logits_dtype": ((x, logits.half()), "logits must have the dtype of x (float32), got float16"),
    "logits_device": ((x, logits.to("meta")), "logits must be on the device of x (cpu), got meta"),
    "logits_batch": ((x, torch.zeros(1, 3)), "logits must have shape [N, C] = [2, 3], got [1, 3]"),
    "logits_channels": ((x, torch.zeros(2, 4)), "logits must have shape [N, C] = [2, 3], got [2, 4]"),
    "logits_dims": ((x, torch.zeros(2, 3, 1)), "logits must have shape [N, C] = [2, 3], got [2, 3, 1]"),
}
ATTENTION_ERRORS = {
    "dtype": ((x.bool(), w1, b1, w2, b2), f"x {FLOATING} bool"),
    "dims": ((x[..., 0, 0], w1, b1, w2, b2), "x must have at least 3 dimensions [N, C, ...], got [2, 3]"),
    "w1_dims": ((x, torch.zeros(5), b1, w2, b2), "w1 must have shape [R, C], got [5]"),
    "w1_channels": ((x, torch.zeros(5, 4), b1, w2, b2), "w1 must have shape [R, C] = [5, 3], got [5, 4]"),
    "w1_dtype": ((x, w1.double(), b1, w2, b2), "w1 must have the dtype of x (float32), got float64"),
    "w1_device": ((x, w1.to("meta"), b1, w2, b2), "w1 must be on the device of x (cpu), got meta"),
    "w2_shape": ((x, w1, b1, w1, b2), "w2 must have shape [C, R] = [3, 5], got [5, 3]"),
    "w2_dtype": ((x, w1, b1, w2.bfloat16(), b2), "w2 must have the dtype of x (float32), got bfloat16"),
    "w2_device": ((x, w1, b1, w2.to("meta"), b2), "w2 must be on the device of x (cpu), got meta"),
    "b1_shape": ((x, w1, b2, w2, b2), "b1 must have shape [R] = [5], got [3]"),
    "b1_dims": ((x, w1, b1[None], w2, b2), "b1 must have shape [R] = [5], got [1, 5]"),
    "b1_dtype": ((x, w1, b1.half(), w2, b2), "b1 must have the dtype of x (float32), got float16"),
    "b1_device": ((x, w1, b1.to("meta"), w2, b2), "b1 must be on the device of x (cpu), got meta"),
    "b2_shape": ((x, w1, b1, w2, b1), "b2 must have shape [C] = [3], got [5]"),
    "b2_dtype": ((x, w1, b1, w2, b2.half()), "b2 must have the dtype of x (float32), got float16"),
    "b2_device": ((x, w1, b1, w2, b2.to("meta")), "b2 must be on the device of x (cpu), got meta"),
}
GRAD_ERRORS = {
    "dtype": (x.double(), "must have the dtype of x (float32), got float64"),
    "shape": (x[:1], "must have the shape of x [2, 3, 4, 4], got [1, 3, 4, 4]"),
    "dims": (x[..., 0], "must have the shape of x [2, 3, 4, 4], got [2, 3, 4]"),
    "device": (x.to("meta"), "must be on the device of x (cpu), got meta"),
}


def errors(table: dict):
    return pytest.mark.parametrize("args, message", table.values(), ids=table)


@errors(SCALE_ERRORS)
def test_scale_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.se_scale, args, f"se_scale: {message}")
    raises_everywhere(ops.se_scale_backward, (args[0], *args), f"se_scale_backward: {message}")


@errors(ATTENTION_ERRORS)
def test_attention_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.se_attention, args, f"se_attention: {message}")
    raises_everywhere(ops.se_attention_backward, (args[0], *args), f"se_attention_backward: {message}")


@pytest.mark.parametrize("grad, message", GRAD_ERRORS.values(), ids=GRAD_ERRORS)
def test_grad_errors(grad, message, raises_everywhere):
    raises_everywhere(ops.se_scale_backward, (grad, x, logits), f"se_scale_backward: grad {message}")
    raises_everywhere(ops.se_attention_backward, (grad, x, w1, b1, w2, b2), f"se_attention_backward: grad {message}")
