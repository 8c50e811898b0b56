"""Adaptive activation modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastops.ops.adaptive import adaptive_relu, adaptive_sigmoid, adaptive_tanh


class _Adaptive(nn.Module):
    """Base of the modules: parameters a, b, c, d with `num_parameters` elements each, and their initial values."""

    def __init__(self, num_parameters: int, start: tuple[float, float, float, float], device, dtype) -> None:
        super().__init__()
        if num_parameters < 1:
            raise ValueError(f"{type(self).__name__}: num_parameters must be at least 1, got {num_parameters}")
        self.num_parameters, self.start = num_parameters, start
        for name in "abcd":
            setattr(self, name, nn.Parameter(torch.empty(num_parameters, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset all parameters to their initial values."""
        for parameter, value in zip((self.a, self.b, self.c, self.d), self.start, strict=True):
            nn.init.constant_(parameter, value)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ASigmoid(_Adaptive):
    r"""Adaptive sigmoid $b \, \sigma(a x + c) + d$ with learnable a, b, c, d; see [`fastops.adaptive_sigmoid`][].

    Args:
        num_parameters: 1 for one set of parameters, or the number of channels (dimension 1 of the input), as in
            `nn.PReLU`.
        a, b, c, d: initial values; the defaults give the plain sigmoid.

    Raises:
        ValueError: `ASigmoid: num_parameters must be at least 1, got ...`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.ASigmoid(3)(torch.zeros(2, 3, 4, 4)).mean()
        tensor(0.5000, grad_fn=<MeanBackward0>)
    """

    def __init__(
        self,
        num_parameters: int = 1,
        a: float = 1.0,
        b: float = 1.0,
        c: float = 0.0,
        d: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_parameters, (a, b, c, d), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_sigmoid(x, self.a, self.b, self.c, self.d)


class ATanh(_Adaptive):
    r"""Adaptive tanh $b \tanh(a x + c) + d$ with learnable a, b, c, d; see [`fastops.adaptive_tanh`][].

    Args:
        num_parameters: 1 for one set of parameters, or the number of channels (dimension 1 of the input), as in
            `nn.PReLU`.
        a, b, c, d: initial values; the defaults give plain tanh.

    Raises:
        ValueError: `ATanh: num_parameters must be at least 1, got ...`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.ATanh()(torch.ones(2, 3)).mean()
        tensor(0.7616, grad_fn=<MeanBackward0>)
    """

    def __init__(
        self,
        num_parameters: int = 1,
        a: float = 1.0,
        b: float = 1.0,
        c: float = 0.0,
        d: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(num_parameters, (a, b, c, d), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_tanh(x, self.a, self.b, self.c, self.d)


class AReLU(_Adaptive):
    r"""Adaptive ReLU $\max(a x + c, \; b x + d)$ with learnable a, b, c, d; see [`fastops.adaptive_relu`][].

    Args:
        num_parameters: 1 for one set of parameters, or the number of channels (dimension 1 of the input), as in
            `nn.PReLU`.
        a, b, c, d: initial values, which override those of `init`; `b=0.25` is PReLU.
        init: "relu" starts as ReLU, (1, 0, 0, 0). "paper" starts like the authors' code, (1, 1, 0, 0), the identity.

    Raises:
        ValueError: `AReLU: num_parameters must be at least 1, got ...`, `AReLU: init must be ...`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.AReLU(b=0.25)(torch.tensor([-1.0, 2.0])).tolist()
        [-0.25, 2.0]
    """

    def __init__(
        self,
        num_parameters: int = 1,
        a: float | None = None,
        b: float | None = None,
        c: float | None = None,
        d: float | None = None,
        init: str = "relu",
        device=None,
        dtype=None,
    ) -> None:
        starts = {"relu": (1.0, 0.0, 0.0, 0.0), "paper": (1.0, 1.0, 0.0, 0.0)}
        if init not in starts:
            raise ValueError(f"AReLU: init must be one of {', '.join(starts)}, got {init!r}")
        chosen = [own if given is None else given for own, given in zip(starts[init], (a, b, c, d), strict=True)]
        super().__init__(num_parameters, tuple(chosen), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_relu(x, self.a, self.b, self.c, self.d)
