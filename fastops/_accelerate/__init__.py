"""Puts fused ops into a model that was written without them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from fastops import nn as fastops_nn
from fastops._accelerate import swap
from fastops._accelerate.calls import first_line
from fastops._accelerate.check import relative_error
from fastops._accelerate.fusions import Fusion
from fastops._accelerate.report import AccelerationReport, Change, LeftAlone

__all__ = ["accelerate", "acceleration_report", "restore"]

#: Largest relative L2 error of the whole model's result on example_inputs. A deep network in float32 stays below 1e-5.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.1}


def accelerate(model: nn.Module, *, example_inputs: Any = None, verbose: bool = True) -> nn.Module:
    r"""Replace layers of `model` by the fused modules of this package, in place.

    | found | becomes |
    | --- | --- |
    | `nn.Mish` and other modules called Mish that compute it | [`fastops.nn.Mish`][] |
    | `nn.BatchNorm1d`, `2d` or `3d`, then Mish | [`fastops.nn.BatchNormMish2d`][] and Identity |
    | Mish, then `nn.MaxPool2d` | Identity and [`fastops.nn.MishMaxPool2d`][] |
    | batch norm that contains a Mish (timm's BatchNormAct2d) | [`fastops.nn.BatchNormMish2d`][] |
    | $x \, \sigma(W_2 \, \mathrm{ReLU}(W_1 \bar x))$ blocks | one call of [`fastops.se_attention`][] |

    Squeeze-and-excitation blocks are recognised by the shapes of their parameters, so the blocks of torchvision, timm
    and other packages are found whatever their names are.

    Two modules are fused if `torch.fx` shows that they run one after the other wherever `forward` calls them, in
    training and in eval mode. If a model cannot be traced as a whole, its traceable blocks are traced separately. The
    children of an `nn.Sequential` always count as running in order.

    Before each replacement, the results and gradients of both modules are compared on random numbers. A module is left
    alone if they differ, and also if it has hooks, or is quantized, scripted, compiled or wrapped for parallel
    training.

    Parameters and buffers stay the same tensors, with the same names and order, and the mode stays the same. So
    checkpoints and optimizers still fit. [`fastops.restore`][] undoes the replacement, also on copies of the model.

    `torch.jit.trace`, `torch.fx` and `torch.export` keep the fused modules or ops. `torch.onnx` exports plain
    operations of torch instead. Do the following before `accelerate` or after `restore`: fold batch norms, convert them
    to SyncBatchNorm, quantize, and script. Such tools see a batch norm and would lose the Mish; SyncBatchNorm and
    quantization raise an error that says so. Code that tests for classes (`isinstance(layer, nn.Mish)`) finds the fused
    classes.

    Args:
        model: any module; modules that are already accelerated stay as they are.
        example_inputs: arguments for `model` (a tensor, a tuple, or a dict by name). The model runs on them in eval
            mode before and after; if the results differ, everything is undone.
        verbose: print [`acceleration_report`][fastops.acceleration_report].

    Returns:
        `model` itself.

    Raises:
        TypeError: `accelerate: model must be a torch.nn.Module, got ...`.

    Examples:

        >>> import torch, fastops
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Mish(), nn.Conv2d(8, 8, 3), nn.Mish())
        >>> model = fastops.accelerate(model)
        accelerate: 2 changed, 0 left alone
        changed 1  BatchNorm2d + Mish  -> fastops.nn.BatchNormMish2d  1
        changed 1  Mish                -> fastops.nn.Mish             4
        >>> fastops.restore(model)[4]
        Mish()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}")
    before = None if example_inputs is None else _results(model, example_inputs)
    known = vars(model).get("_left_alone", ())
    with torch.inference_mode(False), torch.enable_grad(), _same_random_numbers(model):
        left_alone = Fusion(model).left_alone
    if before is not None and (reason := _why_not_as(before, model, example_inputs)):
        swap.undo(model)
        left_alone = [LeftAlone("", type(model).__name__, reason)]
    else:  # keep what only an earlier call has reported, unless it is fused now
        changed = {name for name, *_ in swap.fused_modules(model)}
        found = {(left.name, left.kind): left for left in left_alone}
        kept = [found.pop((left.name, left.kind), left) for left in known if left.name not in changed]
        left_alone = kept + list(found.values())
    vars(model)["_left_alone"] = tuple(left_alone)
    if verbose:
        print(f"accelerate: {acceleration_report(model)}")
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo [`accelerate`][fastops.accelerate]: put the original modules back, with the current parameters.

    Args:
        model: an accelerated model, a copy of one, or a model that contains some.

    Returns:
        `model` itself.

    Raises:
        TypeError: `restore: model must be a torch.nn.Module, got ...`.

    Examples:

        >>> import torch, fastops
        >>> model = torch.nn.Sequential(torch.nn.Mish())
        >>> mish = model[0]
        >>> fastops.restore(fastops.accelerate(model, verbose=False))[0] is mish
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"restore: model must be a torch.nn.Module, got {type(model).__name__}")
    swap.undo(model)
    for module in model.modules():
        vars(module).pop("_left_alone", None)
    return model


def acceleration_report(model: nn.Module) -> AccelerationReport:
    """List what is fused in `model`, and what [`accelerate`][fastops.accelerate] left alone and why.

    Args:
        model: any module.

    Returns:
        `AccelerationReport` with the tuples `changed` (of `name`, `was`, `now`) and `left_alone` (of
        `name`, `kind`, `reason`). Its `str` is the table that [`accelerate`][fastops.accelerate] prints.

    Examples:

        >>> import torch, fastops
        >>> model = fastops.accelerate(torch.nn.Sequential(torch.nn.Mish(inplace=True)), verbose=False)
        >>> fastops.acceleration_report(model).changed
        (Change(name='0', was='Mish', now='fastops.nn.Mish'),)
    """
    changed = (Change(name, was, _public_name(type(module))) for name, module, was in swap.fused_modules(model))
    return AccelerationReport(tuple(changed), vars(model).get("_left_alone", ()))


def _public_name(fused: type[nn.Module]) -> str:
    return f"fastops.nn.{fused.__name__}" if hasattr(fastops_nn, fused.__name__) else fused.__name__


def _same_random_numbers(model: nn.Module) -> AbstractContextManager[None]:
    """Restore the caller's random number generators at the end of the block."""
    return torch.random.fork_rng({p.device for p in model.parameters() if p.device.type == "cuda"})


def _results(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    """The tensors of the model's result in eval mode. The model's modes and the inputs stay as they are."""
    copied = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, example_inputs)
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), _same_random_numbers(model):
            if isinstance(copied, Mapping):
                result = model.eval()(**copied)
            else:
                result = model.eval()(*(copied if isinstance(copied, (tuple, list)) else (copied,)))
    finally:
        for module, training in modes.items():
            module.training = training
    return [t for t in tree_leaves(result) if isinstance(t, Tensor)]


def _why_not_as(before: list[Tensor], model: nn.Module, example_inputs: Any) -> str | None:
    """The reason why the model's results differ from `before`, or None."""
    try:
        results = _results(model, example_inputs)
    except Exception as error:  # the model's own
        return f"it fails on example_inputs: {first_line(error)}"
    errors = [relative_error(a, e) / TOLERANCE.get(e.dtype, 1e-3) for a, e in zip(results, before, strict=True)]
    return None if all(e <= 1 for e in errors) else "its results on example_inputs differ"
