"""Checks that two modules compute the same function, on random parameters and inputs, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

#: Largest relative L2 error of results and gradients in float64. Differences by rounding alone stay below 1e-12.
TOLERANCE = 1e-6


class Probe:
    """Random numbers in float64 that leave the global generators alone."""

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator("cpu").manual_seed(0)
        self.device = torch.device("cpu") if device.type == "meta" else device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device="cpu").to(self.device)

    def images(self, channels: int, *size: int) -> Tensor:
        """Eight images. Their channels have different means."""
        return self.normal(8, channels, *size) + 2 * self.normal(8, channels, *(1 for _ in size))

    @torch.no_grad()
    def fill(self, module: nn.Module) -> nn.Module:
        """Make `module` float64, with random parameters and statistics.

        Otherwise a layer whose weights start at zero would hide the layers behind it.
        """
        module.double().to_empty(device=self.device).requires_grad_()
        for parameter in module.parameters():
            parameter.copy_(self.normal(*parameter.shape) * max(parameter[:1].numel(), 1) ** -0.5)
        for buffer in module.buffers():
            buffer.copy_(self.normal(*buffer.shape).abs() + 0.5 if buffer.is_floating_point() else torch.tensor(3))
        return module


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference divided by that of `expected`; inf if shapes or dtypes differ."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))


def difference(original: nn.Module, fused: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """A description of how two modules with equal parameters differ, or None. Their running statistics change."""
    for training in (True, False):
        original.train(training)
        fused.train(training)
        for x in inputs:
            expected, actual = _results(original, x), _results(fused, x)
            for name, value in expected.items():
                if not relative_error(actual[name], value) <= TOLERANCE:
                    return f"{name} differs in {'training' if training else 'eval'} mode"
    return None


def _results(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Result, gradients and statistics of one call."""
    x = x.clone().requires_grad_()
    taken = x * 1  # not a leaf, because the module may overwrite it
    y = module(taken)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    leaves = {"the input": x} | {f"parameter {i}": p for i, p in enumerate(module.parameters())}
    grads = torch.autograd.grad((y * weights).sum(), leaves.values(), allow_unused=True)
    results = {"the result": y.detach(), "what is left of the input": taken.detach()}
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        results[f"the gradient of {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return results | {f"statistic {i}": buffer.double() for i, buffer in enumerate(module.buffers())}
