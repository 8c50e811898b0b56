"""The native libraries: their build information, what they link to, and the package without them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastops
from fastops import _backends
from tests.support.op_samples import OPS, cases
from tests.support.op_table import L2_TOLERANCE, Draw, upstream

PACKAGE = Path(fastops.__file__).parent


def python(*arguments: str, cwd: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=dict(os.environ, **environment), capture_output=True, text=True
    )


# ---- build info ----------------------------------------------------------------------------------------------


def test_build_info():
    info = fastops.build_info()
    assert info["version"] == fastops.__version__
    assert info["torch"] == torch.__version__
    assert info["stable_abi_target"] == "2.11"
    assert info["cpu_library"] == "loaded"
    assert info["cpu_capability"] in info["cpu_capabilities"].split()
    for key in ("built_with_torch", "cxx_compiler", "cxx_flags"):
        assert info[key], key
    for key in ("simd_flags", "cuda_compiler", "cuda_archs", "cuda_library"):
        assert isinstance(info[key], str), key


@pytest.mark.parametrize("wanted", ["baseline", "avx2", "avx512"])
def test_capability_can_be_lowered(wanted):
    order = ["baseline", "avx2", "avx512"]
    best = fastops.build_info()["cpu_capability"]
    code = "import fastops; print(fastops.build_info()['cpu_capability'], fastops.backends()['mish']['cpu'])"
    run = python("-c", code, FASTOPS_CPU_CAPABILITY=wanted)
    used = min(wanted, best, key=order.index)
    assert run.stdout.strip() == f"{used} cpp ({used})", run.stderr


def test_command_prints_the_build_and_the_backends():
    run = python("-m", "fastops")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    printed = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
    assert printed == {key: str(value) or "-" for key, value in fastops.build_info().items()}
    header, *table = lines[lines.index("") + 1 :]
    assert header.split() == ["op", "cpu", "cuda"]
    assert {line.split()[0] for line in table} == set(fastops.backends())
    for line in table:
        assert fastops.backends()[line.split()[0]]["cpu"] in line


def test_backends_lists_every_public_op():
    public = {name for name in fastops.__all__ if hasattr(torch.ops.fastops, name)}
    compiled_only = {"relu_max_pool2d"}  # elsewhere torch's own max pooling runs
    assert public - compiled_only and public - compiled_only <= set(fastops.backends())


# ---- symbols -------------------------------------------------------------------------------------------------

# A nested name of at::, c10:: or torch:: anywhere in a mangled name: N, qualifiers, then <length><identifier>.
UNSTABLE = re.compile(r"_Z.*?N[rVKRO]*(2at|3c10|5torch)\d")


def unstable(symbols: list[str]) -> list[str]:
    return [symbol for symbol in symbols if UNSTABLE.search(symbol)]


def undefined_symbols(library: Path) -> list[str]:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    run = subprocess.run([nm, "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    return [line.split()[-1].partition("@")[0] for line in run.stdout.splitlines()]


@pytest.mark.parametrize("name", ["_cpu.so", "_cuda.so"])
def test_libraries_use_the_stable_abi_alone(name):
    library = PACKAGE / name
    if not library.exists():
        pytest.skip(f"{name} was not built")
    symbols = undefined_symbols(library)
    assert any(symbol.startswith("aoti_torch_") for symbol in symbols)  # a torch library has them
    assert unstable(symbols) == []


def test_the_symbol_test_can_fail():
    bad = [
        "_ZN2at4_ops5empty4callEN3c108ArrayRefIlEE",  # at::_ops::empty::call(c10::ArrayRef<long>)
        "_ZN3c1014torchCheckFail",
        "_ZNK3c1010TensorImpl5sizesEv",
        "_ZN5torch7LibraryD1Ev",
        "_ZTIN3c105ErrorE",  # typeinfo
        "_Z3fooRKN2at6TensorE",  # foo(at::Tensor const&)
        "_ZSt4swapIN2at6TensorEEvRT_S3_",  # std::swap<at::Tensor>
    ]
    good = ["aoti_torch_empty_strided", "torch_call_dispatcher", "_ZN7fastops4mishEv", "_ZNSt6vectorIcSaIcEE3atEm"]
    assert unstable(bad + good) == bad


def test_the_symbol_test_sees_the_symbols_of_torch():
    """torch's own Python binding has many such symbols."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_python.so"
    if not library.exists():
        pytest.skip("libtorch_python.so is not where it was")
    assert unstable(undefined_symbols(library))


def declared_symbols(target: str) -> set[str]:
    """The functions that torch's stable headers declare to a library for this version of torch and later ones."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("c++ is not installed")
    include = Path(torch.__file__).parent / "include"
    source = "".join(f"#include <torch/csrc/{n}/c/shim.h>\n" for n in ("inductor/aoti_torch", "stable"))
    defined = f"-DTORCH_TARGET_VERSION={target}", "-DUSE_CUDA"  # as the CUDA library is compiled
    command = [compiler, "-E", "-P", "-x", "c++", "-std=c++20", f"-I{include}", *defined, "-"]
    run = subprocess.run(command, input=source, capture_output=True, text=True, check=True)
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", run.stdout))


@pytest.mark.parametrize("name", ["_cpu.so", "_cuda.so"])
def test_symbols_of_torch_are_those_of_the_oldest_torch(name):
    """The libraries must not need functions that a torch newer than 2.11 added."""
    library = PACKAGE / name
    if not library.exists():
        pytest.skip(f"{name} was not built")
    used = {symbol for symbol in undefined_symbols(library) if re.match(r"(aoti_)?torch_", symbol)}
    assert used and used <= declared_symbols("0x020b000000000000")  # torch 2.11
    assert not used <= declared_symbols("0x0208000000000000")  # the headers do tell versions apart


# ---- without the library -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A folder with the package's Python files alone."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(PACKAGE, folder / "fastops", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return folder


WITHOUT_LIBRARY = """
import torch, fastops
from fastops.reference import mish
print(mish(torch.tensor([2.0])).item(), fastops.reference.xcorr)
print(fastops.build_info()["cpu_library"])
for name in fastops.__all__:
    try:
        getattr(fastops, name)
    except ImportError as error:
        print(name, error, sep=": ")
try:
    fastops.no_such_name
except AttributeError as error:
    print(error)
"""


def test_import_without_the_library(bare):
    run = python("-c", WITHOUT_LIBRARY, cwd=bare)
    assert run.returncode == 0, run.stderr
    value, library, *errors, attribute = run.stdout.splitlines()
    assert value.startswith("1.94395")
    assert library == "_cpu.so is missing"
    assert attribute == "module 'fastops' has no attribute 'no_such_name'"
    present = {"__version__", "build_info", "reference"}
    assert {line.partition(":")[0] for line in errors} == set(fastops.__all__) - present
    for line in errors:
        name, _, message = line.partition(": ")
        what = f"fastops.{name}: the fused ops are not available: _cpu.so is missing. Run `pip install"
        assert message.startswith(what)


def test_import_from_without_the_library(bare):
    run = python("-c", "from fastops import mish", cwd=bare)
    assert "ImportError: fastops.mish: the fused ops are not available" in run.stderr


def test_command_without_the_library(bare):
    run = python("-m", "fastops", cwd=bare)
    assert run.returncode == 1
    assert "cpu_library          _cpu.so is missing" in run.stdout
    assert "the fused ops are not available" in run.stderr


def test_a_library_that_does_not_load(bare, tmp_path):
    shutil.copytree(bare / "fastops", tmp_path / "fastops")
    (tmp_path / "fastops" / "_cpu.so").write_bytes(b"not a library")
    run = python("-c", "import fastops; fastops.mish", cwd=tmp_path)
    assert f"_cpu.so does not load beside torch {torch.__version__}" in run.stderr
    assert "ImportError: fastops.mish" in run.stderr


# ---- the reference as a backend ------------------------------------------------------------------------------


def assert_close(actual, expected) -> None:
    """Both results are computed in float32 and rounded, so the tolerance is twice that of one. Nothing here computes in
    float64, not even with float64 inputs (the statistics of a batch norm)."""
    actual, expected = (t if isinstance(t, tuple | list) else (t,) for t in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape) == (e.dtype, e.shape)
        assert (a - e).norm() <= 2 * max(L2_TOLERANCE[a.dtype], L2_TOLERANCE[torch.float32]) * e.norm()


@pytest.mark.parametrize("row, sample", list(cases("core")), ids=lambda value: getattr(value, "name", value))
def test_reference_backend_equals_the_kernels(row, sample):
    inputs = row.make(sample, torch.float32)
    args = row.schema_args(inputs)
    assert_close(_backends.implementation("reference", row.schema)(*args), row.schema_op()(*args))
    if row.backward_arity is not None:
        args = row.backward_args(upstream(row.op(*inputs)), inputs)
        assert_close(_backends.implementation("reference", f"{row.schema}_backward")(*args), row.backward_op()(*args))


def test_reference_backend_of_mish_():
    x = Draw(torch.float32)(3, 5)
    expected = fastops.mish(x)
    assert _backends.implementation("reference", "mish_")(x) is None
    assert_close(x, expected)


def test_every_op_of_the_table_has_a_backend():
    names = {name for family in _backends.FAMILIES.values() for name in family}
    with_backward = {f"{row.schema}_backward" for row in OPS.values() if row.backward_arity is not None}
    assert names >= {row.schema for row in OPS.values()} | with_backward
