"""Recognises squeeze-and-excitation blocks by the shapes of their parameters and by their results."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fastops._accelerate.calls import bare_copy, first_line
from fastops._accelerate.check import Probe, difference
from fastops._accelerate.swap import change_class, swap_of
from fastops.nn._tracing import is_traced, leaf_call
from fastops.ops.se import se_attention

Path = tuple[str, ...]  # attribute names, from the outer module to the inner one


LARGE = (66, 40, 3)  # sides of the larger images that a block is tried on


class Layout(NamedTuple):
    """The paths of a block's parameters, and the number of dimensions of its images."""

    w1: Path
    b1: Path | None
    w2: Path
    b2: Path | None
    dims: int


class FusedSqueezeExcitation(nn.Module):
    """The new class of a squeeze-and-excitation block. The block's layers stay where they are.

    The original code runs if the input has a different number of dimensions or if there are more arguments.
    """

    _layout: Layout

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if is_traced(x):
            return leaf_call(self, x)
        *paths, dims = self._layout
        if args or kwargs or x.dim() != dims:
            return swap_of(self).original.forward(self, x, *args, **kwargs)
        w1, b1, w2, b2 = (None if path is None else reduce(getattr, path, self) for path in paths)
        return se_attention(x, w1.flatten(1), b1, w2.flatten(1), b2)


def fuse(block: nn.Module, layout: Layout) -> None:
    """Make `block` a fused block, in place."""
    change_class(block, FusedSqueezeExcitation, was=type(block).__name__, _layout=layout)


def examine(module: nn.Module) -> Layout | str | None:
    """The layout of a squeeze-and-excitation block.

    For any other module that scales channels, the reason why it is not such a block. None for the rest.
    """
    found = _find_layers(module)
    if found is None:
        return None
    paths, others = found
    first = reduce(getattr, paths[0], module)
    try:
        probe = Probe(first.device)
        original = probe.fill(bare_copy(module))
        dims = _dims_of_gate(original, first, probe)
    except Exception:  # any error of a module that is no such block, when it is copied or run
        return None
    if dims is None:
        return None
    others += [name for name, _ in module.named_buffers()]
    if others:
        return f"it holds more than two layers ({', '.join(others)})"
    layout = Layout(*paths, dims)
    reason = _difference(original, layout, first.shape[1], probe)
    if reason is None:
        return layout
    names = [type(m).__name__ for m in module.modules() if not m._modules and not m._parameters]
    activations = [name for name in names if not ("Pool" in name or name in ("Identity", "ReLU", "Sigmoid"))]
    if activations:
        return f"it has {' and '.join(activations)}, and the fused block only ReLU and Sigmoid"
    return f"it is not x sigmoid(w2 relu(w1 mean(x))): {reason}"


def _find_layers(module: nn.Module) -> tuple[list[Path | None], list[str]] | None:
    """Paths of w1 [R, C], b1, w2 [C, R], b2 among the module's parameters, and the names of all others.

    None if its matrices are not two such layers with R <= C. (Those of a transformer, which are large, have R > C.) The
    weight of a 1x1 convolution counts as a matrix. A bias follows its weight.
    """
    paths: list[Path | None] = []
    shapes: list[tuple[int, ...]] = []
    others: list[str] = []
    for name, parameter in module.named_parameters():
        path = tuple(name.split("."))
        if is_lazy(parameter) or len(shapes) > 2:
            return None
        if parameter.dim() >= 2:
            if parameter.shape[2:].numel() != 1:
                return None
            paths += [path, None]
            shapes.append(tuple(parameter.shape[:2]))
        elif paths and paths[-1] is None and path[:-1] == paths[-2][:-1] and parameter.shape == shapes[-1][:1]:
            paths[-1] = path
        else:
            others.append(name)
    if len(shapes) != 2 or shapes[0] != shapes[1][::-1] or shapes[0][0] > shapes[0][1]:
        return None
    return paths, others


@torch.no_grad()
def _dims_of_gate(block: nn.Module, first: Tensor, probe: Probe) -> int | None:
    """The number of dimensions of the images whose channels `block` scales, or None if it does something else."""
    block.eval()
    for dims in (first.dim(),) if first.dim() > 2 else (4, 3, 5):
        x = probe.images(first.shape[1], *_size(dims)).abs() + 0.5
        try:
            y = block(x.clone())
        except Exception:  # the block takes another number of dimensions, or is no such block
            continue
        if isinstance(y, Tensor) and y.shape == x.shape and not torch.equal(y, x):
            gate = (y / x).flatten(2)
            if (gate - gate.mean(2, keepdim=True)).abs().max() < 1e-4:
                return dims
    return None


def _difference(original: nn.Module, layout: Layout, channels: int, probe: Probe) -> str | None:
    fused = bare_copy(original)
    fuse(fused, layout)
    images = probe.images(channels, *_size(layout.dims))
    large = probe.normal(1, channels, *LARGE[: layout.dims - 2])  # some blocks pool differently beyond some size
    try:
        return difference(original, fused, [images, 8 * images, large])  # times 8: ReLU6 is not ReLU
    except Exception as error:
        return first_line(error)


def _size(dims: int) -> tuple[int, ...]:
    return (5, 7, 3)[: dims - 2]
