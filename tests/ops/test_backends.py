"""set_backend, FASTOPS_BACKEND, backends(): every op on every backend, and back; their graphs in torch.compile."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

import fastops
from fastops import _backends, _ext, reference
from fastops.__main__ import main
from tests.support.op_samples import OPS, cases
from tests.support.op_table import assert_accurate, expected_gradients, requiring_grad, upstream
from tests.support.paths import ROOT

INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _auto():
    yield
    fastops.set_backend("auto")


def in_python(device: str) -> list[str]:
    """The backends that run in Python on tensors of the device."""
    triton = device == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    if triton and _backends._triton_available():
        return ["reference", "triton"]
    return ["reference"]


PYTHON = [
    pytest.param(backend, device, id=f"{backend}-{device}", marks=[pytest.mark.cuda] if device == "cuda" else [])
    for device in (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    for backend in in_python(device)
]
each_python_backend = pytest.mark.parametrize("backend, device", PYTHON)
each_core_sample = pytest.mark.parametrize(
    "row, sample", list(cases("core")), ids=[f"{row.name}-{sample}" for row, sample in cases("core")]
)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_every_registered_op_has_code(backend):
    """A family is found by its CHECKS. Each Python backend implements exactly the ops that it registers."""
    if backend == "triton":
        pytest.importorskip("triton")
    assert len(_backends.FAMILIES) == 13 and "mish_backward" in _backends.FAMILIES["mish"]
    for family, schemas in _backends.FAMILIES.items():
        assert set(importlib.import_module(f"fastops.{backend}.{family}").OPS) == set(schemas)


def as_tuple(result) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def assert_same(actual, expected) -> None:
    """Equal bit for bit, strides included; NaN in the same positions."""
    for a, e in zip(as_tuple(actual), as_tuple(expected), strict=True):
        assert (a.dtype, a.stride()) == (e.dtype, e.stride())
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT, env=dict(os.environ, **environment), capture_output=True, text=True,
    )  # fmt: skip


# ---- every op on every backend -------------------------------------------------------------------------------


@each_python_backend
@each_core_sample
def test_the_backend_runs(row, sample, backend, device):
    """Forward and backward of the schemas are those of the backend, bit for bit."""
    inputs = row.make(sample, torch.float32, device)
    calls = [(row.schema_op(), _backends.implementation(backend, row.schema), row.schema_args(inputs))]
    if row.backward_arity is not None:
        args = row.backward_args(upstream(row.op(*inputs)), inputs)
        calls.append((row.backward_op(), _backends.implementation(backend, f"{row.schema}_backward"), args))
    expected = [code(*args) for _, code, args in calls]
    with fastops.set_backend(backend):
        actual = [op(*args) for op, _, args in calls]
    for a, e in zip(actual, expected, strict=True):
        assert_same(a, e)


@each_python_backend
@pytest.mark.parametrize("row", OPS.values(), ids=OPS)
def test_gradients_and_the_rest_of_the_op_stay(row, backend, device):
    inputs = requiring_grad(row, row.make(row.core[0], torch.float32, device))
    with fastops.set_backend(backend):
        result = row.op(*inputs)
        grad = upstream(result)
        grads = torch.autograd.grad(result, row.leaves(inputs), grad)
        if row.backward_arity is not None:  # else the reference differentiates, which opcheck's modes keep it from
            torch.library.opcheck(row.schema_op(), row.schema_args(inputs))
        with torch.inference_mode():
            assert_same(row.op(*inputs), result.detach())
        with torch.autocast(device, dtype=torch.bfloat16):
            lowered = row.op(*inputs)
            again = torch.autograd.grad(row.op(*inputs).float().sum(), row.leaves(inputs))
        outside = torch.autograd.grad(lowered.float().sum(), row.leaves(inputs))
    for actual, expected in zip(grads, expected_gradients(row, inputs, grad), strict=True):
        assert_accurate(actual, expected, pointwise=False)
    assert lowered.dtype == (torch.bfloat16 if row.autocast == "lower" else torch.float32)
    assert_same(again, outside)  # a backward under autocast is not lowered again


@each_python_backend
def test_gradients_of_gradients(backend, device):
    row = OPS["mish"]
    inputs = requiring_grad(row, row.make("odd", torch.float64, device))
    with fastops.set_backend(backend):
        assert torch.autograd.gradgradcheck(row.op, inputs, fast_mode=True)


@each_python_backend
def test_in_place(backend, device):
    x = torch.randn(3, 4, device=device)
    expected = fastops.mish(x.double())
    version = x._version
    with fastops.set_backend(backend):
        assert fastops.mish_(x) is x
    assert x._version > version
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-6)


@each_python_backend
def test_vmap(backend, device):
    x, logits = torch.randn(3, 2, 4, 5, device=device), torch.randn(3, 2, 4, device=device)
    expected = torch.vmap(fastops.se_scale)(x, logits)
    with fastops.set_backend(backend):
        torch.testing.assert_close(torch.vmap(fastops.se_scale)(x, logits), expected)


@pytest.mark.parametrize("backend", _backends.BACKENDS)
def test_argument_checks_hold(backend, raises_everywhere, monkeypatch):
    x = torch.zeros(2, 3, 4)
    if backend == "triton":
        pytest.importorskip("triton")
    with fastops.set_backend(backend):
        raises_everywhere(
            fastops.mish, (x.int(),), "mish: x must have dtype float32, float64, float16 or bfloat16, got int32"
        )
        raises_everywhere(fastops.se_scale, (x, x[0]), "se_scale: logits must have shape [N, C] = [2, 3], got [3, 4]")
        raises_everywhere(
            torch.ops.fastops.mish_backward,
            (x[:1], x),
            "mish_backward: grad must have the shape of x [2, 3, 4], got [1, 3, 4]",
        )
        raises_everywhere(
            fastops.balanced_logistic_loss,
            (x, 16.0, 0.0),
            "balanced_logistic_loss: stride must be finite and above 0, got 0",
        )


# ---- choosing and going back ---------------------------------------------------------------------------------


def on_cpu() -> dict[str, str]:
    return {op: devices["cpu"] for op, devices in fastops.backends().items()}


def test_one_op_a_module_or_all():
    plain = on_cpu()
    assert {name.partition(" ")[0] for name in plain.values()} == {"cpp"}
    fastops.set_backend("reference", "se_scale")
    assert on_cpu() == plain | {"se_scale": "reference"}
    fastops.set_backend("reference", "se")
    assert on_cpu() == plain | {"se_scale": "reference", "se_attention": "reference"}
    fastops.set_backend("auto", "se_scale")
    assert on_cpu() == plain | {"se_attention": "reference"}
    fastops.set_backend("reference")
    assert set(on_cpu().values()) == {"reference"}
    for backend in ("cuda", "auto"):
        fastops.set_backend(backend)
        assert on_cpu() == plain


def test_the_compiled_kernel_comes_back():
    x = torch.randn(1000)
    expected, plain = fastops.mish(x), reference.mish(x)
    assert not torch.equal(expected, plain)
    for _ in range(3):
        fastops.set_backend("reference")
        assert torch.equal(fastops.mish(x), plain)
        fastops.set_backend("auto", "mish")
        assert torch.equal(fastops.mish(x), expected)


def test_with_blocks_nest_and_restore_after_errors():
    plain = on_cpu()
    fastops.set_backend("reference", "xcorr")
    outer = on_cpu()
    with fastops.set_backend("reference", "mish"):
        inner = on_cpu()
        with pytest.raises(KeyError), fastops.set_backend("auto"):
            assert on_cpu() == plain
            raise KeyError
        assert on_cpu() == inner != outer
    assert on_cpu() == outer != plain


def test_backward_follows_its_op():
    x = torch.randn(1000, requires_grad=True)
    grad = torch.randn(1000)
    with fastops.set_backend("reference", "mish"):
        (actual,) = torch.autograd.grad(fastops.mish(x), x, grad)
    (expected,) = torch.autograd.grad(reference.mish(x), x, grad)
    assert torch.equal(actual, expected)
    assert not torch.equal(actual, torch.autograd.grad(fastops.mish(x), x, grad)[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("fast",), "backend must be one of auto, cuda, triton, reference, got 'fast'"),
        (
            ("auto", "mish_backward"),
            "op must be one of adamw_gc_step_, .*, xcorr_depthwise, got 'mish_backward'",
        ),
        (("auto", "winograd_conv2d"), "op must be one of .*, got 'winograd_conv2d'"),
    ],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=f"^set_backend: {message}$"):
        fastops.set_backend(*arguments)


def test_a_backend_that_is_missing(monkeypatch):
    monkeypatch.setattr(_backends, "_triton_available", lambda: False)
    before = on_cpu()
    message = r"set_backend: backend of mish must be available, got triton: the triton package is not installed"
    with pytest.raises(RuntimeError, match=message):
        fastops.set_backend("triton", "mish")
    assert on_cpu() == before
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_ext, "cuda_error", "built without a CUDA toolkit")
    assert fastops.backends()["mish"]["cuda"] == "reference"
    message = "set_backend: backend of se must be available, got cuda: built without a CUDA toolkit"
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        fastops.set_backend("cuda", "se")
    with pytest.raises(RuntimeError, match=r"set_backend: backend of \w+ must be available, got cuda"):
        fastops.set_backend("cuda")


@pytest.mark.parametrize("cuda_error, expected", [(None, "cuda"), ("built without a CUDA toolkit", "triton")])
def test_backends_on_cuda(cuda_error, expected, monkeypatch):
    monkeypatch.setattr(_backends, "_register", lambda *_: None)
    monkeypatch.setattr(_backends, "_triton_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_ext, "cuda_error", cuda_error)
    for backend, used in (("auto", expected), ("triton", "triton"), ("reference", "reference")):
        with fastops.set_backend(backend, "mish"):
            assert fastops.backends()["mish"]["cuda"] == used
            assert fastops.backends()["xcorr"]["cuda"] == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fastops.backends()["mish"]["cuda"] == f"no CUDA device (would use {expected})"


# ---- processes -----------------------------------------------------------------------------------------------


def test_nothing_is_printed_and_triton_stays_out():
    code = "import sys, torch, fastops; fastops.set_backend('reference'); fastops.mish(torch.zeros(2)); "
    code += "fastops.set_backend('auto'); fastops.mish(torch.zeros(2)); print('triton' in sys.modules)"
    run = python(code)
    assert (run.stdout, run.stderr) == ("False\n", "")


PRINT = "import fastops; print(*(f'{op}={on['cpu'].split()[0]}' for op, on in fastops.backends().items()))"


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("", {}),
        ("reference", dict.fromkeys(_backends._chosen, "reference")),
        ("se=reference", {"se_scale": "reference", "se_attention": "reference"}),
        (
            "reference, xcorr=auto",
            dict.fromkeys(_backends._chosen, "reference") | {"xcorr": "cpp", "xcorr_depthwise": "cpp"},
        ),
        ("xcorr=reference,xcorr_depthwise=cuda,", {"xcorr": "reference"}),
    ],
)
def test_environment_variable(setting, expected):
    run = python(PRINT.replace("on['cpu']", 'on["cpu"]'), FASTOPS_BACKEND=setting)
    assert run.stderr == ""
    printed = dict(pair.split("=") for pair in run.stdout.split())
    assert printed == dict.fromkeys(_backends._chosen, "cpp") | expected


@pytest.mark.parametrize(
    "setting, message",
    [
        ("fast", "FASTOPS_BACKEND: backend must be one of auto, cuda, triton, reference, got 'fast'"),
        ("mesh=reference", "FASTOPS_BACKEND: op must be one of adamw_gc_step_,"),
        ("mish=", "FASTOPS_BACKEND: backend must be one of auto, cuda, triton, reference, got ''"),
    ],
)
def test_environment_variable_errors(setting, message):
    run = python("import fastops", FASTOPS_BACKEND=setting)
    assert run.returncode == 1 and f"ValueError: {message}" in run.stderr


def test_command_tells_the_truth():
    run = subprocess.run(
        [sys.executable, "-m", "fastops"], capture_output=True, text=True, cwd=ROOT,
        env=dict(os.environ, FASTOPS_BACKEND="mish=reference"),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    table = dict(line.split()[:2] for line in run.stdout.splitlines() if line)
    assert (table["mish"], table["mish_"], table["se_scale"]) == ("reference", "reference", "cpp")


# ---- torch.compile -------------------------------------------------------------------------------------------


def network(x: Tensor) -> Tensor:
    return fastops.mish(2 * x + 1) * 3


class Compiler:
    """Records the targets of every graph that it is given, as the ops that a graph really calls."""

    def __init__(self) -> None:
        self.graphs: list[list[str]] = []
        self.backend = aot_autograd(fw_compiler=self._compile, bw_compiler=self._compile)
        torch._dynamo.reset()

    def _compile(self, graph, example_inputs):
        self.graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return make_boxed_func(graph.forward)

    def fused(self) -> bool:
        """Whether the last graph holds an op of fastops."""
        return any(target.startswith("fastops.") for target in self.graphs[-1])


def test_compiled_graphs_follow_without_compiling_anew(device):
    compiler = Compiler()
    compiled = torch.compile(network, fullgraph=True, backend=compiler.backend)
    x = torch.randn(1000, device=device, requires_grad=True)
    grad = torch.randn(1000, device=device)

    def run() -> tuple[Tensor, Tensor]:
        y = compiled(x)
        return y.detach(), torch.autograd.grad(y, x, grad)[0]

    first = run()
    graphs = len(compiler.graphs)
    with fastops.set_backend("reference"):
        actual = run()
        y = reference.mish(2 * x + 1) * 3
        expected = y.detach(), torch.autograd.grad(y, x, grad)[0]
    assert_same(actual, expected)
    assert not torch.equal(actual[0], first[0]) and not torch.equal(actual[1], first[1])
    assert_same(run(), first)
    assert len(compiler.graphs) == graphs and compiler.fused()


def test_code_of_inductor_follows(device):
    torch._dynamo.reset()
    compiled = torch.compile(fastops.mish, fullgraph=True)
    x = torch.randn(1000, device=device)
    expected = compiled(x)
    with fastops.set_backend("reference"):
        assert torch.equal(compiled(x), reference.mish(x))
    assert torch.equal(compiled(x), expected)


def test_python_m_fastops(capsys):
    assert main([]) == 0
    table = capsys.readouterr().out
    assert main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["backends"] == fastops.backends() and facts["version"] == fastops.__version__
    for op in facts["backends"]:
        assert f"\n{op} " in table
    with pytest.raises(SystemExit) as end:
        main(["--jsno"])
    assert end.value.code == 2
