"""Loads the native libraries, once, at import; says what is missing and what to run.

Two hops from user to kernel: `fastops.mish` calls `torch.ops.fastops.mish`, whose kernel for the tensor's device
comes from `_cpu.so` (always), from `_cuda.so` (when it was built and torch has CUDA), or, for CUDA tensors without
`_cuda.so`, from Triton or the plain PyTorch reference (`fastops/_backends.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from fastops._version import __version__

_PACKAGE = Path(__file__).resolve().parent

#: Why the CPU library (schemas and CPU kernels) could not be loaded; None when it was.
load_error: str | None = None
#: Why the CUDA library is not in use; None when it is.
cuda_error: str | None = None


def _load() -> None:
    global load_error, cuda_error
    path = _PACKAGE / "_cpu.so"
    if not path.exists():
        load_error = f"{path.name} is missing"
    else:
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            load_error = f"{path.name} does not load beside torch {torch.__version__}: {error}"
    path = _PACKAGE / "_cuda.so"
    if load_error is not None:
        cuda_error = load_error
    elif not path.exists():
        cuda_error = "not built: there was no CUDA toolkit, or FASTOPS_BUILD=cpu"
    elif torch.version.cuda is None:
        cuda_error = f"torch {torch.__version__} has no CUDA"
    else:
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            cuda_error = f"{path.name} does not load: {error}"


_load()


def missing_message() -> str:
    """The one error of an import without the native library: what is wrong and what to run."""
    if not (_PACKAGE / "_cpu.so").exists() and (hidden := _hidden_package()):
        return (
            f"the fused ops are not available: the sources in {_PACKAGE} hide the package installed in {hidden}. "
            "Run this from another folder, or `pip install --editable .` in that of the sources."
        )
    return (
        f"the fused ops are not available: {load_error}. Run `pip install .` (or `python setup.py build_ext "
        "--inplace`) in the source folder, with a C++20 compiler at hand; `fastops.reference` has the same ops in "
        "plain PyTorch."
    )


def _hidden_package() -> Path | None:
    """A built package that comes later on the path than this one."""
    packages = (Path(entry) / _PACKAGE.name for entry in sys.path)
    return next((path for path in packages if path.resolve() != _PACKAGE and (path / "_cpu.so").is_file()), None)


def build_info() -> dict[str, Any]:
    """What this build is and what it uses here, as a dict.

    Keys: `version`, compilers and flags, `cpu_capability` (the instruction set in use: lower it with the
    environment variable `FASTOPS_CPU_CAPABILITY=baseline|avx2|avx512`), `int8_capability` (the same for 8-bit
    integers, which know extensions too: `avx2_vnni`, `avx512_vnni`, `avx512_vbmi`, `avx512_amx`),
    `int8_is_fast` (whether this CPU multiplies them faster than floats), `cuda_archs`, `stable_abi_target`
    (the oldest torch the libraries work with), `torch`, and `cpu_library` / `cuda_library`: "loaded" or why not.

    Examples:

        >>> import fastops
        >>> fastops.build_info()["stable_abi_target"]
        '2.11'
    """
    info: dict[str, Any] = {"version": __version__}
    try:
        from fastops import _host

        info.update(_host.build_info())
    except ImportError as error:
        info["host_module"] = f"missing: {error}"
    info["torch"] = torch.__version__
    info["cpu_library"] = load_error or "loaded"
    info["cuda_library"] = cuda_error or "loaded"
    return info
