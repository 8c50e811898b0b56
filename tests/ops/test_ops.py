"""Families of tests, each over every op and sample of op_samples.OPS; what is special to an op is in test_<op>.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.op_samples import OPS, cases
from tests.support.op_table import (
    DTYPES,
    Op,
    assert_accurate,
    channels_last,
    expected_gradients,
    requiring_grad,
    sliced,
    transposed,
    upstream,
    wide,
)

LOW = torch.bfloat16


def each(selected: Iterable[tuple[Op, str]]):
    """Parametrises with (row, sample), ids like se_scale-sliced."""
    selected = list(selected)
    return pytest.mark.parametrize("row, sample", selected, ids=[f"{row.name}-{sample}" for row, sample in selected])


each_op = pytest.mark.parametrize("row", OPS.values(), ids=OPS)
#: The rest leave their gradients ready in the forward.
WITH_BACKWARD = [row for row in OPS.values() if row.backward_arity is not None]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def gradients(row: Op, inputs: tuple, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(row.op(*inputs), row.leaves(inputs), grad)


def as_tuple(result) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def assert_same(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Bit for bit, dtype included."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert torch.equal(a, e)


def test_every_differentiable_op_is_in_the_table():
    names = {name.removeprefix("fastops::") for name in torch._C._dispatch_get_all_op_names() if "fastops::" in name}
    with_backward = {f"{row.schema}_backward" for row in OPS.values() if row.backward_arity is not None}
    assert {name for name in names if name.endswith("_backward")} == with_backward


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@each_dtype
@each(cases())
def test_forward(row, sample, dtype, device):
    inputs = row.make(sample, dtype, device)
    actual = row.op(*inputs)
    assert actual.dtype == dtype
    assert_accurate(actual, row.reference(*wide(row, inputs)).detach(), row.pointwise)


@pytest.mark.kernels
@each_dtype
@each(cases())
def test_backward(row, sample, dtype, device):
    inputs = requiring_grad(row, row.make(sample, dtype, device))
    grad = upstream(row.op(*inputs))
    actual = gradients(row, inputs, grad)
    expected = expected_gradients(row, inputs, grad)
    for leaf, a, e in zip(row.leaves(inputs), actual, expected, strict=True):
        assert a.dtype == dtype
        assert_accurate(a, e, pointwise=False, what=f"gradient of shape {list(leaf.shape)}")


def one_expanded(grad: Tensor) -> Tensor:
    """As sum().backward() gives it."""
    return grad.new_full((), 0.7).expand(grad.shape)


@pytest.mark.kernels
@pytest.mark.parametrize("layout", [channels_last, transposed, sliced, one_expanded])
@each((row, sample) for row, sample in cases() if sample in ("channels_last", "offset"))
def test_backward_takes_a_gradient_of_any_layout(row, sample, layout, device):
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    result = row.op(*inputs)
    if layout is channels_last and result.dim() != 4:
        layout = transposed
    grad = upstream(result, layout)
    for a, e in zip(gradients(row, inputs, grad), expected_gradients(row, inputs, grad), strict=True):
        assert_accurate(a, e, pointwise=False)


@each(cases("small"))
def test_gradcheck(row, sample, device):
    inputs = requiring_grad(row, row.make(sample, torch.float64, device))
    assert torch.autograd.gradcheck(row.op, inputs, fast_mode=False)


@each(cases("small"))
def test_gradgradcheck(row, sample, device):
    inputs = requiring_grad(row, row.make(sample, torch.float64, device))
    assert torch.autograd.gradgradcheck(row.op, inputs, fast_mode=True)


@each(cases("core"))
def test_any_subset_of_inputs_may_require_grad(row, sample, device):
    inputs = row.make(sample, torch.float32, device)
    present = [i for i in row.differentiable if inputs[i] is not None]
    plain = row.op(*inputs)
    assert not plain.requires_grad
    grad = upstream(plain)
    everything = dict(zip(present, gradients(row, requiring_grad(row, inputs), grad), strict=True))
    for size in range(1, len(present) + 1):
        for positions in itertools.combinations(present, size):
            some = requiring_grad(row, inputs, positions)
            grads = torch.autograd.grad(row.op(*some), [some[i] for i in positions], grad)
            assert_same(grads, [everything[i] for i in positions])


@pytest.mark.kernels
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@each_op
def test_non_finite_values_pass(row, value, device):
    for position in row.differentiable:
        inputs = row.make(row.core[0], torch.float32, device)
        inputs[position].flatten()[0] = value  # contiguous: a view
        expected = row.reference(*wide(row, inputs)).detach()
        inputs = requiring_grad(row, inputs)
        actual = row.op(*inputs)
        torch.testing.assert_close(actual.detach().double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        grad = upstream(actual)
        for a, e in zip(gradients(row, inputs, grad), expected_gradients(row, inputs, grad), strict=True):
            assert not (a.isfinite() & ~e.isfinite()).any(), f"input {position}: a finite gradient hides {value}"


# ---- behaviour -----------------------------------------------------------------------------------------------


@each(cases("core"))
def test_results_are_not_views(row, sample, device):
    """Autograd refuses to change a view in place, for example by the ReLU after the op."""
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    result = row.op(*inputs)
    assert not result._is_view()
    result.relu_().sum().backward()


@each(cases("core"))
def test_inputs_are_not_modified(row, sample, device):
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    before = [(t.detach().clone(), t._version) for t in tensors]
    result = row.op(*inputs)
    grad = upstream(result)
    grad_before = grad.clone()
    torch.autograd.grad(result, row.leaves(inputs), grad)
    for t, (values, version) in zip(tensors, before, strict=True):
        assert torch.equal(t, values) and t._version == version
    assert torch.equal(grad, grad_before)


@pytest.mark.kernels
@each(cases())
def test_runs_are_equal_bit_for_bit_whatever_the_threads(row, sample, device):
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    result = row.op(*inputs)
    grad = upstream(result)
    first = (result, *gradients(row, inputs, grad))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert_same((row.op(*inputs), *gradients(row, inputs, grad)), first)


@pytest.mark.parametrize("row", [row for row in WITH_BACKWARD if row.saves_only_inputs], ids=lambda row: row.name)
def test_only_inputs_are_saved_for_backward(row, device):
    inputs = requiring_grad(row, row.make(row.core[0], torch.float32, device))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        row.op(*inputs)
    assert saved and set(saved) <= {t.data_ptr() for t in inputs if isinstance(t, Tensor)}


@each(cases("core"))
def test_inference_mode_and_no_grad(row, sample, device):
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    expected = row.op(*inputs).detach()
    with torch.inference_mode():
        result = row.op(*inputs)
    assert result.is_inference() and torch.equal(result, expected)
    with torch.no_grad():
        result = row.op(*inputs)
    assert not result.requires_grad and torch.equal(result, expected)


@each_op
def test_autocast(row, device):
    inputs = requiring_grad(row, row.make(row.core[0], torch.float32, device))
    with torch.autocast(device, dtype=LOW):
        result = row.op(*inputs)
    cast = tuple(t.to(LOW) if isinstance(t, Tensor) and row.autocast == "lower" else t for t in inputs)
    expected = row.op(*cast)
    assert_same([result], [expected])
    grad = upstream(result)
    grads = torch.autograd.grad(result, row.leaves(inputs), grad)
    assert_same(grads, torch.autograd.grad(expected, row.leaves(inputs), grad))
    assert {g.dtype for g in grads} == {torch.float32}
    with torch.autocast(device, dtype=LOW):
        assert row.op(*row.make(row.core[0], torch.float64, device)).dtype == torch.float64


@pytest.mark.parametrize("row", [row for row in OPS.values() if row.autocast != "keep"], ids=lambda row: row.name)
def test_autocast_of_mixed_dtypes(row, device):
    """As a network under autocast has them: activations lowered, parameters in float32."""
    inputs = list(row.make(row.core[0], torch.float32, device))
    inputs[0] = inputs[0].to(LOW)
    with torch.autocast(device, dtype=LOW):
        result = row.op(*inputs)
    dtype = LOW if row.autocast == "lower" else torch.float32
    assert_same([result], [row.op(*(t.to(dtype) if isinstance(t, Tensor) else t for t in inputs))])


@pytest.mark.parametrize(
    "row, in_dims",
    [pytest.param(row, dims, id=f"{row.name}-{dims}") for row in OPS.values() for dims in row.vmap_dims],
)
def test_vmap(row, in_dims, device):
    batches = [row.make(row.core[0], torch.float32, device, seed) for seed in range(3)]
    inputs = [
        batches[0][i] if dim is None else torch.stack([batch[i] for batch in batches], dim)
        for i, dim in enumerate(in_dims)
    ]
    each_alone = [
        row.op(*(batches[0][i] if dim is None else batch[i] for i, dim in enumerate(in_dims))) for batch in batches
    ]
    assert_same([torch.vmap(row.op, in_dims)(*inputs)], [torch.stack(each_alone)])


# ---- what torch is told about the ops ------------------------------------------------------------------------


def facts(tensors: Iterable[Tensor]) -> list[tuple]:
    return [(t.dtype, t.device.type, t.shape, t.stride()) for t in tensors]


@each(cases())
def test_fake_kernels_tell_dtype_shape_and_strides(row, sample, device):
    for dtype in (torch.float32, LOW):
        inputs = row.make(sample, dtype, device)
        result = row.op(*inputs)
        calls = [(row.schema_op(), row.schema_args(inputs))]
        if row.backward_arity is not None:
            calls.append((row.backward_op(), row.backward_args(upstream(result), inputs)))
        for op, args in calls:
            expected = facts(as_tuple(op(*args)))
            with FakeTensorMode() as mode:
                args = tuple(mode.from_tensor(t) if isinstance(t, Tensor) else t for t in args)
                assert facts(as_tuple(op(*args))) == expected


@each(cases("core"))
def test_opcheck(row, sample, device):
    inputs = row.make(sample, torch.float32, device)
    torch.library.opcheck(row.schema_op(), row.schema_args(requiring_grad(row, inputs)))
    if row.backward_arity is not None:
        torch.library.opcheck(row.backward_op(), row.backward_args(upstream(row.op(*inputs)), inputs))


@pytest.mark.parametrize("sample", ["odd", "0d", "empty_batch", "channels_last", "transposed", "sliced"])
def test_opcheck_of_mish_(sample, device):
    torch.library.opcheck(torch.ops.fastops.mish_.default, OPS["mish"].make(sample, torch.float32, device))


def check_compiled(row: Op, sample: str, device: str, backend: str | Callable) -> None:
    torch._dynamo.reset()
    inputs = requiring_grad(row, row.make(sample, torch.float32, device))
    expected = row.op(*inputs)
    grad = upstream(expected)
    compiled = torch.compile(row.op, fullgraph=True, backend=backend)
    actual = compiled(*inputs)
    assert_same([actual], [expected])
    assert actual.stride() == expected.stride()
    pairs = torch.autograd.grad(actual, row.leaves(inputs), grad), gradients(row, inputs, grad)
    if row.reference_differentiates:  # its code is compiled too
        torch.testing.assert_close(*pairs)
    else:
        assert_same(*pairs)


@each(cases("core"))
def test_compiled_graphs_hold_the_fused_ops(row, sample, device):
    called = []

    def compiler(graph, example_inputs):
        called.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    check_compiled(row, sample, device, aot_autograd(fw_compiler=compiler, bw_compiler=compiler))
    assert f"fastops.{row.schema}.default" in called
    if row.backward_arity is not None:
        assert f"fastops.{row.schema}_backward.default" in called


@each_op
def test_compile_with_inductor(row, device):
    check_compiled(row, row.core[0], device, "inductor")


# ---- instruction sets ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_values_with_instruction_set(capability, run_with_instruction_set):
    run_with_instruction_set(capability, __file__, "test_forward or test_backward")
