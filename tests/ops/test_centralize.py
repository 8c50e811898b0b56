"""Gradient centralization of lists of tensors, and what the optimizer steps do with one: values, layouts, errors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fastops
from fastops import reference
from fastops.reference.centralize import OPS as REFERENCE
from tests.support.op_table import DTYPES, Draw, assert_accurate, channels_last, contiguous, offset, sliced, transposed

ops = torch.ops.fastops
pytestmark = pytest.mark.kernels
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# name -> shape, number of the output channel (0: dim 0, g: dim 1 of g groups, -1: none), layout. Sizes straddle what
# the kernels work with: runs of 32, strips of 64, pieces of 4096 and 8192 and channels of 65536 values.
TENSORS = {
    "conv": ((5, 3, 3, 3), 0, contiguous),
    "conv1d": ((4, 6, 5), 0, contiguous),
    "linear": ((7, 33), 0, contiguous),
    "one_channel": ((1, 129), 0, contiguous),
    "one_value_channels": ((9, 1, 1), 0, contiguous),
    "one_value": ((1, 1), 0, contiguous),
    "depthwise": ((70, 1, 3, 3), 0, contiguous),
    "warp_plus_1": ((3, 1025), 0, contiguous),
    "block_plus_1": ((3, 2049), 0, contiguous),
    "long": ((2, 65_539), 0, contiguous),
    "channels_last": ((6, 5, 3, 3), 0, channels_last),
    "channels_last_3d": ((3, 5, 2, 3, 2), 0, channels_last),
    "within": ((4, 5, 3), 0, transposed),
    "columns": ((65, 37), 0, transposed),
    "tall_columns": ((3, 1500), 0, transposed),
    "sliced": ((4, 9, 3), 0, sliced),
    "offset": ((5, 37), 0, offset),
    "transposed_conv": ((6, 5, 3, 3), 1, contiguous),
    "transposed_conv_k6": ((6, 5, 6, 6), 1, contiguous),
    "transposed_conv_channels_last": ((6, 35, 2, 2), 1, channels_last),
    "transposed_conv_groups": ((6, 4, 3, 3), 3, contiguous),
    "transposed_conv_groups_channels_last": ((6, 70, 2, 1), 2, channels_last),
    "transposed_conv_depthwise": ((6, 1, 3, 3), 6, contiguous),
    "transposed_conv_one_output": ((6, 1, 4, 4), 1, contiguous),
    "transposed_conv_inner_groups": ((6, 4), 2, transposed),
    "transposed_linear": ((1300, 3), 1, contiguous),
    "bias": ((67,), -1, contiguous),
    "scalar": ((), -1, contiguous),
    "flat": ((8193,), -1, contiguous),
    "flat_sliced": ((33,), -1, sliced),
    "plain_conv": ((5, 3, 3, 3), -1, channels_last),
    "empty_channels": ((0, 3), 0, contiguous),
    "empty_inputs": ((3, 0, 3), 0, contiguous),
    "empty": ((0,), -1, contiguous),
}
SHORT = [name for name in TENSORS if name != "long"]
CENTRALIZED = {name: value for name, value in TENSORS.items() if value[1] >= 0}


def make(names, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[list[Tensor], list[int]]:
    draw = Draw(dtype, device, seed)
    return [draw(*TENSORS[n][0], layout=TENSORS[n][2]) for n in names], [TENSORS[n][1] for n in names]


def wide(tensors: list[Tensor]) -> list[Tensor]:
    return [t.double() for t in tensors]


# ---- values --------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("name", CENTRALIZED)
def test_centralize(name, dtype, device):
    (t,), channels = make([name], dtype, device)
    (expected,) = wide([t])
    REFERENCE["centralize_"]([expected], channels)
    ops.centralize_([t], channels)
    assert_accurate(t, expected, pointwise=False)


@each_dtype
def test_the_mean_of_every_output_channel_is_zero(dtype, device):
    """The reference itself, against a sum over the channel's values."""
    for name, (shape, groups, _) in CENTRALIZED.items():
        (t,), channels = make([name], dtype, device)
        ops.centralize_([t], channels)
        if t.numel() == 0:
            continue
        if groups > 1:
            weights = [w for part in t.double().chunk(groups) for w in part.unbind(1)]
        else:
            weights = t.double().unbind(groups)
        for w in weights:
            assert w.mean().abs() <= 4 * torch.finfo(dtype).eps, (name, shape)


def test_a_list_gives_what_its_tensors_give_alone(device):
    names = [*[name for name in SHORT if name in CENTRALIZED] * 4, "long"]  # more than any launch's table holds
    tensors, channels = make(names, torch.float32, device)
    alone = [t.clone() for t in tensors]  # of another alignment, too
    ops.centralize_(tensors, channels)
    for t, number in zip(alone, channels, strict=True):
        ops.centralize_([t], [number])
    for t, expected in zip(tensors, alone, strict=True):
        assert torch.equal(t, expected)


def test_sliced_tensors_leave_their_storage_alone(device):
    base = torch.full((4, 10), 3.0, device=device)
    ops.centralize_([base[:, ::2]], [0])
    assert torch.equal(base[:, 1::2], torch.full((4, 5), 3.0, device=device))
    assert not base[:, ::2].any()


def test_nan_stays_in_its_channel(device):
    t = torch.randn(3, 4, 5, device=device)
    t[1, 2, 3] = float("nan")
    ops.centralize_([t], [0])
    assert t[1].isnan().all() and t[::2].isfinite().all()


# ---- the optimizer steps, one of each on every tensor --------------------------------------------------------

SGD = {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.125, "nesterov": False, "maximize": False}
ADAMW = {"beta1": 0.875, "beta2": 0.99, "eps": 1e-3, "weight_decay": 0.125, "maximize": False}
STEPS = {
    "sgd": ("sgd_gc_step_", {**SGD, "momentum": 0.0}),
    "sgd_no_decay": ("sgd_gc_step_", {**SGD, "momentum": 0.0, "weight_decay": 0.0}),
    "sgd_momentum": ("sgd_gc_step_", SGD),
    "sgd_nesterov": ("sgd_gc_step_", {**SGD, "dampening": 0.0, "nesterov": True, "maximize": True}),
    "adamw": ("adamw_gc_step_", ADAMW),
    "adamw_amsgrad": ("adamw_gc_step_", {**ADAMW, "maximize": True}),
}


def step_lists(kind: str, names, dtype: torch.dtype, device: str) -> tuple[list, list[int]]:
    """The lists of tensors of a step, parameters first, and the numbers of their channels."""
    (params, channels), (grads, _), *states = (make(names, dtype, device, seed) for seed in range(5))
    states = [s for s, _ in states]
    if kind.startswith("sgd"):
        return [params, grads, states[0] if STEPS[kind][1]["momentum"] else []], channels
    for tensors in states[1:]:
        for t in tensors:
            t.abs_()
    steps = [torch.full((), float(i % 5), device=device) for i in range(len(names))]
    return [params, grads, *states[:2], states[2] if kind == "adamw_amsgrad" else [], steps], channels


def run_step(kind: str, lists: list, channels: list[int], backend=None, **options) -> None:
    name, arguments = STEPS[kind]
    op = getattr(ops, name) if backend is None else backend[name]
    op(*lists, channels, **{"lr": 0.25, **arguments, **options})


def check_step(kind: str, lists: list, channels: list[int], **options) -> None:
    """A step of the op against one of the reference in float64."""
    dtype = lists[0][0].dtype
    expected = [[t.double() if t.dtype == dtype else t.clone() for t in tensors] for tensors in lists]
    if kind.startswith("adamw"):
        expected[-1] = [t.clone() for t in lists[-1]]
    wide_options = {k: v.double() if isinstance(v, Tensor) and k == "lr_tensor" else v for k, v in options.items()}
    run_step(kind, expected, channels, REFERENCE, **wide_options)
    run_step(kind, lists, channels, **options)
    for tensors, wanted in zip(lists, expected, strict=True):
        for t, e in zip(tensors, wanted, strict=True):
            assert_accurate(t, e.double(), pointwise=False, what=f"of shape {list(t.shape)}")


@each_dtype
@pytest.mark.parametrize("kind", STEPS)
def test_step(kind, dtype, device):
    lists, channels = step_lists(kind, TENSORS, dtype, device)
    check_step(kind, lists, channels)


@pytest.mark.parametrize("kind", STEPS)
def test_gradients_and_states_of_another_layout(kind, device):
    """A contiguous weight with a channels_last gradient, and the other way round."""
    names = ["conv", "channels_last", "transposed_conv", "transposed_conv_channels_last"]
    lists, channels = step_lists(kind, names, torch.float32, device)
    for tensors in lists[1 : 5 if kind.startswith("adamw") else 3]:
        for i, t in enumerate(tensors):
            tensors[i] = t.contiguous() if i % 2 else channels_last(t)
    states = [t for tensors in lists for t in tensors]
    strides = [t.stride() for t in states]
    check_step(kind, lists, channels)
    assert [t.stride() for t in states] == strides


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("lr_dtype", [torch.float32, torch.float64], ids=str)
def test_scalars_as_tensors(kind, lr_dtype, device):
    lists, channels = step_lists(kind, SHORT, torch.float32, device)
    scalars = {
        "lr_tensor": torch.tensor([0.1], dtype=lr_dtype, device=device),
        "grad_scale": torch.tensor(1024.0, device=device),
        "found_inf": torch.tensor([0.0], device=device),
    }
    for grad in lists[1]:
        grad.mul_(1024)
    check_step(kind, lists, channels, lr=float("nan"), **scalars)


@pytest.mark.parametrize("kind", STEPS)
def test_found_inf_leaves_everything_as_it_was(kind, device):
    lists, channels = step_lists(kind, SHORT, torch.float32, device)
    before = [[t.clone() for t in tensors] for tensors in lists]
    for grad in lists[1]:
        grad.fill_(float("inf"))
    before[1] = lists[1]
    run_step(kind, lists, channels, found_inf=torch.tensor(2.0, device=device))
    for tensors, wanted in zip(lists, before, strict=True):
        assert all(torch.equal(t, e) for t, e in zip(tensors, wanted, strict=True))


@pytest.mark.parametrize("kind", STEPS)
def test_gradients_are_not_modified(kind, device):
    lists, channels = step_lists(kind, SHORT, torch.float32, device)
    before = [t.clone() for t in lists[1]]
    run_step(kind, lists, channels, grad_scale=torch.tensor(2.0, device=device))
    assert all(torch.equal(t, e) for t, e in zip(lists[1], before, strict=True))


@pytest.mark.parametrize("kind", ["centralize", "sgd_nesterov", "adamw_amsgrad"])
def test_runs_are_equal_bit_for_bit_whatever_the_threads(kind, device):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        if kind == "centralize":
            tensors, channels = make(CENTRALIZED, torch.float32, device)
            ops.centralize_(tensors, channels)
        else:
            lists, channels = step_lists(kind, TENSORS, torch.float32, device)
            run_step(kind, lists, channels)
            tensors = [t for tensors in lists for t in tensors]
        results.append(tensors)
    for tensors in results[1:]:
        assert all(torch.equal(t, e) for t, e in zip(tensors, results[0], strict=True))


# ---- centralize_gradients_ -----------------------------------------------------------------------------------


def with_gradients(module: nn.Module, device: str) -> nn.Module:
    draw = Draw(torch.float32)
    for p in module.to(device).parameters():
        p.grad = draw(*p.shape).to(p)
    return module


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 6, 2).half(),
        nn.Linear(5, 4),
    )


@pytest.mark.parametrize("conv_only", [False, True])
def test_gradients_of_a_module(conv_only, device):
    module, expected = with_gradients(network(), device), with_gradients(network(), device)
    fastops.centralize_gradients_(module, conv_only)
    reference.centralize_gradients_(expected, conv_only)
    for a, e in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a.grad, e.grad, rtol=2e-3 if a.dtype == torch.float16 else 1e-5, atol=1e-6)
    plain = with_gradients(network(), device)
    changed = [not torch.equal(a.grad, e.grad) for a, e in zip(module.parameters(), plain.parameters(), strict=True)]
    assert changed == [True, False, False, False, True, False, True, False, not conv_only, False]
    conv, _, grouped, up, _ = module
    assert conv.weight.grad.mean((1, 2, 3)).abs().max() < 1e-6
    assert grouped.weight.grad.unflatten(0, (2, 4)).mean((1, 3, 4)).abs().max() < 1e-6
    assert up.weight.grad.float().mean((0, 2, 3)).abs().max() < 1e-3


def test_transposed_as_module_mapping_and_iterable(device):
    expected = with_gradients(network(), device)
    fastops.centralize_gradients_(expected)
    for spelling in ("module", "mapping", "iterable"):
        module = with_gradients(network(), device)
        grouped, up = module[2].weight, module[3].weight
        if spelling == "iterable":  # of one group
            fastops.centralize_gradients_([up], transposed=iter([up]))
            fastops.centralize_gradients_(grouped, transposed={grouped: 2})
        else:
            transposed = module if spelling == "module" else {grouped: 2, up: 1}
            fastops.centralize_gradients_(module.parameters(), transposed=transposed)
        assert torch.equal(grouped.grad, expected[2].weight.grad)
        assert torch.equal(up.grad, expected[3].weight.grad)


def test_nothing_to_do(device):
    bias = torch.zeros(3, device=device, requires_grad=True)
    fastops.centralize_gradients_([])
    fastops.centralize_gradients_([bias, torch.zeros(3, 3, device=device, requires_grad=True)])
    bias.grad = torch.ones(3, device=device)
    fastops.centralize_gradients_(bias)
    assert bias.grad.all()


@pytest.mark.parametrize(
    "shape, groups", [((4, 1), 0), ((4, 1, 1), 0), ((6, 1, 1, 1), 0), ((1, 8, 1, 1), 1), ((4, 2, 1, 1), 4)], ids=str
)
def test_a_single_weight_per_channel_is_left_alone(shape, groups, device):
    """Its mean is the gradient itself: Linear(1, n), a layer scale, the g of weight_norm, a depthwise 1x1."""
    weight = torch.randn(shape, device=device, requires_grad=True)
    for where in (fastops, reference):
        weight.grad = torch.randn(shape, device=device)
        before = weight.grad.clone()
        where.centralize_gradients_([weight], transposed={weight: groups} if groups else ())
        assert torch.equal(weight.grad, before)
    wider = torch.randn(*shape, 2, device=device, requires_grad=True)
    wider.grad = torch.randn_like(wider)
    fastops.centralize_gradients_([wider], transposed={wider: groups} if groups else ())
    assert wider.grad.sum(-1).abs().max() < 1e-6


def test_as_a_hook_of_any_optimizer(device):
    module = with_gradients(nn.Conv2d(3, 4, 3), device)
    before = module.weight.detach().mean((1, 2, 3))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    optimizer.register_step_pre_hook(lambda *_: fastops.centralize_gradients_(module))
    optimizer.step()
    torch.testing.assert_close(module.weight.detach().mean((1, 2, 3)), before)


def test_a_graph_that_needs_the_old_values_notices(device):
    leaf = torch.randn(3, 4, device=device, requires_grad=True)
    saved = leaf.detach().exp().requires_grad_()
    loss = (saved * leaf).sum()
    holder = torch.zeros_like(leaf, requires_grad=True)
    holder.grad = saved.detach()  # shares its version counter
    fastops.centralize_gradients_([holder])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_with_a_graph(device):
    """As backward(create_graph=True) leaves them."""
    w = torch.randn(3, 4, device=device, requires_grad=True)
    (w**3).sum().backward(create_graph=True)
    fastops.centralize_gradients_([w])
    assert w.grad.mean(1).abs().max() < 1e-6


def test_sparse_gradients_are_an_error(device):
    w = torch.zeros(3, 4, device=device, requires_grad=True)
    w.grad = torch.eye(3, 4, device=device).to_sparse()
    message = r"centralize_gradients_: gradients must be dense, got torch.sparse_coo of shape \[3, 4\]"
    with pytest.raises(RuntimeError, match=message):
        fastops.centralize_gradients_([w])


# ---- what torch is told --------------------------------------------------------------------------------------

FEW = ["conv", "transposed_conv_groups_channels_last", "sliced", "empty_inputs"]


def test_opcheck_of_centralize(device):
    torch.library.opcheck(ops.centralize_.default, make(FEW, torch.float32, device))


@pytest.mark.parametrize("kind", STEPS)
def test_opcheck_of_steps(kind, device):
    lists, channels = step_lists(kind, [*FEW, "bias"], torch.float32, device)
    name, options = STEPS[kind]
    scalars = {"lr_tensor": torch.tensor(0.1, device=device), "found_inf": torch.tensor(0.0, device=device)}
    torch.library.opcheck(getattr(ops, name).default, (*lists, channels), {"lr": 0.1, **options, **scalars})


def test_compile(device):
    def centralized(a, b):
        a, b = a * 2, b + 1
        ops.centralize_([a, b], [0, 1])
        return a.square(), b

    torch._dynamo.reset()
    inputs = make(["conv", "transposed_conv"], torch.float32, device)[0]
    compiled = torch.compile(centralized, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(*inputs), centralized(*inputs), strict=True):
        assert torch.equal(actual, expected)


# ---- errors --------------------------------------------------------------------------------------------------

F32 = partial(torch.zeros, dtype=torch.float32)


@pytest.mark.parametrize(
    "tensors, channels, message",
    [
        ([F32(2, 3)], [0, 0], "channels must have a number for each of tensors (1), got 2"),
        ([F32(2, 3), F32(3)], [0, 0], "tensors[1] must have at least 2 dimensions to be centralized, got [3]"),
        ([F32(2, 3)], [-1], "channels[0] must be at least 0, got -1"),
        ([F32(2, 3)], [4], "channels[0] must divide the input channels (2), got 4"),
        (
            [F32(2, 3), F32(2, 3).double()],
            [0, 0],
            "tensors[1] must have the dtype of tensors[0] (float32), got float64",
        ),
        (
            [F32(2, 3).int()],
            [0],
            "tensors[0] must have dtype float32, float64, float16 or bfloat16, got int32",
        ),
        (
            [F32(2, 3), F32(2, 3).bool()],
            [0, 0],
            "tensors[1] must have dtype float32, float64, float16 or bfloat16, got bool",
        ),
        (
            [F32(2, 3), F32(2, 3, device="meta")],
            [0, 0],
            "tensors[1] must be on the device of tensors[0] (cpu), got meta",
        ),
    ],
)
def test_errors_of_centralize(tensors, channels, message, raises_everywhere):
    raises_everywhere(ops.centralize_, (tensors, channels), f"centralize_: {message}")


def sgd_arguments(**changes) -> tuple:
    arguments = {"params": [F32(2, 3)], "grads": [F32(2, 3)], "momentum_buffers": [F32(2, 3)], "channels": [0]}
    arguments |= {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    arguments |= {"maximize": False, "lr_tensor": None, "grad_scale": None, "found_inf": None}
    assert changes.keys() <= arguments.keys()
    return tuple((arguments | changes).values())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"grads": []}, "grads must have as many tensors as params (1), got 0"),
        ({"momentum_buffers": []}, "momentum_buffers must have as many tensors as params (1), got 0"),
        ({"grads": [F32(2, 4)]}, "grads[0] must have the shape of params[0] [2, 3], got [2, 4]"),
        ({"grads": [F32(2, 3).half()]}, "grads[0] must have the dtype of params[0] (float32), got float16"),
        (
            {"momentum_buffers": [F32(2, 3).double()]},
            "momentum_buffers[0] must have the dtype of params[0] (float32), got float64",
        ),
        ({"channels": [-2]}, "channels[0] must be at least -1, got -2"),
        ({"lr_tensor": F32(2)}, "lr_tensor must have one element, got [2]"),
        ({"lr_tensor": F32(()).half()}, "lr_tensor must have dtype float32 or float64, got float16"),
        ({"grad_scale": F32(()).double()}, "grad_scale must have dtype float32, got float64"),
        ({"found_inf": F32(3)}, "found_inf must have one element, got [3]"),
        ({"found_inf": F32((), device="meta")}, "found_inf must be on the device of params[0] (cpu), got meta"),
    ],
)
def test_errors_of_the_sgd_step(changes, message, raises_everywhere):
    raises_everywhere(ops.sgd_gc_step_, sgd_arguments(**changes), f"sgd_gc_step_: {message}")


def adamw_arguments(**changes) -> tuple:
    names = ("params", "grads", "exp_avgs", "exp_avg_sqs")
    arguments = {name: [F32(2, 3)] for name in names} | {"max_exp_avg_sqs": [], "steps": [F32(())], "channels": [0]}
    arguments |= {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "maximize": False}
    assert changes.keys() <= arguments.keys()
    return tuple((arguments | changes).values())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"exp_avgs": []}, "exp_avgs must have as many tensors as params (1), got 0"),
        ({"exp_avg_sqs": [F32(6)]}, "exp_avg_sqs[0] must have the shape of params[0] [2, 3], got [6]"),
        ({"max_exp_avg_sqs": [F32(2)]}, "max_exp_avg_sqs[0] must have the shape of params[0] [2, 3], got [2]"),
        ({"steps": []}, "steps must have as many tensors as params (1), got 0"),
        ({"steps": [F32(2)]}, "steps[0] must be one float32, got float32 [2]"),
        ({"steps": [F32(()).long()]}, "steps[0] must be one float32, got int64 []"),
        ({"steps": [F32((), device="meta")]}, "steps[0] must be on the device of params[0] (cpu), got meta"),
    ],
)
def test_errors_of_the_adamw_step(changes, message, raises_everywhere):
    raises_everywhere(ops.adamw_gc_step_, adamw_arguments(**changes), f"adamw_gc_step_: {message}")
