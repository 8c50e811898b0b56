"""Which code runs an op on CPU and CUDA tensors: the compiled kernels, Triton or the plain PyTorch reference.

A backend in Python is a registration of its own at the dispatch key CPU or CUDA, in front of the compiled kernel;
dropping it brings the compiled kernel back. Gradients, autocast, vmap and fake kernels belong to other keys and stay.
The Python function settles on its code at its first call, so that importing fastops neither imports Triton nor touches
a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from fastops import _ext, reference
from fastops.ops._layout import memory_format

#: Op stem (module name in fastops.ops, fastops.triton, fastops.reference) -> its schemas.
STEMS = {
    "adaptive": tuple(
        f"adaptive_{kind}{suffix}" for kind in ("sigmoid", "tanh", "relu") for suffix in ("", "_backward")
    ),
    "affine_mish": ("affine_mish", "affine_mish_backward", "batch_norm_mish", "batch_norm_mish_backward"),
    "box_loss": ("box_loss", "box_loss_backward_scale", "focal_l1_loss", "focal_l1_loss_backward"),
    "box_peak": ("box_peak_",),
    "centralize": ("centralize_", "sgd_gc_step_", "adamw_gc_step_"),
    "crop": ("crop_and_resize",),
    "logistic_loss": ("balanced_logistic_loss", "balanced_logistic_loss_backward"),
    "mish": ("mish", "mish_", "mish_backward"),
    "mish_max_pool2d": ("mish_max_pool2d", "mish_max_pool2d_backward"),
    "response": ("response_peak_",),
    "se": ("se_scale", "se_scale_backward", "se_attention", "se_attention_backward"),
    "xcorr": ("xcorr", "xcorr_backward", "xcorr_depthwise", "xcorr_depthwise_backward"),
}

BACKENDS = ("auto", "cuda", "triton", "reference", "inductor")
_DEVICES = {"cpu": "CPU", "cuda": "CUDA"}  # and their dispatch keys


def _op_of(schema: str) -> str:
    return schema.partition("_backward")[0]


#: Op -> the backend asked for.
_chosen = {_op_of(schema): "auto" for schemas in STEMS.values() for schema in schemas}
#: Op that has a formula, in its module of fastops.ops -> whether "inductor" is asked for. Apart from _chosen, because
#: torch.compile compiles anew where a value that it has read changes.
_formulas = {"mish": False}
#: Schema and device -> the backend in Python that runs it there, and the registration.
_registered: dict[tuple[str, str], tuple[str, torch.library.Library]] = {}


# ---- choosing ------------------------------------------------------------------------------------------------


def set_backend(backend: str, op: str | None = None) -> _Restore:
    """Choose the code that runs the ops, or one of them, from now on or for a ``with`` block.

    Args:
        backend: what runs on tensors of either device.

            =========== ================================================ ==========================================
            backend     CPU                                              CUDA
            =========== ================================================ ==========================================
            "auto"      compiled kernels                                 compiled kernels, else Triton, else PyTorch
            "cuda"      compiled kernels                                 compiled kernels
            "triton"    compiled kernels; Triton's interpreter with      Triton
                        TRITON_INTERPRET=1
            "reference" plain PyTorch                                    plain PyTorch
            "inductor"  as "auto"; in ``torch.compile`` a formula        as on the CPU
            =========== ================================================ ==========================================
        op: those of a module of ``fastops.ops`` ("se"), or else one op ("se_scale"); all by default.

    Returns:
        A context manager: the end of its ``with`` block brings the backends of before back.

    Raises:
        ValueError: ``set_backend: <argument> must be one of ...``.
        RuntimeError: ``set_backend: backend of <op> must be available, ...``, with the reason; nothing changes then.

    The environment variable ``FASTOPS_BACKEND`` does the same at import: a backend, or settings for ops in turn, as in
    ``FASTOPS_BACKEND=mish=triton,se=reference``. :func:`backends` tells what is in use. The setting is the process's:
    other threads should not run the op at the moment of the change.

    Graphs of ``torch.compile`` hold ops, not their code: they follow the setting without being compiled anew. Only
    "inductor" concerns compiling itself, and functions are compiled again where it is set or left. It makes
    :func:`fastops.mish` a formula that Inductor can fuse with its neighbours, for use between pointwise ops: on the
    CPU, among four of them and with the gradient, it takes 0.85 of the fused op's time (1e4 and 1e6 values); alone it
    takes 1.3 times as long (1e6 values), and behind a convolution of that size 1.2 times.

    Example::

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
    """What :func:`set_backend` returns; the end of its ``with`` block brings the backends of before back."""

    def __init__(self, before: dict[str, str]) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        _apply(self._before)


def _check_choice(what: str, backend: str, op: str | None) -> list[str]:
    """The ops that are meant, after checking that all of them have the backend."""
    if backend not in BACKENDS:
        raise ValueError(f"{what}: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if op is None:
        ops = list(_chosen)
    elif op in STEMS:
        ops = [_op_of(schema) for schema in STEMS[op]]
    elif op in _chosen:
        ops = [op]
    else:
        raise ValueError(f"{what}: op must be one of {', '.join(sorted({*STEMS, *_chosen}))}, got {op!r}")
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


def decomposes(op: str) -> bool:
    """Whether `op` is to be a formula in the graph that is being compiled."""
    return _formulas[op] and torch.compiler.is_compiling()


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
    """The backend of each op on each device, for example ``{"mish": {"cpu": "cpp (avx512)", "cuda": "triton"}, ...}``.

    Example::

        >>> import fastops
        >>> fastops.backends()["mish"]["cpu"].startswith("cpp")
        True
    """
    cpp = f"cpp ({_ext.build_info().get('cpu_capability', 'unknown')})"
    has_cuda = torch.cuda.is_available()
    table = {}
    for op in _chosen:
        cpu, cuda = _backend_on("cpu", op), _backend_on("cuda", op)
        cpu = {"cpp": cpp, "triton": "triton (interpreted)"}.get(cpu, cpu)
        formula = ", formula in torch.compile" if _formulas.get(op) else ""
        table[op] = {
            "cpu": cpu + formula,
            "cuda": cuda + formula if has_cuda else f"no CUDA device (would use {cuda}{formula})",
        }
    return table


# ---- registering ---------------------------------------------------------------------------------------------


def _apply(chosen: dict[str, str]) -> None:
    """Make `chosen` the backends: register what runs in Python, drop what no longer does."""
    _chosen.update(chosen)
    _formulas.update({op: chosen[op] == "inductor" for op in _formulas})
    for stem, schemas in STEMS.items():
        for schema in schemas:
            for device in _DEVICES:
                _register(stem, schema, device, _backend_on(device, _op_of(schema)))


def _register(stem: str, schema: str, device: str, backend: str) -> None:
    present, _ = _registered.get((schema, device), (None, None))
    wanted = backend if backend in ("triton", "reference") else None
    if wanted == present:
        return
    _registered.pop((schema, device), None)  # the registration ends with its Library
    if wanted is None:
        return

    arguments = getattr(torch.ops.fastops, schema).default._schema.arguments

    def kernel(*args):
        args = (*args, *(a.default_value for a in arguments[len(args) :]))  # the dispatcher leaves defaults out
        check, run = _resolve(stem, schema, wanted, device)
        check(*args)
        return run(*args)

    library = torch.library.Library("fastops", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dispatcher's, about a kernel in front of another: that is the purpose
        library.impl(schema, kernel, _DEVICES[device], allow_override=True)
    _registered[schema, device] = wanted, library


@cache
def _resolve(stem: str, schema: str, backend: str, device: str) -> tuple[Callable, Callable]:
    """The op's argument checks, which no twin makes itself, and its code."""
    check = importlib.import_module(f"fastops.ops.{stem}").CHECKS[schema]
    if backend == "triton":
        return check, importlib.import_module(f"fastops.triton.{stem}").OPS[schema]
    function = reference_impl(schema)

    def run(*args):
        with torch.autocast(device, enabled=False):  # a kernel's inputs are cast already, where they are to be
            return function(*args)

    return check, run


def reference_impl(name: str) -> Callable:
    """The op ``name`` of the schema, backward ops included, from :mod:`fastops.reference`.

    Results have the strides that the fake kernels tell torch.compile.
    """
    stem = next(stem for stem, names in STEMS.items() if name in names)
    own = getattr(importlib.import_module(f"fastops.reference.{stem}"), "OPS", {})
    if name in own:  # what the general rule below does not fit
        return own[name]

    def laid_out(result: Tensor, like: Tensor) -> Tensor:
        # Not Tensor.contiguous(memory_format=...): it lets the strides of dimensions of size 1 be.
        if name.startswith("mish"):
            planned = torch.empty_like(like)
        else:
            planned = torch.empty_like(result, memory_format=memory_format(like))
        return result if result.stride() == planned.stride() else planned.copy_(result)

    forward = getattr(reference, name.removesuffix("_backward"))
    if not name.endswith("_backward"):

        def run(*inputs):
            result = forward(*inputs)
            if name == "xcorr":
                return laid_out(result, like=result)  # of one channel, and such a tensor counts as contiguous
            return laid_out(result, like=inputs[1] if name == "xcorr_depthwise" else inputs[0])

        return run

    # The gradients an op returns belong to its first inputs: of xcorr z and x, not scale and bias.
    wanted = 2 if "xcorr" in name else None

    def backward(grad: Tensor, *inputs):
        leaves = [t.detach().requires_grad_() if isinstance(t, Tensor) else t for t in inputs]
        if name == "se_attention_backward":  # bias gradients are returned also where the bias is None
            x, w1, b1, w2, b2 = leaves
            b1 = x.new_zeros(w1.shape[0], requires_grad=True) if b1 is None else b1
            b2 = x.new_zeros(w2.shape[0], requires_grad=True) if b2 is None else b2
            leaves = [x, w1, b1, w2, b2]
        with torch.enable_grad():
            output = forward(*leaves)
        leaves = [t for t in leaves[:wanted] if isinstance(t, Tensor)]
        grads = torch.autograd.grad(output, leaves, grad)
        grads = tuple(laid_out(g, like=t) for g, t in zip(grads, leaves, strict=True))
        return grads[0] if len(grads) == 1 else grads

    return backward


_choose_from_environment()
_apply(_chosen)
