"""Derivatives taken in ways that ops registered through torch.library have no formula for."""

from __future__ import annotations

import torch
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

_DIFFERENTIATING = (TransformType.Grad, TransformType.Jvp)


def in_transform() -> bool:
    """Whether this runs in forward mode, under `torch.func.grad`, `vjp`, `jvp` and what is made of them, or
    while `torch.onnx` exports, which knows the operations of torch alone.

    Public functions hand over to [`fastops.reference`][] then. Left to torch, forward mode would take an op for a
    constant, without a word, and `torch.func.grad` raise an error about `setup_context`. `vmap` alone is no
    reason: the ops have rules for it.
    """
    if forward_ad._current_level >= 0:  # -1 outside; torch.func.jvp has a level, too
        return True
    if exports_onnx():
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    return _differentiates()


def exports_onnx() -> bool:
    """Whether `torch.onnx` is exporting, by either of its exporters."""
    # The first two are cheap; both exporters trace.
    return (torch.jit.is_tracing() or torch.compiler.is_exporting()) and torch.onnx.is_in_onnx_export()


def in_transform_or_vmap() -> bool:
    """As `in_transform`, and under `torch.vmap` too: for a `torch.autograd.Function`, which has no rule for it."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or exports_onnx()


def _differentiates() -> bool:
    return any(level.key() in _DIFFERENTIATING for level in torch._C._functorch.get_interpreter_stack())


# Dynamo cannot trace this. So marked it is called during the trace, in the transform, and graphs are guarded by their
# transforms. torch.compiler.assume_constant_result sets the same, but would import all of Dynamo with the package.
_differentiates._dynamo_marked_constant = True
