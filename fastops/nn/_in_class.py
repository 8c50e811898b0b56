"""Modules in another class for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_class(model: nn.Module, original: type[nn.Module], other: type[nn.Module]) -> Iterator[None]:
    """For a `with` block, make every `original` in the model, no subclass of it, an `other`: the same objects, so
    that optimizers, hooks and checkpoints go on with them."""
    modules = [module for module in model.modules() if type(module) is original]
    for module in modules:
        module.__class__ = other
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = original
