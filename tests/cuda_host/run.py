"""Runs pytest with the CUDA kernels in the place of the CPU kernels, under AddressSanitizer:

python tests/cuda_host/run.py [--gdb] [pytest arguments]        default: the op tests that say something about kernels

An error is an ordinary test failure that names kernel, block and thread, or, for memory errors, the sanitizer's report.
CUDA_HOST_SEED=n changes the order of blocks and threads; -k, -x and test names work as ever; --gdb stops at the error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import layer

TESTS = Path(__file__).resolve().parents[1]
#: Their tests with the mark `kernels` say most about a kernel: values and gradients of every dtype and layout, values
#: that are not finite, runs in another order of threads.
FILES = (
    *("test_ops.py", "test_affine_mish.py", "test_bias_activation.py", "test_box_peak.py", "test_centralize.py"),
    *("test_crop.py", "test_response.py", "test_rounding.py"),
)


def default_arguments() -> list[str]:
    return [*(str(TESTS / "ops" / name) for name in FILES), "-m", "kernels and not cuda"]


def environment(library: Path) -> dict[str, str]:
    runtimes = [
        subprocess.run([layer.compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in ("libasan.so", "libubsan.so")
    ]
    python_path = [str(Path(__file__).parent), str(layer.ROOT), os.environ.get("PYTHONPATH", "")]
    return dict(
        os.environ,
        CUDA_HOST_LIBRARY=str(library),
        LD_PRELOAD=" ".join(run.stdout.strip() for run in runtimes),
        # Python leaks by design; the other check does not know the fibers' stacks.
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        PYTHONPATH=os.pathsep.join(filter(None, python_path)),
        OMP_NUM_THREADS="1",
        FASTOPS_BACKEND="auto",
    )


def command(arguments: list[str]) -> list[str]:
    # Not --capture=fd: the sanitizers' report would go down with the process.
    options = ["-p", "plugin", "-p", "no:cacheprovider", "--capture=sys", "-m", "not cuda"]
    return [sys.executable, "-m", "pytest", *options, *arguments]


def main() -> int:
    arguments = sys.argv[1:]
    debug = "--gdb" in arguments
    arguments = [a for a in arguments if a != "--gdb"]
    run = command(arguments or ["-q", *default_arguments()])
    env = environment(layer.build()[0])
    if debug:
        preload = env.pop("LD_PRELOAD")
        run = ["gdb", "-ex", f"set environment LD_PRELOAD {preload}", "-ex", "run", "--args", *run]
    return subprocess.run(run, cwd=layer.ROOT, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
