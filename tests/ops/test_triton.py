"""The Triton implementations against the float64 reference, on a GPU or else in Triton's interpreter."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastops
from fastops import reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read while triton is imported
triton = pytest.importorskip("triton", reason="the triton package is not installed")
if DEVICE == "cpu":
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sigmoid, InterpretedFunction):
        pytest.skip("no GPU, and triton was imported without its interpreter before", allow_module_level=True)

import fastops.triton  # noqa: E402

if fastops.load_error is None:
    from fastops._backends import implementation
    from tests.support.op_samples import cases
    from tests.support.op_table import expected_gradients, upstream, wide

    reference_impl = partial(implementation, "reference")

    SAMPLES = [(row, sample) for row, sample in cases() if not row.around_schema]
else:  # the twins run without the library, which defines the schemas that the fake kernels belong to
    SAMPLES = []

OPS = {
    name: op
    for stem in sorted(path.stem for path in Path(fastops.triton.__file__).parent.glob("[!_]*.py"))
    for name, op in importlib.import_module(f"fastops.triton.{stem}").OPS.items()
}
# Of the relative L2 error. A parameter's gradient is a sum whose terms cancel: with one channel alone it is off by 3e-6
# in float32. The interpreter truncates to bfloat16 where a GPU rounds: a value is off by up to 2^-7.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 5e-4, torch.bfloat16: 8e-3}
DTYPES = list(TOLERANCE)

# The interpreter is numpy, which warns where sigmoid(-large) rightly passes through inf.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


def make(shapes, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if len(tensors) == 5:  # se_attention: weights of a size that does not saturate the sigmoid
        tensors = [t / t.shape[1] ** 0.5 if t.dim() == 2 else t for t in tensors]
    return [t.to(DEVICE, dtype) for t in tensors]


def assert_close(actual, expected, dtype):
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    error = (actual.double() - expected).norm() / expected.norm().clamp_min(1e-300)
    assert error <= TOLERANCE[dtype], f"relative L2 error {error:.2e}"


def channels_last(t):
    return t.to(memory_format=torch.channels_last) if t.dim() == 4 else t


def sliced(t):
    return torch.stack((t, t), -1)[..., 0]


def transposed(t):
    """Dense, with the last two dimensions swapped in memory."""
    return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() > 1 else t


def one_expanded(grad):
    """As sum().backward() gives it."""
    return grad.new_full((), 0.7).expand(grad.shape)


def test_xcorr_scale_keeps_double_precision():
    z, x = make([(1, 2, 1, 1), (1, 2, 2, 2)], torch.float64)
    torch.testing.assert_close(OPS["xcorr"](z, x, 1e-3), reference.xcorr(z, x, 1e-3), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mish_tails(dtype):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-inf, -60000.0, -1000.0, 1000.0, 60000.0, inf, nan], dtype=dtype, device=DEVICE)
    y = OPS["mish"](x)
    torch.testing.assert_close(y[:6], torch.cat((torch.zeros_like(x[:3]), x[3:6])), rtol=0, atol=0)
    slope = OPS["mish_backward"](torch.ones_like(x), x)
    # one unit in the last place: see TOLERANCE
    torch.testing.assert_close(slope[:6].double().cpu().round(decimals=2), torch.tensor([0.0] * 3 + [1.0] * 3).double())
    assert y[6].isnan() and slope[6].isnan()


@pytest.mark.parametrize("arrange", [lambda t: t, channels_last, sliced, transposed, lambda t: t[:0]])
def test_mish_in_place(arrange):
    x = arrange(make([(2, 3, 4, 5)], torch.float32)[0])
    expected = reference.mish(x.double())
    before = x.data_ptr(), x.stride()
    assert OPS["mish_"](x) is None
    assert (x.data_ptr(), x.stride()) == before
    assert_close(x, expected, torch.float32)


def test_mish_in_place_leaves_the_rest_of_the_storage():
    base = make([(6, 7)], torch.float32)[0]
    before = base.clone()
    OPS["mish_"](base[1:5, ::2])
    outside = torch.ones_like(base, dtype=torch.bool)
    outside[1:5, ::2] = False
    assert torch.equal(base[outside], before[outside])
    assert_close(base[1:5, ::2], reference.mish(before[1:5, ::2].double()), torch.float32)


@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_box_loss_makes_only_wanted_gradients(wanted, dtype):
    row = next(row for row, _ in SAMPLES if row.schema == "box_loss")
    *args, _, _ = row.schema_args(row.make("mean", dtype, DEVICE))
    loss, divisor, *both = OPS["box_loss"](*args, True, True)
    results = OPS["box_loss"](*args, *wanted)
    expected = [loss, divisor, *(grad for grad, is_wanted in zip(both, wanted, strict=True) if is_wanted)]
    for actual, e in zip(results, expected if any(wanted) else [loss], strict=True):
        assert torch.equal(actual, e) and actual.dtype == e.dtype


def test_se_scale_gradient_of_saturated_logits():
    """sigmoid' = e^-40 must not cancel to 0."""
    x, grad = make([(1, 2, 3), (1, 2, 3)], torch.float32)
    logits = torch.tensor([[40.0, -40.0]], device=DEVICE)
    _, actual = OPS["se_scale_backward"](grad, x, logits)
    slope = torch.sigmoid(logits.double()) * torch.sigmoid(-logits.double())
    torch.testing.assert_close(actual.double(), (grad.double() * x.double()).sum(2) * slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_adaptive_tails_and_zero(kind, dtype, rtol):
    """Values and slopes keep their relative accuracy; in bounds where the square of the double's value is a number."""
    size = torch.logspace(-12, 1.5, 55, dtype=torch.float64)
    x = torch.cat((size, -size)).to(DEVICE, dtype)[None]  # a channel for each value
    one, zero = torch.ones_like(x[0]), torch.zeros_like(x[0])
    u = x.double()
    value = torch.sigmoid(u) if kind == "sigmoid" else torch.tanh(u)
    slope = torch.sigmoid(u) * torch.sigmoid(-u) if kind == "sigmoid" else torch.cosh(u) ** -2
    parameters = one, one, zero, zero
    actual = OPS[f"adaptive_{kind}"](x, *parameters)
    torch.testing.assert_close(actual.double(), value, rtol=rtol, atol=0)
    grad_x, grad_a, grad_b, grad_c, grad_d = OPS[f"adaptive_{kind}_backward"](one[None], x, *parameters)
    for a, e in ((grad_x[0], slope), (grad_a, slope * u), (grad_b, value), (grad_c, slope), (grad_d, one[None])):
        torch.testing.assert_close(a.double(), e[0].double(), rtol=rtol, atol=0)


def test_adaptive_infinities_and_nan():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-inf, inf, nan], device=DEVICE)
    parameters = [torch.tensor(v, device=DEVICE) for v in (1.0, 2.0, 0.5, 0.25)]
    for kind, expected in (("sigmoid", [0.25, 2.25, nan]), ("tanh", [-1.75, 2.25, nan]), ("relu", [-inf, inf, nan])):
        y = OPS[f"adaptive_{kind}"](x, *parameters).cpu()
        torch.testing.assert_close(y, torch.tensor(expected), rtol=0, atol=0, equal_nan=True)


def facts(result):
    """Dtype, shape and strides of a result, or of each of several."""
    return [(t.dtype, t.shape, t.stride()) for t in (result if isinstance(result, tuple | list) else (result,))]


def as_planned(name, args):
    """What the fake kernel of the schema tells torch.compile of its results."""
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in args]
        return facts(getattr(torch.ops.fastops, name).default(*args))


def check_facts(find, row, inputs, grads):
    """The implementation `find(name)` of an op and of its backward, with gradients arranged by each of `grads`."""
    args = row.schema_args(inputs)
    result = find(row.schema)(*args)
    assert facts(result) == as_planned(row.schema, args)
    if row.backward_arity is None:
        return
    name = f"{row.schema}_backward"
    for arrange in grads:
        first = result[0] if isinstance(result, tuple) else result
        args = row.backward_args(arrange(upstream(first)), inputs)
        assert facts(find(name)(*args)) == as_planned(name, args)


# Samples that are large for the interpreter and whose shapes others have.
LARGE = (
    *("threads", "threads_channels_last", "bands", "bands_channels_last"),
    *("pieces", "pieces_each", "channels_last_pieces", "weighted_pieces", "live_weighted_pieces"),
    *("large", "large_none", "centers_large", "siamfc", "sliced_threads"),
)


@pytest.mark.parametrize("first", [1e3, 0.0, 1e6], ids=["alike", "zero_first", "outlier_first"])
def test_batch_norm_with_a_large_mean(first):
    x = torch.randn(2, 3, 41, 53, generator=torch.Generator().manual_seed(0)) + 1e3
    x[0, :, 0, 0] = first
    x = x.to(DEVICE)
    y, stats = OPS["batch_norm_mish"](x, None, None, 1e-5)
    torch.testing.assert_close(stats[2], x.double().var((0, 2, 3)), rtol=1e-6, atol=0)
    expected = reference.batch_norm_mish(x.double(), None, None, training=True)
    assert (y - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize(
    "row, sample, dtype",
    [
        pytest.param(row, sample, dtype, id=f"{row.name}-{sample}-{dtype}")
        for row, sample in SAMPLES
        for dtype in DTYPES
        if sample not in LARGE and (dtype == torch.float32 or sample in row.core)
    ],
)
def test_samples(row, sample, dtype):
    """Forward and backward of the table's samples, of the Triton and of the reference implementation."""
    inputs = row.make(sample, dtype, DEVICE)
    expected = row.reference(*wide(row, inputs)).detach()
    grad = upstream(expected).to(dtype)
    gradients = expected_gradients(row, inputs, grad)
    present = [i for i in row.differentiable if inputs[i] is not None]
    for find in (OPS.__getitem__, reference_impl):
        result, actual = row.forward_and_gradients(find, inputs, grad)
        assert_close(result, expected, dtype)
        for i, e in zip(present, gradients, strict=True):
            if i < len(actual):  # the gradient of xcorr's bias is a sum that autograd takes
                assert_close(actual[i], e, dtype)


@pytest.mark.parametrize("window", [([1, 1], [1, 1]), ([3, 2], [2, 1])], ids=["values", "windows"])
@pytest.mark.parametrize("activation", ["none", "relu", "mish"])
def test_bias_activation_gives_float32(activation, window):
    x, bias = make([(2, 5, 7, 9), (5,)], torch.float16)
    expected = reference.bias_activation(x.double(), bias.double(), activation, *window)
    for find in (OPS.__getitem__, reference_impl):
        for layout in (channels_last, transposed):
            actual = find("bias_activation")(layout(x), bias, activation, *window, True)
            assert_close(actual, expected, torch.float32)


def each_sample(but=()):
    selected = [(row, sample) for row, sample in SAMPLES if sample not in but]
    return pytest.mark.parametrize("row, sample", selected, ids=[f"{row.name}-{sample}" for row, sample in selected])


# Without the samples that are large for the interpreter and whose layouts others have.
@each_sample(but=LARGE)
def test_twins_give_the_strides_of_the_fake_kernels(row, sample):
    check_facts(OPS.__getitem__, row, row.make(sample, torch.float32, DEVICE), [one_expanded])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_sample()
def test_the_reference_backend_gives_the_strides_of_the_fake_kernels(row, sample, dtype):
    grads = (lambda t: t, channels_last, sliced, transposed, one_expanded)
    check_facts(reference_impl, row, row.make(sample, dtype, DEVICE), grads)


def test_balanced_logistic_loss_of_extremes():
    inf, nan = float("inf"), float("nan")
    responses = torch.tensor([[-inf, inf, -inf], [1e4, -1e4, -1e4], [0.0, nan, 0.0]], device=DEVICE)[:, None]
    args = responses, 0.0, 8.0, "none", None
    losses = OPS["balanced_logistic_loss"](*args).cpu()
    torch.testing.assert_close(losses, torch.tensor([0.0, 0.75e4, nan]), equal_nan=True)
    grad = OPS["balanced_logistic_loss_backward"](torch.ones(3, device=DEVICE), *args)[:, 0].cpu()
    expected = torch.tensor([[0.0, -0.0, 0.0], [0.25, -0.5, 0.0], [0.125, nan, 0.125]])
    torch.testing.assert_close(grad, expected, equal_nan=True)


@pytest.mark.skipif(fastops.load_error is not None, reason=f"no native library: {fastops.load_error}")
@pytest.mark.parametrize("name", OPS)
def test_arguments_follow_the_schema(name):
    schema = getattr(torch.ops.fastops, name).default._schema
    parameters = inspect.signature(OPS[name]).parameters.values()
    assert [p.name for p in parameters] == [a.name for a in schema.arguments]
    assert [p.default for p in parameters if p.default is not p.empty] == [
        a.default_value for a in schema.arguments if a.has_default_value()
    ]


def test_import_fastops_does_not_import_triton():
    code = "import sys, fastops; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_triton_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(
        ImportError, match=r"fastops.triton: the triton package must be installed \(pip install triton\)"
    ):
        importlib.reload(fastops.triton)
