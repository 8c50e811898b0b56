"""Which code runs an op on a CUDA tensor: the compiled kernels, else Triton, else the plain PyTorch reference.

Without ``_cuda.so`` the CUDA dispatch key of every op gets a Python function that settles on Triton or the reference
at its first call, so that importing fastops imports neither Triton nor touches a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from fastops import _ext, reference
from fastops.ops._layout import memory_format

#: Op stem (module name in fastops.ops, fastops.triton, fastops.reference) -> its schemas.
STEMS = {
    "affine_mish": ("affine_mish", "affine_mish_backward", "batch_norm_mish", "batch_norm_mish_backward"),
    "mish": ("mish", "mish_", "mish_backward"),
    "mish_max_pool2d": ("mish_max_pool2d", "mish_max_pool2d_backward"),
    "se": ("se_scale", "se_scale_backward", "se_attention", "se_attention_backward"),
    "xcorr": ("xcorr", "xcorr_backward", "xcorr_depthwise", "xcorr_depthwise_backward"),
}

_library = torch.library.Library("fastops", "IMPL")  # kept alive with the process


def _triton_available() -> bool:
    return importlib.util.find_spec("triton") is not None


def _cuda_backend() -> str:
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
    cpu = f"cpp ({_ext.build_info().get('cpu_capability', 'unknown')})"
    cuda = _cuda_backend() if torch.cuda.is_available() else f"no CUDA device (would use {_cuda_backend()})"
    return {name: {"cpu": cpu, "cuda": cuda} for names in STEMS.values() for name in names if "_backward" not in name}


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


@cache
def _resolve(stem: str, name: str) -> tuple[Callable, Callable]:
    """The op's argument checks, which neither twin makes itself, and its code."""
    check = importlib.import_module(f"fastops.ops.{stem}").CHECKS[name]
    if _cuda_backend() == "triton":
        return check, importlib.import_module(f"fastops.triton.{stem}").OPS[name]
    return check, reference_impl(name)


def _register_cuda_fallback() -> None:
    for stem, names in STEMS.items():
        for name in names:

            def kernel(*args, stem: str = stem, name: str = name):
                check, run = _resolve(stem, name)
                check(*args)
                return run(*args)

            _library.impl(name, kernel, "CUDA")


if _ext.cuda_error is not None:
    _register_cuda_fallback()
