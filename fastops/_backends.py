"""Chooses the code that runs an op on CPU and CUDA tensors: compiled kernels, Triton or the reference implementation.

A backend in Python is registered at the dispatch key CPU or CUDA, in front of the compiled kernel. When the
registration is dropped, the compiled kernel is used again. Gradients, autocast, vmap and fake kernels have other keys
and stay. The Python code is looked up at the first call, so importing fastops neither imports Triton nor uses a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import warnings
from collections.abc import Callable
from functools import cache

import torch

from fastops import _ext, ops

BACKENDS = ("auto", "cuda", "triton", "reference")
_DEVICES = {"cpu": "CPU", "cuda": "CUDA"}  # device -> dispatch key


def _families() -> dict[str, tuple[str, ...]]:
    names = sorted(module.name for module in pkgutil.iter_modules(ops.__path__) if module.name[0] != "_")
    checks = {name: getattr(importlib.import_module(f"fastops.ops.{name}"), "CHECKS", {}) for name in names}
    return {name: tuple(schemas) for name, schemas in checks.items() if schemas}


#: Op family (the name of a module in fastops.ops, fastops.triton and fastops.reference) -> the ops that it registers,
#: which are the keys of its CHECKS. An op without CHECKS has compiled kernels only.
FAMILIES = _families()


def _op_of(schema: str) -> str:
    return schema.partition("_backward")[0]


#: Op -> the requested backend.
_chosen = {_op_of(schema): "auto" for schemas in FAMILIES.values() for schema in schemas}
#: Schema and device -> the Python backend that runs it there, and the registration.
_registered: dict[tuple[str, str], tuple[str, torch.library.Library]] = {}


# ---- choosing ------------------------------------------------------------------------------------------------


def set_backend(backend: str, op: str | None = None) -> _Restore:
    """Choose the code that runs all ops or one op, from now on or for a `with` block.

    Args:
        backend: what runs on tensors of either device.

            | backend | CPU | CUDA |
            | --- | --- | --- |
            | "auto" | compiled kernels | compiled kernels, else Triton, else plain PyTorch |
            | "cuda" | compiled kernels | compiled kernels |
            | "triton" | compiled kernels; Triton's interpreter if `TRITON_INTERPRET=1` is set | Triton |
            | "reference" | plain PyTorch | plain PyTorch |
        op: an op family, the name of a module of `fastops.ops` ("se"), or one op ("se_scale"). Default: all.

    Returns:
        A context manager. The end of its `with` block restores the previous backends.

    Raises:
        ValueError: `set_backend: <argument> must be one of ...`.
        RuntimeError: `set_backend: backend of <op> must be available, ...`, with the reason. Nothing changes then.

    The environment variable `FASTOPS_BACKEND` does the same at import. It holds a backend, or settings of ops in order:
    `FASTOPS_BACKEND=mish=triton,se=reference`. [`backends`][fastops.backends] returns what is in use. The setting
    applies to the whole process: no other thread should run the op while it changes.

    Graphs of `torch.compile` contain ops, not their code. They follow the setting without a recompilation.

    Examples:

        >>> import torch, fastops
        >>> with fastops.set_backend("reference", "mish"):
        ...     print(fastops.backends()["mish"]["cpu"], fastops.mish(torch.ones(1)))
        reference tensor([0.8651])
        >>> fastops.backends()["mish"]["cpu"].startswith("cpp")
        True
    """
    before = dict(_chosen)
    _apply(before | dict.fromkeys(_check_choice("set_backend", backend, op), backend))
    return _Restore(before)


class _Restore:
    """The result of `set_backend`. The end of its `with` block restores the previous backends."""

    def __init__(self, before: dict[str, str]) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        _apply(self._before)


def _check_choice(what: str, backend: str, op: str | None) -> list[str]:
    """The ops that `op` names, after a check that all of them have the backend."""
    if backend not in BACKENDS:
        raise ValueError(f"{what}: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if op is None:
        ops = list(_chosen)
    elif op in FAMILIES:
        ops = [_op_of(schema) for schema in FAMILIES[op]]
    elif op in _chosen:
        ops = [op]
    else:
        raise ValueError(f"{what}: op must be one of {', '.join(sorted({*FAMILIES, *_chosen}))}, got {op!r}")
    missing = None
    if backend == "triton" and not _triton_available():
        missing = "the triton package is not installed (pip install triton)"
    elif backend == "cuda" and _ext.cuda_error is not None and torch.cuda.is_available():
        missing = _ext.cuda_error
    if missing is not None:
        raise RuntimeError(f"{what}: backend of {op or ops[0]} must be available, got {backend}: {missing}")
    return ops


def _choose_from_environment() -> None:
    for setting in filter(None, os.environ.get("FASTOPS_BACKEND", "").replace(" ", "").split(",")):
        op, _, backend = setting.rpartition("=")
        _chosen.update(dict.fromkeys(_check_choice("FASTOPS_BACKEND", backend, op or None), backend))


# ---- what is in use ------------------------------------------------------------------------------------------


@cache
def _triton_available() -> bool:
    return importlib.util.find_spec("triton") is not None


def _backend_on(device: str, op: str) -> str:
    """The backend that runs `op` on tensors of the device: "cpp", "cuda", "triton" or "reference"."""
    chosen = _chosen[op]
    if device == "cpu":
        interpreted = chosen == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
        return chosen if chosen == "reference" or interpreted else "cpp"
    if chosen in ("triton", "reference"):
        return chosen
    if _ext.cuda_error is None:
        return "cuda"
    return "triton" if _triton_available() else "reference"


def backends() -> dict[str, dict[str, str]]:
    """The backend of each op on each device, for example `{"mish": {"cpu": "cpp (avx512)", "cuda": "triton"}, ...}`.

    Examples:

        >>> import fastops
        >>> fastops.backends()["mish"]["cpu"].startswith("cpp")
        True
    """
    cpp = f"cpp ({_ext.build_info().get('cpu_capability', 'unknown')})"
    has_cuda = torch.cuda.is_available()
    table = {}
    for op in _chosen:
        cpu, cuda = _backend_on("cpu", op), _backend_on("cuda", op)
        table[op] = {
            "cpu": {"cpp": cpp, "triton": "triton (interpreted)"}.get(cpu, cpu),
            "cuda": cuda if has_cuda else f"no CUDA device (would use {cuda})",
        }
    return table


# ---- registering ---------------------------------------------------------------------------------------------


def _apply(chosen: dict[str, str]) -> None:
    """Make `chosen` the backends: register the Python backends that are new, drop those that are not used any more."""
    _chosen.update(chosen)
    for family, schemas in FAMILIES.items():
        for schema in schemas:
            for device in _DEVICES:
                _register(family, schema, device, _backend_on(device, _op_of(schema)))


def _register(family: str, schema: str, device: str, backend: str) -> None:
    present, _ = _registered.get((schema, device), (None, None))
    wanted = backend if backend in ("triton", "reference") else None
    if wanted == present:
        return
    _registered.pop((schema, device), None)  # the registration ends with its Library
    if wanted is None:
        return

    arguments = getattr(torch.ops.fastops, schema).default._schema.arguments

    def kernel(*args):
        args = (*args, *(a.default_value for a in arguments[len(args) :]))  # the dispatcher omits defaults
        check, run = _resolve(family, schema, wanted, device)
        check(*args)
        return run(*args)

    library = torch.library.Library("fastops", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dispatcher warns about a kernel in front of another, which is intended
        library.impl(schema, kernel, _DEVICES[device], allow_override=True)
    _registered[schema, device] = wanted, library


def implementation(backend: str, schema: str) -> Callable:
    """The code of a registered op in the backend "reference" or "triton"."""
    family = next(family for family, schemas in FAMILIES.items() if schema in schemas)
    return importlib.import_module(f"fastops.{backend}.{family}").OPS[schema]


@cache
def _resolve(family: str, schema: str, backend: str, device: str) -> tuple[Callable, Callable]:
    """The op's argument checks, followed by its code. A backend in Python does not check arguments itself."""
    check = importlib.import_module(f"fastops.ops.{family}").CHECKS[schema]
    function = implementation(backend, schema)
    if backend == "triton":
        return check, function

    def run(*args):
        with torch.autocast(device, enabled=False):  # autocast has already cast the inputs if necessary
            return function(*args)

    return check, run


_choose_from_environment()
_apply(_chosen)
