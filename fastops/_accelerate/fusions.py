"""Fuses blocks, pairs of consecutive modules, and single activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _pair

from fastops._accelerate import squeeze
from fastops._accelerate.calls import Slot, bare_copy, find_calls, first_line
from fastops._accelerate.check import Probe, difference
from fastops._accelerate.report import LeftAlone
from fastops._accelerate.swap import change_class, replace, swap_of
from fastops.nn import BatchNormMish1d, BatchNormMish2d, BatchNormMish3d, Mish, MishMaxPool2d

#: Plain class -> the fused class, and the image sizes to check it with.
NORMS = {
    nn.BatchNorm1d: (BatchNormMish1d, [(), (5,)]),
    nn.BatchNorm2d: (BatchNormMish2d, [(5, 7)]),
    nn.BatchNorm3d: (BatchNormMish3d, [(5, 7, 3)]),
}
PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
QUANTIZED = ("torch.ao.", "torch.nn.quantized", "torch.nn.qat", "torch.nn.intrinsic")
FRESH = (_BatchNorm, _ConvNd, nn.Linear)  # their results are new tensors, unlike those of nn.Identity and nn.Flatten
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def looks_like_mish(module: nn.Module) -> bool:
    return "mish" in type(module).__name__.lower() and not (module._modules or module._parameters or module._buffers)


def why_closed(module: nn.Module) -> str | None:
    """The reason why nothing in `module` may be changed, or None."""
    if not PARALLEL.isdisjoint(cls.__name__ for cls in type(module).__mro__):
        return "accelerate the module before it is wrapped for parallel training"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled TorchScript"
    if hasattr(module, "_orig_mod"):
        return "accelerate the module before torch.compile"
    if type(module).__module__.startswith(QUANTIZED) or vars(module).get("qconfig") is not None:
        return "it is quantized, or prepared for it"
    return None


def is_closed(module: nn.Module) -> bool:
    return swap_of(module) is not None or why_closed(module) is not None


def why_untouchable(*modules: nn.Module) -> str | None:
    """The reason why one of the modules must not be replaced, or None."""
    for module in modules:
        if any(vars(module).get(name) for name in HOOKS):
            return f"{type(module).__name__} has hooks"
        if "forward" in vars(module):
            return f"the forward of {type(module).__name__} was replaced on the instance"
    return None


def is_leaf(module: nn.Module) -> bool:
    """Whether the tracer keeps a call of `module` as one node."""
    return bool(
        is_closed(module)
        or why_untouchable(module)
        or isinstance(module, _BatchNorm)
        or looks_like_mish(module)
        or type(module).__module__.startswith("fastops.")
    )


class Fusion:
    """Changes `model` when constructed; `left_alone` lists what it did not change."""

    def __init__(self, model: nn.Module) -> None:
        self.left_alone: list[LeftAlone] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._slots: list[Slot] = []
        self._mish: dict[nn.Module, bool | None] = {}  # whether a Mish is in place; None if the module is no Mish
        self._opened: dict[nn.Module, bool] = {}
        self._open(model)
        if looks_like_mish(model) and type(model) is not Mish:
            self._leave(model, "it is the model itself, and only what a model holds is replaced")
        if any(self._is_mish(slot.module) for slot in self._slots):
            self._fuse_pairs(model)
            self._replace_mish()

    def _name(self, slot: Slot) -> str:
        return f"{self._names[slot.parent]}.{slot.name}".lstrip(".")

    def _leave(self, module: nn.Module, reason: str) -> None:
        self.left_alone.append(LeftAlone(self._names[module], type(module).__name__, reason))

    # ---- blocks ----------------------------------------------------------------------------------------------

    def _open(self, module: nn.Module) -> bool:
        """Fuse the blocks in `module`, find the slots of everything else, and return whether there is a block."""
        if module not in self._opened:
            self._opened[module] = True
            if reason := why_closed(module):
                self._leave(module, reason)
            if not (is_closed(module) or self._fuse_norm_act(module)):
                self._slots += [Slot(module, name) for name, child in module._modules.items() if child is not None]
                found = [self._open(child) for child in module._modules.values() if child is not None]
                # A container with a single block has the block's parameters too.
                self._opened[module] = any(found) or self._fuse_squeeze(module)
        return self._opened[module]

    def _fuse_squeeze(self, module: nn.Module) -> bool:
        if type(module).__module__.startswith("fastops."):
            return True
        layout = squeeze.examine(module)
        if layout is None:
            return False
        if reason := layout if isinstance(layout, str) else why_untouchable(*module.modules()):
            self._leave(module, reason)
        else:
            squeeze.fuse(module, layout)
        return True

    def _fuse_norm_act(self, module: nn.Module) -> bool:
        """Fuse a batch norm whose class also runs its child `act`, such as timm's BatchNormAct2d."""
        base = next((base for base in NORMS if isinstance(module, base)), None)
        act = module._modules.get("act")
        if base in (None, type(module)) or act is None or not self._is_mish(act):
            return False
        if reason := why_untouchable(*module.modules()) or self._norm_differs(module, base):
            self._leave(module, reason)
            return False
        change_class(module, NORMS[base][0], was=type(module).__name__)
        return True

    # ---- pairs -----------------------------------------------------------------------------------------------

    def _fuse_pairs(self, model: nn.Module) -> None:
        self._calls, untraced = find_calls(model, is_leaf, is_closed)
        slots_of = Counter(child for module in model.modules() for child in module._modules.values())
        for pool, mish in self._pairs(lambda module: type(module) is nn.MaxPool2d, self._is_mish):
            if not self._reported(mish, pool, self._why_not_pool(mish, pool)):
                fused = MishMaxPool2d(pool.module.kernel_size, pool.module.stride, pool.module.padding)
                replace(pool, fused, was=f"Mish + {type(pool.module).__name__}")
                replace(mish, nn.Identity())
        for mish, norm in self._pairs(self._is_mish, lambda module: isinstance(module, _BatchNorm)):
            shared = slots_of[norm.module] > 1 and "the batch norm is in several slots"
            if not self._reported(norm, mish, shared or self._why_not_norm(norm, mish)):
                change_class(norm.module, NORMS[type(norm.module)][0], was=f"{type(norm.module).__name__} + Mish")
                replace(mish, nn.Identity())
        for module, error in untraced.items():
            slots = [Slot(module, name) for name, child in module._modules.items() if child is not None]
            unknown = [slot for slot in slots if slot not in self._calls]
            if any(isinstance(s.module, _BatchNorm) for s in unknown) and any(self._is_mish(s.module) for s in unknown):
                self._leave(module, f"what its Mish takes is unknown: torch.fx cannot trace it ({error})")

    def _pairs(self, is_second: Callable, is_first: Callable) -> Iterator[tuple[Slot, Slot]]:
        """Pairs of slots: one, and the slot whose result it takes."""
        for second in self._slots:
            if is_second(second.module):
                sources = {source for source, _ in self._calls.get(second, ()) if source and is_first(source.module)}
                yield from ((second, source) for source in sorted(sources, key=self._name))

    def _reported(self, first: Slot, second: Slot, reason: str | None) -> bool:
        if reason:
            kind = f"{type(first.module).__name__} + {type(second.module).__name__}"
            self.left_alone.append(LeftAlone(self._name(first), kind, reason))
        return bool(reason)

    def _why_apart(self, first: Slot, second: Slot) -> str | None:
        """The reason why the two do not always run one directly after the other, or None."""
        first_name, second_name = type(first.module).__name__, type(second.module).__name__
        if not self._goes_to(first, second):
            return f"the result of the {first_name} is used elsewhere too"
        if any(source != first for source, _ in self._calls[second]):
            return f"the {second_name} runs elsewhere too"
        return why_untouchable(first.module, second.module)

    def _goes_to(self, first: Slot, second: Slot) -> bool:
        return all(user == second for _, user in self._calls[first])

    def _why_not_norm(self, norm: Slot, mish: Slot) -> str | None:
        if (kind := type(norm.module)) not in NORMS:
            return f"only {', '.join(plain.__name__ for plain in NORMS)} can be fused"
        return self._why_apart(norm, mish) or self._norm_differs(norm.module, kind, nn.Mish())

    def _norm_differs(self, norm: nn.Module, base: type[nn.Module], *then: nn.Module) -> str | None:
        fused_class, sizes = NORMS[base]

        def both(probe: Probe) -> tuple[nn.Module, nn.Module]:
            original = probe.fill(bare_copy(norm))
            fused = bare_copy(original)
            fused.__class__ = fused_class
            return nn.Sequential(original, *then), fused

        return self._differ(norm, both, norm.num_features, sizes)

    def _why_not_pool(self, mish: Slot, pool: Slot) -> str | None:
        module = pool.module
        if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
            return "the pool must have dilation 1, ceil_mode False and return_indices False"
        if self._mish[mish.module]:  # in place
            sources = {source for source, _ in self._calls[mish]}
            if not all(s and isinstance(s.module, FRESH) and self._goes_to(s, mish) for s in sources):
                return "the Mish overwrites what may be used elsewhere too"

        def both(probe: Probe) -> tuple[nn.Module, nn.Module]:
            fused = MishMaxPool2d(module.kernel_size, module.stride, module.padding)
            return nn.Sequential(nn.Mish(), bare_copy(module)), fused

        size = tuple(2 * kernel + 3 for kernel in _pair(module.kernel_size))
        return self._why_apart(mish, pool) or self._differ(module, both, 3, [size])

    # ---- activations -----------------------------------------------------------------------------------------

    def _is_mish(self, module: nn.Module) -> bool:
        """Whether the module is called Mish and computes Mish. If only the name fits, that is reported once."""
        if not looks_like_mish(module) or swap_of(module):
            return False
        if module not in self._mish:
            # Test whether it works in place, because some modules ignore the argument.
            reasons = {inplace: self._why_not_mish(module, inplace) for inplace in (True, False)}
            self._mish[module] = next((inplace for inplace, reason in reasons.items() if reason is None), None)
            if all(reasons.values()):
                self._leave(module, reasons[False])
        return self._mish[module] is not None

    def _why_not_mish(self, module: nn.Module, inplace: bool) -> str | None:
        return self._differ(module, lambda _: (bare_copy(module), Mish(inplace)), 3, [(9, 9), (66, 40)])

    def _replace_mish(self) -> None:
        """Replace the Mish modules that are in no pair."""
        single = dict.fromkeys(
            slot.module for slot in self._slots if type(slot.module) is not Mish and self._is_mish(slot.module)
        )
        for module in single:
            if reason := why_untouchable(module):
                self._leave(module, reason)
                continue
            fused = Mish(self._mish[module])
            for slot in self._slots:
                if slot.module is module:
                    replace(slot, fused, was=type(module).__name__)

    def _differ(self, module: nn.Module, both: Callable, channels: int, sizes: list[tuple[int, ...]]) -> str | None:
        """A description of how the original and the fused module from `both` differ, or None."""
        device = next((t.device for t in (*module.parameters(), *module.buffers())), self._device)
        probe = Probe(device)
        try:
            original, fused = both(probe)
            found = difference(original, fused, [4 * probe.images(channels, *size) for size in sizes])
        except Exception as error:  # the module's own error, or no kernel for the device
            return f"the comparison fails: {first_line(error)}"
        return found and f"fused, {found}"
