"""Replaces the activations of a model, and restores them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Replaced:
    """The result of `replace_activations`.

    Attributes:
        names: dotted names of the replaced modules.
    """

    def __init__(self, slots: list[tuple[nn.Module, str, nn.Module]], names: list[str]) -> None:
        self._slots, self.names = slots, names

    def restore(self) -> None:
        """Put the replaced modules back. The parameters of the new modules are lost."""
        for parent, name, old in self._slots:
            setattr(parent, name, old)
        self._slots = []

    def __repr__(self) -> str:
        return f"Replaced({', '.join(self.names)})"


def replace_activations(
    model: nn.Module,
    old: type[nn.Module] | tuple[type[nn.Module], ...],
    new: Callable[..., nn.Module],
    *,
    example: Tensor | tuple[Tensor, ...] | None = None,
) -> Replaced:
    """Replace every activation of class `old` in `model` by a module that `new` makes, in place.

    Each replacement is a new module, on the device and in the dtype of the model's parameters. If the model uses one
    module in several slots, one new module replaces it in all of them. Activations that a `forward` calls as functions,
    such as `F.relu`, are not found.

    Args:
        model: the module that contains the activations; not an activation itself.
        old: class or classes to replace, and their subclasses.
        new: makes a module, such as `fastops.nn.AReLU` or `functools.partial(fastops.nn.AReLU, init="paper")`.
        example: an input of the model, or a tuple of inputs. If given, each activation gets one set of parameters per
            channel instead of one per layer. The model runs on it once, in eval mode, to find the number of channels
            (dimension 1) of each activation, and `new(num_parameters=channels)` is called.

    Returns:
        A `Replaced` with the names of the replaced modules; its `restore()` undoes the replacement.

    Raises:
        ValueError: if the model has no such module or is one itself, or if the example does not reach one.

    Make the optimizer afterwards, because the new modules have parameters.

    Example:
        >>> import torch, fastops
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> replaced = fastops.replace_activations(model, torch.nn.ReLU, fastops.nn.AReLU)
        >>> replaced.names, model[1]
        (['1'], AReLU(num_parameters=1))
        >>> replaced.restore()
        >>> model[1]
        ReLU()
    """
    if isinstance(model, old):
        raise ValueError(f"replace_activations: model must hold the activations, got {type(model).__name__} itself")
    slots = [
        (parent, name, child, f"{prefix}.{name}" if prefix else name)
        for prefix, parent in model.named_modules()
        for name, child in parent._modules.items()  # named_children lists a module that is in several slots only once
        if isinstance(child, old)
    ]
    if not slots:
        classes = ", ".join(kind.__name__ for kind in (old if isinstance(old, tuple) else (old,)))
        raise ValueError(f"replace_activations: model must have modules of class {classes}, got none")
    channels = {} if example is None else _channels(model, [child for _, _, child, _ in slots], example)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    made: dict[nn.Module, nn.Module] = {}
    for _, _, child, name in slots:
        if child not in made:
            if example is not None and child not in channels:
                raise ValueError(f"replace_activations: example must reach {name}, got an input that does not")
            module = new() if example is None else new(num_parameters=channels[child])
            made[child] = module.to(like.device, like.dtype).train(child.training)
    for parent, name, child, _ in slots:
        setattr(parent, name, made[child])
    return Replaced([slot[:3] for slot in slots], [slot[3] for slot in slots])


@torch.no_grad()
def _channels(
    model: nn.Module, activations: list[nn.Module], example: Tensor | tuple[Tensor, ...]
) -> dict[nn.Module, int]:
    """The size of dimension 1 of each activation's input."""
    found: dict[nn.Module, int] = {}
    hooks = [
        module.register_forward_pre_hook(lambda own, inputs: found.__setitem__(own, inputs[0].shape[1]))
        for module in set(activations)
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found
