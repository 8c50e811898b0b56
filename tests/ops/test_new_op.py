"""python -m tests.support.new_op in a copy of the tree: what it writes compiles and passes the op table's tests."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastops
from tests.support import kernel_resources, new_op
from tests.support.paths import ROOT

COPIED = ("csrc", "fastops", "tests", "docs", "pyproject.toml")
CPU_SETS = ("baseline", "avx2", "avx512") if platform.machine() in ("x86_64", "AMD64") else ("baseline",)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the sources with the new op `soft_square`."""
    folder = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_cuda.so"))
        else:
            shutil.copy2(ROOT / name, folder)
    assert new_op.main(["soft_square"], folder) == 0
    return folder


def run(command: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(cwd), **environment}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)


def test_style(tree):
    pytest.importorskip("ruff", reason="ruff is not installed")
    for command in (["check", "--fix", "--quiet"], ["format", "--check", "--quiet"]):
        result = run([sys.executable, "-m", "ruff", *command, "fastops", "tests/support"], tree)
        assert result.returncode == 0, result.stdout


def test_its_cuda_kernels_compile_without_spills(tree):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    include = Path(torch.__file__).parent / "include"
    flags = ["-std=c++20", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-Xptxas", "-v"]
    command = [nvcc, *flags, "-diag-suppress", "20208", "-isystem", include, "-arch=sm_90", "-c"]
    result = run([*command, tree / "csrc" / "cuda" / "soft_square.cu", "-o", tree / "cuda.o"], tree)
    assert result.returncode == 0, result.stderr
    log = tree / "ptxas.log"
    log.write_text(result.stdout + result.stderr)
    kernels = kernel_resources.read(log)
    assert sorted({kernel.base for kernel in kernels}) == ["pointwise_backward_kernel", "pointwise_kernel"]
    assert len(kernels) == 8 and not any(kernel.spills for kernel in kernels), kernel_resources.table(kernels)


@pytest.mark.slow
def test_it_compiles_and_passes_the_tests_of_the_table(tree):
    """Schemas and the op's CPU files are compiled; the rest of the library is that of this build, at another name."""
    compiler = shutil.which("c++")
    objects = sorted(ROOT.glob("build/temp.*/*.o"))
    if compiler is None or not objects:
        pytest.skip("needs c++ and the object files of a build in this folder")
    torch_root = Path(torch.__file__).parent
    flags = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-O1", f"-I{torch_root / 'include'}"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000", *(["-DFASTOPS_X86"] if len(CPU_SETS) > 1 else [])]
    made = []
    jobs = [("library", []), ("cpu/soft_square", [])]
    jobs += [("simd/soft_square", [f"-DFASTOPS_ISA={isa}"]) for isa in CPU_SETS]
    for i, (source, extra) in enumerate(jobs):
        made.append(tree / f"{i}.o")
        result = run([compiler, *flags, *extra, "-c", tree / "csrc" / f"{source}.cpp", "-o", made[-1]], tree)
        assert result.returncode == 0, result.stderr
    folder = max({o.parent for o in objects}, key=lambda f: (f / "library.o").stat().st_mtime)
    rest = [o for o in folder.glob("*.o") if o.name.startswith(("cpu_", "simd_"))]
    (tree / "fastops" / "_cpu.so").unlink(missing_ok=True)
    torch_link = [f"-L{torch_root / 'lib'}", "-Wl,--no-as-needed", "-ltorch"]
    link = [compiler, "-shared", *made, *rest, "-o", tree / "fastops" / "_cpu.so", *torch_link]
    result = run(link, tree)
    assert result.returncode == 0, result.stderr

    tests = [
        "tests/ops/test_ops.py",
        "tests/ops/test_build.py",
        "tests/ops/test_triton.py",
        "tests/ops/test_transforms.py",
    ]
    selected = "soft_square and not inductor"
    result = run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", selected, *tests], tree)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    passed = int(result.stdout.rpartition(" passed")[0].split()[-1])
    assert passed > 200, result.stdout[-500:]


def test_the_guide_shows_each_file_whole():
    guide = (ROOT / "docs" / "add-an-op.md").read_text(encoding="utf-8")
    for path, text in new_op.files("square").items():
        assert f"`{path}`" in guide and text in guide, path


@pytest.mark.parametrize("name", ["Square", "2x", "a b", "class", "mish"])
def test_names_that_do_not_do(name, capsys):
    with pytest.raises(SystemExit):
        new_op.main([name])
    assert f"got {name!r}" in capsys.readouterr().err
    assert not hasattr(fastops, name) or name == "mish"
