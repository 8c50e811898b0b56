"""Loads the native libraries once, at import. If one is missing, it says so and names the command to run.

`fastops.mish` calls `torch.ops.fastops.mish`. Its kernel for CPU tensors is in `_cpu.so`. For CUDA tensors it is in
`_cuda.so`, if that was built and torch has CUDA. Otherwise CUDA tensors use Triton or the reference implementation
(`fastops/_backends.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from fastops._version import __version__

_PACKAGE = Path(__file__).resolve().parent

#: The reason why the CPU library (schemas and CPU kernels) is not loaded, or None.
load_error: str | None = None
#: The reason why the CUDA library is not in use, or None.
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
    """The error message of an import without the native library. It says what is wrong and what to run."""
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
    """The folder of a built package that comes later on the path than this one."""
    packages = (Path(entry) / _PACKAGE.name for entry in sys.path)
    return next((path for path in packages if path.resolve() != _PACKAGE and (path / "_cpu.so").is_file()), None)


def build_info() -> dict[str, Any]:
    """Describe this build and what it uses on this machine, as a dict.

    | key | value |
    | --- | --- |
    | `version`, compilers and flags | how the libraries were built |
    | `cpu_capability` | instruction set in use; `FASTOPS_CPU_CAPABILITY`: `baseline`, `avx2` or `avx512` lowers it |
    | `int8_capability` | the same for 8-bit integers, also `avx2_vnni`, `avx512_vnni`, `avx512_vbmi`, `avx512_amx` |
    | `int8_is_fast` | whether this CPU multiplies 8-bit integers faster than floats |
    | `cuda_archs` | the compiled GPU architectures |
    | `stable_abi_target` | the oldest torch that the libraries work with |
    | `torch` | the version of torch |
    | `cpu_library`, `cuda_library` | "loaded", or the reason why not |

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
