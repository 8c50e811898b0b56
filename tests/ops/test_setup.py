"""What setup.py and the Makefile decide to build, with nvidia-smi and nvcc replaced by scripts."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import setuptools

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "setup.py").is_file())
VARIABLES = ("FASTOPS_BUILD", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME")
H200 = "9.0, NVIDIA H200"
KNOWN = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(gpus, toolkit): the functions of setup.py on a machine with these lines of nvidia-smi, or without it."""

    def make(gpus: tuple[str, ...] | None, toolkit: bool = True) -> dict:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        script(tmp_path / "bin" / "nvidia-smi", "exit 9" if gpus is None else f"cat <<END\n{chr(10).join(gpus)}\nEND")
        if toolkit:
            names = "\n".join(f"compute_{arch.replace('.', '')}" for arch in KNOWN)
            script(tmp_path / "cuda" / "bin" / "nvcc", f"cat <<END\n{names}\nEND")
            monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(setuptools, "setup", lambda **_: None)
        functions = runpy.run_path(str(ROOT / "setup.py"))
        if not toolkit:
            monkeypatch.setitem(functions["choose_cuda"].__globals__, "find_cuda_home", lambda: None)
        return functions

    return make


EVERY = ["7.5", "8.0", "8.6", "9.0", "10.0+PTX"]  # 8.9 is not among KNOWN


@pytest.mark.parametrize(
    "gpus, environment, archs, reason",
    [
        ((H200,), {}, ["9.0"], "for the GPU here, NVIDIA H200; TORCH_CUDA_ARCH_LIST changes it"),
        ((H200, "8.0, NVIDIA A100-SXM4-80GB", H200), {}, ["8.0", "9.0"], "NVIDIA A100-SXM4-80GB, NVIDIA H200"),
        ((H200,), {"TORCH_CUDA_ARCH_LIST": "all"}, EVERY, "TORCH_CUDA_ARCH_LIST=all"),
        ((H200,), {"TORCH_CUDA_ARCH_LIST": "8.6;12.0+PTX"}, ["8.6", "12.0+PTX"], "TORCH_CUDA_ARCH_LIST"),
        (
            (),
            {"TORCH_CUDA_ARCH_LIST": "6.1 9.0a"},
            ["9.0a"],
            "6.1 left out, unknown to this nvcc",
        ),
        (("13.0, NVIDIA Next",), {}, EVERY, "this nvcc does not know 13.0 of the GPU here; FASTOPS_BUILD=cpu"),
        (("[N/A], ???",), {}, EVERY, "nvidia-smi lists no GPU, so for every architecture; TORCH_CUDA_ARCH_LIST=9.0"),
        (None, {}, EVERY, "nvidia-smi lists no GPU, so for every architecture"),
        (None, {"FASTOPS_BUILD": "cuda"}, EVERY, "nvidia-smi lists no GPU"),
        ((H200,), {"FASTOPS_BUILD": "gpu"}, ["9.0"], "for the GPU here, NVIDIA H200"),
        (None, {"FASTOPS_BUILD": "gpu"}, [], "nvidia-smi lists no GPU; FASTOPS_BUILD=cuda builds"),
        ((H200,), {"FASTOPS_BUILD": "cpu"}, [], "FASTOPS_BUILD=cpu"),
    ],
)
def test_architectures(machine, monkeypatch, gpus, environment, archs, reason):
    functions = machine(gpus)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cuda = functions["choose_cuda"]()
    assert cuda.archs == archs and (cuda.home is not None) == bool(archs)
    assert reason in cuda.reason


def test_without_a_toolkit(machine, monkeypatch):
    choose = machine((H200,), toolkit=False)["choose_cuda"]
    assert choose()[:2] == (None, []) and "no CUDA toolkit found; CUDA_HOME or nvcc" in choose().reason
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="FASTOPS_BUILD=cuda: no CUDA toolkit found; set CUDA_HOME"):
        choose()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("FASTOPS_BUILD", "gpus", "FASTOPS_BUILD must be cpu, gpu or cuda, got 'gpus'"),
        ("TORCH_CUDA_ARCH_LIST", "sm_90", "TORCH_CUDA_ARCH_LIST: an entry must look like 9.0 or 9.0.PTX, got 'sm_90'"),
        ("TORCH_CUDA_ARCH_LIST", "6.1", "TORCH_CUDA_ARCH_LIST: an architecture must be known to .*nvcc, got '6.1'"),
    ],
)
def test_errors(machine, monkeypatch, name, value, message):
    choose = machine((H200,))["choose_cuda"]
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"^{message}$"):
        choose()


def test_gencode_flags(machine):
    flags = machine(None)["gencode_flags"](["8.0", "9.0a+PTX"])
    assert flags == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]


def test_the_first_line(machine):
    functions = machine((H200,))
    line = functions["announce"](functions["choose_cuda"](), 150.0)
    assert line.startswith("CPU kernels (baseline") and line.endswith(
        "and CUDA kernels for 9.0 (for the GPU here, NVIDIA H200; TORCH_CUDA_ARCH_LIST changes it): about 2 min"
    )
    functions = machine(None, toolkit=False)
    line = functions["announce"](functions["choose_cuda"](), 0.5)
    assert "and no CUDA kernels (no CUDA toolkit found; " in line and line.endswith("): nothing much to compile")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("gpus, archs", [((H200,), ""), (None, "9.0")])
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_builds_for_what_is_there(machine, monkeypatch, target, gpus, archs):
    """The recipes as make would run them: of the demo CUDA for a GPU alone, of the tests one architecture."""
    machine(gpus)

    def build_command() -> str:
        run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        command = next(line for line in run.stdout.splitlines() if "build_ext --inplace" in line)
        script = command.replace(".venv/bin/python setup.py build_ext --inplace", "env")
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    if target == "demo":
        assert "FASTOPS_BUILD=gpu\n" in build_command()
    else:
        assert f"TORCH_CUDA_ARCH_LIST={archs}\n" in build_command()
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "all")
        assert "TORCH_CUDA_ARCH_LIST=all\n" in build_command()


def test_the_demo_installs_no_tools_of_tests_and_documentation():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    run = subprocess.run(["make", "-nB", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert '".[plot]"' in run.stdout and ".[dev" not in run.stdout and "pytest" not in run.stdout
