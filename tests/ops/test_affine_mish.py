"""affine_mish and batch_norm_mish: parameters beside half types, statistics, running ones, the modules, errors."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastops
from fastops import reference
from tests.support.op_table import DTYPES, assert_accurate, channels_last, contiguous, transposed, upstream

ops = torch.ops.fastops
HALF = (torch.float16, torch.bfloat16)

each_half = pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm())


# ---- float32 parameters beside half types ----------------------------------------------------------------------


def mixed(dtype: torch.dtype, device: str, layout=contiguous) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((3, 19, 5, 7), (19,), (19,)))
    return layout(x.to(device, dtype)).requires_grad_(), *(t.to(device).requires_grad_() for t in (weight, bias))


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("training", [False, True], ids=["affine", "batch_norm"])
@each_half
def test_float32_parameters_beside_a_half_type(dtype, training, layout, device):
    inputs = mixed(dtype, device, layout)

    def run(package, x, weight, bias):
        if training:
            return package.batch_norm_mish(x, None, None, weight, bias, training=True)
        return package.affine_mish(x, weight, bias)

    wide = tuple(t.detach().double().requires_grad_() for t in inputs)
    expected = run(reference, *wide)
    actual = run(fastops, *inputs)
    assert actual.dtype == dtype
    assert_accurate(actual.detach(), expected.detach(), pointwise=False)
    grad = upstream(actual)
    pairs = zip(
        torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, wide, grad.double()), strict=True
    )
    for (a, e), like in zip(pairs, inputs, strict=True):
        assert a.dtype == like.dtype
        assert_accurate(a, e, pointwise=False)


@each_half
def test_fake_kernels_tell_the_dtype_of_the_parameters(dtype):
    inputs = mixed(dtype, "cpu")
    torch.library.opcheck(ops.affine_mish.default, inputs)
    torch.library.opcheck(ops.batch_norm_mish.default, (*inputs, 1e-5))


def test_autocast_keeps_the_dtypes_of_a_network(device):
    """Half precision from the convolution, parameters and statistics in float32."""
    x, weight, bias = mixed(torch.bfloat16, device)
    mean, variance = torch.zeros(19, device=device), torch.ones(19, device=device)
    with torch.autocast(device, torch.bfloat16):
        assert fastops.affine_mish(x, weight, bias).dtype == torch.bfloat16
        y = fastops.batch_norm_mish(x, mean, variance, weight, bias, training=True)
    assert y.dtype == torch.bfloat16 and mean.dtype == torch.float32 and mean.any()


# ---- statistics ------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("first", [1e3, 0.0, 1e6], ids=["alike", "zero_first", "outlier_first"])
def test_a_large_mean_costs_no_digits(first, layout, device):
    """Mean 1000, standard deviation 1 in float32: sums of x and x^2 would lose the variance."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 17, 31, 33, generator=generator) + 1e3
    x[0, :, 0, 0] = first
    x = layout(x.to(device))
    y, stats = ops.batch_norm_mish(x, None, None, 1e-5)
    dims = (0, 2, 3)
    expected = torch.stack((x.double().mean(dims), torch.rsqrt(x.double().var(dims, correction=0) + 1e-5),
                            x.double().var(dims)))  # fmt: skip
    torch.testing.assert_close(stats, expected, rtol=3e-6, atol=0)
    wide = x.double().requires_grad_()
    exact = reference.batch_norm_mish(wide, None, None, training=True)
    assert relative(y, exact.detach()) < 1e-6
    grad = upstream(y)
    (expected,) = torch.autograd.grad(exact, wide, grad.double())
    actual, *_ = ops.batch_norm_mish_backward(grad, x, stats, None, None)
    assert relative(actual, expected) < 2e-6


def test_a_constant_channel(device):
    """Variance 0: the result is mish(bias), and the gradient of x is a batch norm's with 1 / sqrt(eps)."""
    x = torch.tensor([7.1, -1000.3, 0.1], device=device)[:, None, None].expand(2, 3, 31, 33).contiguous()
    bias = torch.tensor([-1.0, 0.0, 2.0], device=device)
    y, stats = ops.batch_norm_mish(x, None, bias, 1e-5)
    expected = reference.mish(bias.double())[:, None, None].expand(x.shape)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats[1:], torch.tensor([[1e-5**-0.5] * 3, [0.0] * 3], device=device).double())
    assert (stats[2] >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_equals_torch(affine, dtype, device):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 6, 5, 7, generator=generator) * 3 + 2).to(device, dtype)
    weight, bias = (torch.rand(2, 6, generator=generator) + 0.5).to(device, dtype) if affine else (None, None)
    running = [torch.rand(6, generator=generator).to(device, dtype).add_(0.5) for _ in range(2)]
    ours, theirs = [t.clone() for t in running], [t.clone() for t in running]
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 4 * torch.finfo(dtype).eps)
    for training in (True, False):
        actual = fastops.batch_norm_mish(x, *ours, weight, bias, training, 0.3, 1e-3)
        expected = F.mish(F.batch_norm(x, *theirs, weight, bias, training, 0.3, 1e-3))
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=4 * tolerance)
        for a, e in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)
    again = [t.clone() for t in running]
    reference.batch_norm_mish(x, *again, weight, bias, True, 0.3, 1e-3)
    for a, e in zip(ours, again, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


def test_eval_has_gradients_of_x_and_parameters(device):
    x, weight, bias = (t.detach().double().requires_grad_() for t in mixed(torch.float16, device))
    mean, variance = torch.randn(19, device=device).double(), torch.rand(19, device=device).double() + 0.5

    def run(x, weight, bias):
        return fastops.batch_norm_mish(x[:1, :, :2, :2], mean, variance, weight, bias)

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(run, (x, weight, bias), fast_mode=True)


def test_running_statistics_of_an_empty_batch_stay(device):
    mean, variance = torch.ones(3, device=device), torch.ones(3, device=device)
    y = fastops.batch_norm_mish(torch.ones(0, 3, 2, 2, device=device), mean, variance, training=True)
    assert y.shape == (0, 3, 2, 2)
    assert torch.equal(mean, torch.ones_like(mean)) and torch.equal(variance, torch.ones_like(variance))


def test_saves_nothing_of_the_inputs_size_but_the_input(device):
    x, weight, bias = (t.detach().float().requires_grad_() for t in mixed(torch.float16, device))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fastops.batch_norm_mish(x, None, None, weight, bias, training=True)
    assert {t.data_ptr() for t in saved} >= {t.data_ptr() for t in (x, weight, bias)}
    assert sum(t.numel() for t in saved) == x.numel() + (1 + 1 + 3) * 19


@pytest.mark.parametrize("layout, kept", [(contiguous, False), (channels_last, True), (transposed, False)])
@pytest.mark.parametrize("training", [False, True], ids=["affine", "batch_norm"])
def test_memory_format(training, layout, kept, device):
    x = layout(torch.randn(2, 5, 3, 7, device=device)).requires_grad_()
    weight, bias = torch.ones(5, device=device), torch.zeros(5, device=device)
    if training:
        y = fastops.batch_norm_mish(x, None, None, weight, bias, training=True)
    else:
        y = fastops.affine_mish(x, weight, bias)
    (grad_x,) = torch.autograd.grad(y, x, upstream(y))
    memory_format = torch.channels_last if kept else torch.contiguous_format
    assert y.is_contiguous(memory_format=memory_format) and grad_x.is_contiguous(memory_format=memory_format)


# ---- modules ---------------------------------------------------------------------------------------------------

BATCH_NORMS = {
    "1d": (fastops.nn.BatchNormMish1d, nn.BatchNorm1d, (6, 5, 7)),
    "1d_no_length": (fastops.nn.BatchNormMish1d, nn.BatchNorm1d, (6, 5)),
    "2d": (fastops.nn.BatchNormMish2d, nn.BatchNorm2d, (3, 5, 4, 6)),
    "3d": (fastops.nn.BatchNormMish3d, nn.BatchNorm3d, (2, 5, 3, 4, 2)),
}
each_batch_norm = pytest.mark.parametrize("ours, theirs, shape", BATCH_NORMS.values(), ids=BATCH_NORMS)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine, tracked", list(itertools.product([True, False], repeat=2)))
@each_batch_norm
def test_batch_norm_modules_are_torchs(ours, theirs, shape, affine, tracked, momentum, device):
    settings = {"eps": 1e-3, "momentum": momentum, "affine": affine, "track_running_stats": tracked, "device": device}
    fused, plain = ours(5, **settings), theirs(5, **settings)
    assert isinstance(fused, theirs)
    if affine:
        nn.init.uniform_(plain.weight, 0.5, 1.5)
        nn.init.normal_(plain.bias)
    fused.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(0)
    for training in (True, True, False):
        x = (torch.randn(shape, generator=generator) + 1).to(device)
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        actual, expected = fused.train(training)(leaves[0]), F.mish(plain.train(training)(leaves[1]))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        grad = torch.randn(shape, generator=generator).to(device)
        for leaf, module, y in zip(leaves, (fused, plain), (actual, expected), strict=True):
            module.zero_grad()
            y.backward(grad)
            leaf.grad *= 1
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-5)
        for a, e in zip(fused.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad, e.grad, rtol=1e-5, atol=1e-5)
        assert fused.state_dict().keys() == plain.state_dict().keys()
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(fused.state_dict()[key], value, rtol=1e-6, atol=1e-6)


def test_frozen_statistics_are_used_in_training_of_a_module_without_tracking(device):
    """A module whose buffers were loaded and whose track_running_stats was switched off afterwards."""
    module = fastops.nn.BatchNormMish2d(3, device=device)
    module.track_running_stats = False
    x = torch.randn(2, 3, 4, 4, device=device) + 5
    torch.testing.assert_close(module(x), F.mish(F.batch_norm(x, None, None, training=True)), rtol=1e-5, atol=1e-6)
    assert not module.running_mean.any()
    torch.testing.assert_close(module.eval()(x), F.mish(x / (1 + 1e-5) ** 0.5), rtol=1e-5, atol=1e-6)


def test_affine_mish_module(device):
    module = fastops.nn.AffineMish(3, device=device)
    x = torch.randn(2, 3, 4, device=device)
    assert torch.equal(module(x), fastops.affine_mish(x, module.weight, module.bias))
    assert {name: tuple(t.shape) for name, t in module.state_dict().items()} == {"weight": (3,), "bias": (3,)}
    assert repr(module) == "AffineMish(3)"
    with pytest.raises(ValueError, match="^AffineMish: channels must be at least 1, got 0$"):
        fastops.nn.AffineMish(0)


# ---- errors ----------------------------------------------------------------------------------------------------

FLOATING = "must have dtype float32, float64, float16 or bfloat16, got"
x = torch.zeros(2, 3, 4, 4)
weight, bias = torch.ones(3), torch.zeros(3)
stats = torch.ones(3, 3, dtype=torch.float64)

ERRORS = {
    "dtype": ((x.int(), weight, bias), f"x {FLOATING} int32"),
    "dims": ((x[0, 0, 0], weight, bias), "x must have at least 2 dimensions [N, C, ...], got [4]"),
    "weight_dtype": ((x, weight.half(), bias), "weight must have the dtype of x (float32), got float16"),
    "weight_dtype_of_half": (
        (x.half(), weight.double(), bias),
        "weight must have the dtype of x (float16) or float32, got float64",
    ),
    "weight_shape": ((x, torch.ones(4), bias), "weight must have shape [C] = [3], got [4]"),
    "weight_dims": ((x, torch.ones(1, 3), bias), "weight must have shape [C] = [3], got [1, 3]"),
    "weight_device": ((x, weight.to("meta"), bias), "weight must be on the device of x (cpu), got meta"),
    "bias_dtype": ((x, weight, bias.double()), "bias must have the dtype of x (float32), got float64"),
    "bias_dtype_of_half": (
        (x.half(), weight, bias.half()),
        "bias must have the dtype of weight (float32), got float16",
    ),
    "bias_shape": ((x, weight, torch.ones(2)), "bias must have shape [C] = [3], got [2]"),
    "bias_device": ((x, weight, bias.to("meta")), "bias must be on the device of x (cpu), got meta"),
}
GRAD_ERRORS = {
    "dtype": (x.double(), "must have the dtype of x (float32), got float64"),
    "shape": (x[:1], "must have the shape of x [2, 3, 4, 4], got [1, 3, 4, 4]"),
    "device": (x.to("meta"), "must be on the device of x (cpu), got meta"),
}
STATS_ERRORS = {
    "dtype": (stats.float(), "must have dtype float64, got float32"),
    "shape": (stats[:2], "must have shape [3, C] = [3, 3], got [2, 3]"),
    "dims": (stats.flatten(), "must have shape [3, C] = [3, 3], got [9]"),
    "device": (stats.to("meta"), "must be on the device of x (cpu), got meta"),
}
RUNNING_ERRORS = {
    "missing": ((None, None), "running_mean must be a tensor unless training, got None"),
    "one": ((weight, None), "running_mean and running_var must be given together"),
    "shape": ((weight, torch.ones(4)), "running_var must have shape [C] = [3], got [4]"),
    "dtype": ((weight.int(), weight), f"running_mean {FLOATING} int32"),
    "device": ((weight, weight.to("meta")), "running_var must be on the device of x (cpu), got meta"),
}


def errors(table: dict):
    return pytest.mark.parametrize("args, message", table.values(), ids=table)


@errors(ERRORS)
def test_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.affine_mish, args, f"affine_mish: {message}")
    raises_everywhere(ops.affine_mish_backward, (args[0], *args), f"affine_mish_backward: {message}")
    raises_everywhere(ops.batch_norm_mish, (*args, 1e-5), f"batch_norm_mish: {message}")
    backward = (args[0], args[0], stats, *args[1:])
    raises_everywhere(ops.batch_norm_mish_backward, backward, f"batch_norm_mish_backward: {message}")


@errors(GRAD_ERRORS)
def test_grad_errors(args, message, raises_everywhere):
    raises_everywhere(ops.affine_mish_backward, (args, x, weight, bias), f"affine_mish_backward: grad {message}")
    backward = (args, x, stats, weight, bias)
    raises_everywhere(ops.batch_norm_mish_backward, backward, f"batch_norm_mish_backward: grad {message}")


@errors(STATS_ERRORS)
def test_stats_errors(args, message, raises_everywhere):
    raises_everywhere(
        ops.batch_norm_mish_backward, (x, x, args, None, None), f"batch_norm_mish_backward: stats {message}"
    )


@errors(RUNNING_ERRORS)
def test_running_statistics_errors(args, message, raises_everywhere):
    raises_everywhere(fastops.batch_norm_mish, (x, *args), f"batch_norm_mish: {message}")


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_channel_is_an_error_in_training(shape, raises_everywhere):
    message = f"x must have more than one value per channel in training, got {list(shape)}"
    values = torch.zeros(shape)
    raises_everywhere(ops.batch_norm_mish, (values, None, None, 1e-5), f"batch_norm_mish: {message}")
    backward = (values, values, stats, None, None)
    raises_everywhere(ops.batch_norm_mish_backward, backward, f"batch_norm_mish_backward: {message}")
    assert fastops.batch_norm_mish(values, bias, weight).shape == shape  # eval has statistics
