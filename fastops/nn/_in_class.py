"""Changes the class of modules for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_class(model: nn.Module, original: type[nn.Module], other: type[nn.Module]) -> Iterator[None]:
    """For a `with` block, change the class of every `original` in the model to `other`.

    Subclasses of `original` are left alone. The modules stay the same objects, so optimizers, hooks and checkpoints
    keep working.
    """
    modules = [module for module in model.modules() if type(module) is original]
    for module in modules:
        module.__class__ = other
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = original
