"""Makes modules leaves in graphs of `torch.fx`. By default only the modules of `torch.nn` are leaves."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


def is_traced(x: Any) -> bool:
    """Whether `x` is a value of a graph that `torch.fx` is tracing."""
    return isinstance(x, fx.Proxy)


def leaf_call(module: nn.Module, x: fx.Proxy) -> fx.Proxy:
    """Add a call of `module` to the graph.

    Raises:
        TypeError: if the module is the root of the trace.
    """
    try:
        path = x.tracer.path_of_module(module)
    except NameError:
        path = ""
    if not path:
        name = type(module).__name__
        raise TypeError(f"{name}: torch.fx must trace a module that holds it, or fastops.restore(model), got it alone")
    return x.tracer.create_proxy("call_module", path, (x,), {})
