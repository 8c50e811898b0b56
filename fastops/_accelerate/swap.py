"""Changes modules in place. The change can be undone, also on a copy of the model or after pickling it.

A module with parameters changes its class but stays the same object: it keeps its parameters, mode and hooks, and all
references to it stay valid. A module without parameters is replaced in its slot, because other models may use it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fastops._accelerate.calls import Slot


@dataclass(frozen=True)
class Swap:
    """The original module of a slot. The fused module keeps it as its attribute `_swap`."""

    original: nn.Module | type[nn.Module]
    was: str | None  # its name in the report; None for the Identity that replaces a module fused into another
    attributes: tuple[str, ...] = ()  # attributes that the fused class needs and the original lacks


def swap_of(module: nn.Module) -> Swap | None:
    return vars(module).get("_swap")


def change_class(module: nn.Module, fused: type[nn.Module], was: str, **attributes: Any) -> None:
    """Change the class of `module` to `fused` and set its additional attributes."""
    vars(module).update(attributes, _swap=Swap(type(module), was, tuple(attributes)))
    module.__class__ = fused


def replace(slot: Slot, fused: nn.Module, was: str | None = None) -> None:
    """Put `fused` into the slot, in the mode of the module that it replaces."""
    vars(fused)["_swap"] = Swap(slot.module, was)
    slot.parent._modules[slot.name] = fused.train(slot.module.training)


def undo(model: nn.Module) -> None:
    """Undo every change in `model`."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            swap = child and swap_of(child)
            if swap and isinstance(swap.original, nn.Module):
                module._modules[name] = swap.original.train(child.training)
        if (swap := swap_of(module)) and isinstance(swap.original, type):
            module.__class__ = swap.original
            for name in ("_swap", *swap.attributes):
                delattr(module, name)


def fused_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Names, fused modules and what they replaced. A module in several slots is listed once."""
    for name, module in model.named_modules():
        if (swap := swap_of(module)) and swap.was is not None:
            yield name, module, swap.was
