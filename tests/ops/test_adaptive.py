"""Adaptive activations: the plain activations as special cases, tails, ties, non-finite values, long sums, layouts,
autocast, modules, errors."""

from __future__ import annotations

import math

import pytest
import torch

import fastops
from fastops import reference
from tests.support.op_samples import OPS
from tests.support.op_table import channels_last, contiguous, expected_gradients, requiring_grad, transposed, upstream

INF, NAN = math.inf, math.nan
KINDS = ("sigmoid", "tanh", "relu")

ops = torch.ops.fastops
each_kind = pytest.mark.parametrize("kind", KINDS)


def forward(kind: str, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    return getattr(fastops, f"adaptive_{kind}")(x, *parameters)


def backward(kind: str, grad: torch.Tensor, x: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return getattr(ops, f"adaptive_{kind}_backward")(grad, x, *parameters)


def parameters_like(x: torch.Tensor, values: tuple[float, ...], shape: tuple[int, ...] = ()) -> list[torch.Tensor]:
    return [x.new_full(shape, value) for value in values]


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_parameters", [1, 5])
@pytest.mark.parametrize(
    "module, plain",
    [
        (fastops.nn.ASigmoid, torch.sigmoid),
        (fastops.nn.ATanh, torch.tanh),
        (fastops.nn.AReLU, torch.relu),
        (lambda n, **kw: fastops.nn.AReLU(n, b=0.25, **kw), lambda x: torch.nn.functional.leaky_relu(x, 0.25)),
    ],
    ids=["sigmoid", "tanh", "relu", "prelu"],
)
def test_modules_start_as_the_plain_activations(module, plain, num_parameters, device):
    x = torch.randn(3, 5, 7, dtype=torch.float64, device=device)
    y = module(num_parameters, device=device, dtype=torch.float64)(x)
    torch.testing.assert_close(y, plain(x), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_tails_and_small_arguments_keep_their_relative_accuracy(kind, dtype, device):
    """Measured: at most 2.4 units in the last place for values, 2.8 for slopes."""
    # Up to where the slope would be subnormal.
    last = math.log(torch.finfo(dtype).tiny) / (-1 if kind == "sigmoid" else -2) - 1.5
    size = torch.cat((torch.logspace(-30, 0, 2001), torch.linspace(0, last, 4001))).double()
    x = torch.cat((size, -size)).to(device, dtype)[None]  # a channel for each, whose sums have one term
    u = x[0].double()
    if kind == "sigmoid":
        value, slope = torch.sigmoid(u), torch.sigmoid(u) * torch.sigmoid(-u)
    else:
        value, slope = torch.tanh(u), torch.cosh(u) ** -2
    parameters = parameters_like(x, (1.0, 1.0, 0.0, 0.0), u.shape)
    tolerance = {"rtol": 6 * torch.finfo(dtype).eps, "atol": 0.0}
    torch.testing.assert_close(forward(kind, x, *parameters)[0].double(), value, **tolerance)
    grad_x, grad_a, grad_b, grad_c, grad_d = backward(kind, torch.ones_like(x), x, *parameters)
    assert torch.equal(grad_d, torch.ones_like(grad_d))
    for actual, expected in ((grad_x[0], slope), (grad_c, slope), (grad_b, value)):
        torch.testing.assert_close(actual.double(), expected, **tolerance)
    torch.testing.assert_close(
        grad_a.double(), slope * u, rtol=8 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_beyond_the_range_of_exp_the_limits_are_exact(dtype, device):
    x = torch.tensor([-INF, -1e4, -800.0, 800.0, 1e4, INF], dtype=dtype, device=device)
    above = x > 0
    for kind, low in (("sigmoid", 0.0), ("tanh", -1.0)):
        parameters = parameters_like(x, (1.0, 3.0, 0.5, 0.25))
        assert torch.equal(forward(kind, x, *parameters), torch.where(above, 3.25, 3 * low + 0.25).to(dtype))
        grad_x = backward(kind, torch.ones_like(x), x, *parameters)[0]
        assert torch.equal(grad_x, torch.zeros_like(x))


SPECIAL = [-INF, -2.0, -0.0, 0.0, 1.0, 3.0, INF, NAN]


@each_kind
@pytest.mark.parametrize(
    "values", [(1.0, 0.5, 0.0, 0.5), (INF, 1.0, 0.0, 0.0), (2.0, NAN, 1.0, 0.0), (0.0, 1.0, NAN, 1.0)]
)
def test_infinities_nan_and_ties_as_torch_has_them(kind, values, device):
    """Each value has its own channel, so each gradient is tested alone. (1.0, 0.5, 0.0, 0.5): relu bends at 1."""
    x = torch.tensor(SPECIAL, device=device)[None].requires_grad_()
    leaves = [x, *(p.requires_grad_() for p in parameters_like(x, values, (len(SPECIAL),)))]
    expected = getattr(reference, f"adaptive_{kind}")(*leaves)
    actual = forward(kind, *leaves)
    grad = torch.full_like(x, 2.0)
    torch.testing.assert_close(actual, expected, equal_nan=True)
    pairs = zip(torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True)
    for a, e in pairs:
        torch.testing.assert_close(a, e, equal_nan=True)


def test_ties_of_relu_go_to_the_first_line(device):
    x = torch.tensor([-1.0, 1.0, 3.0], device=device)
    parameters = parameters_like(x, (1.0, 0.5, 0.0, 0.5))  # x and (x + 1) / 2
    grad_x, *grads = backward("relu", torch.tensor([1.0, 8.0, 1.0], device=device), x, *parameters)
    assert grad_x.tolist() == [0.5, 8.0, 1.0]
    assert [g.item() for g in grads] == [8 + 3, -1, 8 + 1, 1]


def test_lines_that_start_equal_part(device):
    """The paper's start, a = b = 1: halved ties would keep AReLU linear."""
    torch.manual_seed(0)
    module = fastops.nn.AReLU(init="paper", device=device)
    assert [p.item() for p in module.parameters()] == [1.0, 1.0, 0.0, 0.0]
    x = torch.randn(64, device=device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (module(x) - x.abs()).square().mean().backward()
        optimizer.step()
    assert abs(module.a.item() - module.b.item()) > 1.5
    assert (module(x) - x.abs()).square().mean() < 1e-2


@each_kind
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("num_parameters", [1, 2])
def test_long_sums_of_equal_terms(kind, layout, num_parameters, device):
    """One running float32 sum of 2^17 times 0.3 is off by 1e-3."""
    x = layout(torch.full((1, 2, 256, 512), 0.7, device=device))
    parameters = parameters_like(x, (1.1, 0.9, 0.1, -0.2), (num_parameters,))
    leaves = [t.double().requires_grad_() for t in (x[:, :, :1, :1], *parameters)]
    y = getattr(reference, f"adaptive_{kind}")(*leaves)
    expected = torch.autograd.grad(y, leaves[1:], torch.full_like(y, 0.3))
    actual = backward(kind, torch.full_like(x, 0.3), x, *parameters)[1:]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e * 2**17, rtol=4e-7, atol=0)


@each_kind
def test_no_values_have_no_gradient(kind, device):
    """A sum of nothing is 0, not NaN, for all parameters."""
    x = torch.empty(0, 3, 2, device=device)
    for grad in backward(kind, x, x, *parameters_like(x, (1.0, NAN, 1.0, 1.0), (3,)))[1:]:
        assert torch.equal(grad, torch.zeros(3, device=device))


# ---- layouts, vmap, autocast ---------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("num_parameters", [1, 3])
@pytest.mark.parametrize(
    "layout",
    [
        contiguous,
        channels_last,
        transposed,
        lambda t: t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),  # channels innermost, batch within
        lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),  # channels outermost
    ],
    ids=["contiguous", "channels_last", "transposed", "permuted", "channels_first"],
)
def test_dense_layouts_are_kept(kind, num_parameters, layout, device):
    row = OPS[f"adaptive_{kind}"]
    x, *parameters = row.make("four_dims", torch.float64, device)
    x, parameters = x[:, :3], [p[:num_parameters] for p in parameters]
    arranged = layout(x)
    y = forward(kind, arranged, *parameters)
    assert y.stride() == arranged.stride()
    torch.testing.assert_close(y, row.reference(x, *parameters), rtol=1e-14, atol=1e-14)
    grad = upstream(y)
    inputs = requiring_grad(row, (arranged, *parameters))
    grads = torch.autograd.grad(row.op(*inputs), inputs, grad)
    assert grads[0].stride() == arranged.stride()
    for actual, expected in zip(grads, expected_gradients(row, (x, *parameters), grad), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


@each_kind
@pytest.mark.parametrize(
    "in_dims", [(0, None, None, None, None), (1, 0, 0, 0, 0), (None, 0, None, -1, 0)], ids=["x", "all", "parameters"]
)
def test_vmap_of_parameters_per_layer(kind, in_dims, device):
    batches = [OPS[f"adaptive_{kind}"].make("layer_odd", torch.float32, device, seed) for seed in range(3)]
    inputs = [batches[0][i] if d is None else torch.stack([b[i] for b in batches], d) for i, d in enumerate(in_dims)]
    actual = torch.vmap(lambda *args: forward(kind, *args), in_dims)(*inputs)
    alone = [forward(kind, *(batches[0][i] if d is None else b[i] for i, d in enumerate(in_dims))) for b in batches]
    assert torch.equal(actual, torch.stack(alone))


@each_kind
def test_autocast_casts_the_parameters(kind, device):
    """Autocast lowers the activations of a network, not its parameters."""
    inputs = list(
        requiring_grad(OPS[f"adaptive_{kind}"], OPS[f"adaptive_{kind}"].make("four_dims", torch.float32, device))
    )
    inputs[0] = inputs[0].detach().bfloat16().requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        y = forward(kind, *inputs)
    expected = forward(kind, *(t.bfloat16() for t in inputs))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    grad = upstream(y)
    grads = torch.autograd.grad(y, inputs, grad)
    assert [g.dtype for g in grads] == [torch.bfloat16] + [torch.float32] * 4
    for a, e in zip(grads, torch.autograd.grad(expected, inputs, grad), strict=True):
        assert torch.equal(a, e)


# ---- modules -------------------------------------------------------------------------------------------------

MODULES = {"sigmoid": fastops.nn.ASigmoid, "tanh": fastops.nn.ATanh, "relu": fastops.nn.AReLU}
STARTS = {"sigmoid": [1.0, 1.0, 0.0, 0.0], "tanh": [1.0, 1.0, 0.0, 0.0], "relu": [1.0, 0.0, 0.0, 0.0]}


@each_kind
@pytest.mark.parametrize("num_parameters", [1, 4])
def test_module(kind, num_parameters, device):
    module = MODULES[kind](num_parameters, a=1.5, b=0.5, c=-0.25, d=0.125, device=device)
    parameters = dict(module.named_parameters())
    assert list(parameters) == ["a", "b", "c", "d"]
    assert all(p.shape == (num_parameters,) for p in parameters.values())
    assert [p[0].item() for p in parameters.values()] == [1.5, 0.5, -0.25, 0.125]
    x = torch.randn(2, 4, 3, device=device)
    assert torch.equal(module(x), forward(kind, x, *parameters.values()))
    module(x).sum().backward()
    assert all(p.grad.any() for p in parameters.values())
    with torch.no_grad():
        module.a.zero_()
    module.reset_parameters()
    assert module.a.eq(1.5).all()
    assert repr(module) == f"{MODULES[kind].__name__}(num_parameters={num_parameters})"


@each_kind
def test_module_defaults(kind):
    module = MODULES[kind](dtype=torch.float64)
    assert [p.item() for p in module.parameters()] == STARTS[kind]
    assert {p.dtype for p in module.parameters()} == {torch.float64}


@each_kind
@pytest.mark.parametrize("num_parameters", [0, -2])
def test_module_errors(kind, num_parameters):
    name = MODULES[kind].__name__
    with pytest.raises(ValueError, match=f"^{name}: num_parameters must be at least 1, got {num_parameters}$"):
        MODULES[kind](num_parameters)


# ---- errors --------------------------------------------------------------------------------------------------

x = torch.zeros(2, 3, 4)
p = torch.zeros(3)
ERRORS = {
    "dtype": (
        (x.int(), *[p.int()] * 4),
        "x must have dtype float32, float64, float16 or bfloat16, got int32",
    ),
    "a_dtype": ((x, p.half(), p, p, p), "a must have the dtype of x (float32), got float16"),
    "a_device": ((x, p.to("meta"), p, p, p), "a must be on the device of x (cpu), got meta"),
    "a_size": ((x, *[torch.zeros(4)] * 4), "a must have one element or shape [C] = [3], got [4]"),
    "a_dims": ((x, *[torch.zeros(3, 1)] * 4), "a must have one element or shape [C] = [3], got [3, 1]"),
    "a_empty": ((x, *[torch.zeros(0)] * 4), "a must have one element or shape [C] = [3], got [0]"),
    "no_channels": ((x[0, 0], *[p] * 4), "a must have one element where x has fewer than 2 dimensions, got [3]"),
    "b_dtype": ((x, p, p.double(), p, p), "b must have the dtype of x (float32), got float64"),
    "b_shape": ((x, p, p[:1], p, p), "b must have the shape of a [3], got [1]"),
    "c_shape": ((x, p, p, p[0], p), "c must have the shape of a [3], got []"),
    "c_device": ((x, p, p, p.to("meta"), p), "c must be on the device of x (cpu), got meta"),
    "d_shape": ((x, p[:1], p[:1], p[:1], p), "d must have the shape of a [1], got [3]"),
    "d_dtype": ((x, p, p, p, p.bfloat16()), "d must have the dtype of x (float32), got bfloat16"),
}
GRAD_ERRORS = {
    "dtype": (x.double(), "must have the dtype of x (float32), got float64"),
    "shape": (x[:1], "must have the shape of x [2, 3, 4], got [1, 3, 4]"),
    "device": (x.to("meta"), "must be on the device of x (cpu), got meta"),
}


@each_kind
@pytest.mark.parametrize("args, message", ERRORS.values(), ids=ERRORS)
def test_errors(kind, args, message, raises_everywhere):
    name = f"adaptive_{kind}"
    raises_everywhere(getattr(fastops, name), args, f"{name}: {message}")
    raises_everywhere(getattr(ops, f"{name}_backward"), (args[0], *args), f"{name}_backward: {message}")


@each_kind
@pytest.mark.parametrize("grad, message", GRAD_ERRORS.values(), ids=GRAD_ERRORS)
def test_grad_errors(kind, grad, message, raises_everywhere):
    name = f"adaptive_{kind}_backward"
    raises_everywhere(getattr(ops, name), (grad, x, *[p] * 4), f"{name}: grad {message}")
