"""Detects transforms for which ops registered through torch.library have no derivative formula."""

from __future__ import annotations

import torch
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

_DIFFERENTIATING = (TransformType.Grad, TransformType.Jvp)


def in_transform() -> bool:
    """Whether this call is in forward mode, a transform of `torch.func` (`grad`, `vjp`, `jvp`) or an ONNX export.

    If so, the public functions call [`fastops.reference`][]. Without that, forward mode would silently treat an op as
    a constant, `torch.func.grad` would raise an error about `setup_context`, and `torch.onnx` would not know the op.
    `vmap` alone needs no reference: the ops have rules for it.
    """
    if forward_ad._current_level >= 0:  # -1 outside of forward mode; torch.func.jvp has a level too
        return True
    if exports_onnx():
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    return _differentiates()


def exports_onnx() -> bool:
    """Whether either of the exporters of `torch.onnx` is running."""
    # The first two checks are cheap, and both exporters trace.
    return (torch.jit.is_tracing() or torch.compiler.is_exporting()) and torch.onnx.is_in_onnx_export()


def in_transform_or_vmap() -> bool:
    """Like `in_transform`, but also true under `torch.vmap`, for which a `torch.autograd.Function` has no rule."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or exports_onnx()


def _differentiates() -> bool:
    return any(level.key() in _DIFFERENTIATING for level in torch._C._functorch.get_interpreter_stack())


# Dynamo cannot trace these functions. This mark makes it call them during the trace, inside the transform. A graph has
# guards for its transforms. torch.compiler.assume_constant_result sets the same mark but would import all of Dynamo.
_differentiates._dynamo_marked_constant = True
