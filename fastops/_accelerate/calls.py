"""The call graph of a model, from torch.fx: which module's result goes to which module."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy


class Slot(NamedTuple):
    """The child `name` of `parent`. One module may be in several slots."""

    parent: nn.Module
    name: str

    @property
    def module(self) -> nn.Module:
        return self.parent._modules[self.name]


#: For each call of a slot: the slot that its only input comes from, and the only slot that uses its result.
#: None stands for anything else.
Calls = Mapping[Slot, set[tuple["Slot | None", "Slot | None"]]]


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def bare_copy(module: nn.Module, replaced: Mapping[int, object] | None = None) -> nn.Module:
    """A deep copy without hooks, so that running it has no side effects.

    `replaced` maps ids to objects that are used in place of a copy.
    """
    memo = dict(replaced or {})
    for part in module.modules():
        memo |= {id(hooks): OrderedDict() for name, hooks in vars(part).items() if "_hooks" in name}
    return copy.deepcopy(module, memo)


def find_calls(
    model: nn.Module, is_leaf: Callable[[nn.Module], bool], is_closed: Callable[[nn.Module], bool]
) -> tuple[Calls, dict[nn.Module, str]]:
    """The calls that `model` makes in training and in eval mode, as far as they are known, and the untraceable modules.

    The largest modules that torch.fx can trace are traced. The calls of a module that it cannot trace are unknown,
    except for an `nn.Sequential`, which calls its children one after the other. Leaves are not traced into, and the
    children of closed modules are skipped. The second result maps each module that cannot be traced to the reason.
    """
    calls: defaultdict[Slot, set[tuple[Slot | None, Slot | None]]] = defaultdict(set)
    failures: dict[nn.Module, str] = {}
    pending, seen = [model], set()
    while pending:
        root = pending.pop()
        if root in seen or is_closed(root) or not root._modules:
            continue
        seen.add(root)
        leaves = {name: m for name, m in root.named_modules(remove_duplicate=False) if name and is_leaf(m)}
        try:
            graphs = _trace(root, leaves.keys())
        except Exception as error:  # whatever the model's code raises when it is given no tensor
            if type(root).forward is nn.Sequential.forward and "forward" not in vars(root):
                _add_chain(calls, root)
            else:
                failures[root] = first_line(error)
            pending += [child for child in root._modules.values() if child is not None]
        else:
            for graph in graphs:
                _add_graph(calls, root, graph)
            pending += leaves.values()
    return calls, failures


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Set[str]) -> None:
        super().__init__()
        self.leaves = leaves

    def path_of_module(self, mod: nn.Module) -> str:
        return self.submodule_paths.get(mod, "")  # "": made in forward, such as a slice of an nn.Sequential

    def is_leaf_module(self, m: nn.Module, path: str) -> bool:
        return path in self.leaves or (path != "" and super().is_leaf_module(m, path))


def _trace(root: nn.Module, leaves: Set[str]) -> list[fx.Graph]:
    """The graphs of `root.forward` for both modes, each with and without the optional arguments.

    A copy with parameters without memory is traced, so changes that `forward` makes to its module are lost.
    """
    copied = bare_copy(root, {id(p): _without_memory(p) for p in root.parameters()})
    _unshare(copied)
    parameters = inspect.signature(copied.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    graphs = []
    for mode in (True, False):
        copied.train(mode)
        # A traced optional argument is not None; one that is not traced has its default.
        for constants in [{}, defaults] if defaults else [{}]:
            graphs.append(_Tracer(leaves).trace(copied, constants))
    return graphs


def _without_memory(parameter: nn.Parameter) -> nn.Parameter:
    if is_lazy(parameter):
        return parameter
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _unshare(model: nn.Module) -> None:
    """Give each slot its own copy of a module that has neither parameters nor children.

    The graph distinguishes modules, not slots, and models often use one activation in several slots.
    """
    seen = set()
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in seen and not (child._modules or child._parameters or child._buffers):
                parent._modules[name] = copy.copy(child)
            seen.add(child)


def _add_graph(calls: defaultdict, root: nn.Module, graph: fx.Graph) -> None:
    def slot(node: object) -> Slot | None:
        if not (isinstance(node, fx.Node) and node.op == "call_module"):
            return None
        path, _, name = node.target.rpartition(".")
        return Slot(root.get_submodule(path), name)

    def source(node: fx.Node) -> fx.Node | None:
        inputs = (*node.args, *node.kwargs.values())
        return inputs[0] if len(inputs) == 1 else None

    for node in graph.nodes:
        if called := slot(node):
            user = next(iter(node.users)) if len(node.users) == 1 else None
            calls[called].add((slot(source(node)), slot(user) if user and source(user) is node else None))


def _add_chain(calls: defaultdict, sequential: nn.Sequential) -> None:
    slots = [Slot(sequential, name) for name in sequential._modules]
    for before, slot, after in zip([None, *slots], slots, [*slots[1:], None], strict=False):
        calls[slot].add((before, after))
