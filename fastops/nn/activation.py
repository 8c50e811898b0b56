"""Activation modules."""

from __future__ import annotations

from torch import Tensor, nn

from fastops.nn._tracing import is_traced, leaf_call
from fastops.ops.mish import mish, mish_


class Mish(nn.Module):
    r"""Mish activation $f(x) = x \tanh(\ln(1 + e^x))$; drop-in for `torch.nn.Mish`.

    Args:
        inplace: overwrite the input (for inference; see [`fastops.mish_`][]).

    Shapes and dtypes are those of [`fastops.mish`][].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.Mish()(torch.zeros(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x):
            return leaf_call(self, x)
        return mish_(x) if self.inplace else mish(x)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""
