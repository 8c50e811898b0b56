"""Convolution with integer inputs, weights and sums, for inference on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastops.nn.frozen_conv import folded
from fastops.ops.quantized_conv import quantized_conv2d, quantized_conv2d_pack

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "mish": F.mish}
MAX_BIAS = 2**30  # in units of the sum, which stays below this bound too
SHRINK = tuple(1 - 0.02 * i for i in range(16))  # ranges to try, as fractions of a channel's largest weight


class Quantization(NamedTuple):
    """The values of uint8 levels: `value = scale * (level - zero_point)`.

    Example:
        >>> from fastops.nn import Quantization
        >>> q = Quantization.of_range(-1.0, 4.1)
        >>> q.zero_point, q.dequantize(q.quantize(torch.tensor([0.0, 1.0]))).tolist()
        (50, [0.0, 1.0])
    """

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Quantization:
        """Levels for the values from `low` to `high`. One level is exactly zero.

        Raises:
            ValueError: if the range is empty or not finite.
        """
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        if not (math.isfinite(low) and math.isfinite(high) and high > low):
            raise ValueError(f"Quantization.of_range: low and high must be finite and apart, got {low} and {high}")
        scale = (high - low) / 255
        return cls(scale, round(-low / scale))

    def quantize(self, x: Tensor) -> Tensor:
        """The nearest levels of a floating-point tensor. Halves round to even, and values out of range are clamped."""
        return (x / self.scale).round_().add_(self.zero_point).clamp_(0, 255).to(torch.uint8)

    def dequantize(self, levels: Tensor) -> Tensor:
        """float32 values of levels."""
        return (levels.float() - self.zero_point) * self.scale


#: The quantization of images: the levels are the values.
PIXELS = Quantization(1.0, 0)


class QuantizedConv2d(nn.Module):
    r"""A trained convolution in 8-bit integers, with its batch norm, activation and max pooling, for inference.

    $$y = \operatorname{pool}(f(w * x + b)), \qquad x \text{ and } y \text{ in uint8 levels, } w \text{ in int8}$$

    The weights have one scale per output channel, the activations one per tensor. Sums are exact in 32-bit integers.
    Any activation $f$ is a table of 256 values, so Mish costs as much as ReLU. Results have the same bits on every CPU
    and for any number of threads. The module is fast if `fastops.build_info()["int8_is_fast"]` is True.

    Build it with `from_float`. Its input is uint8 levels of `input`, or floating-point values, which it quantizes
    first. It returns uint8 levels of `output`, or float32 if `output` is None. It runs on the CPU only and has no
    gradient.

    Attributes:
        input: quantization of the input.
        output: quantization of the result; None for float32 results.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018.

    Example:
        >>> import torch, fastops
        >>> from fastops.nn import PIXELS, QuantizedConv2d
        >>> first = torch.nn.Conv2d(3, 16, 3, stride=2)
        >>> last = torch.nn.Conv2d(16, 8, 3, padding=1)
        >>> first = QuantizedConv2d.from_float(first, activation="mish", input=PIXELS, range=(-200, 200), pool=(3, 2))
        >>> last = QuantizedConv2d.from_float(last, input=first.output)
        >>> y = last(first(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)))
        >>> y.shape, y.dtype
        (torch.Size([1, 8, 7, 7]), torch.float32)
    """

    table: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        table: Tensor | None,
        *,
        input: Quantization,
        before: Quantization | None,
        output: Quantization | None,
        activation: str | Callable[[Tensor], Tensor] = "none",
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        pool: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        self.register_buffer("table", table)
        self.input, self.output, self._before = input, output, before
        self.activation, self.stride, self.padding, self.groups, self.pool = activation, stride, padding, groups, pool
        self._packed: tuple[Tensor, int, Tensor] | None = None  # the weight, its version, and the packed weights

    @classmethod
    def from_float(
        cls,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None = None,
        activation: str | Callable[[Tensor], Tensor] = "none",
        *,
        input: Quantization,
        range: tuple[float, float] | None = None,
        pool: tuple[int, int] | None = None,
        correction: Tensor | None = None,
    ) -> QuantizedConv2d:
        """Quantize a convolution.

        Args:
            conv: a convolution without dilation, padded with zeros, with numbers as padding.
            norm: a batch norm that follows it, in eval mode, or None. It is folded in.
            activation: "none", "relu", "mish", or any elementwise function.
            input: quantization of the input: `PIXELS`, another module's `output`, or `Quantization.of_range(...)`.
            range: lowest and highest value before the activation that the 256 levels cover. `best_range` finds a good
                one. None for float32 results.
            pool: size and stride of a max pool after the activation, square and without padding.
            correction: `[O]`, added to the bias; see `bias_correction`.

        Raises:
            ValueError: `QuantizedConv2d: <argument> must ...`.
        """
        function = ACTIVATIONS.get(activation) if isinstance(activation, str) else activation
        if function is None:
            raise ValueError(
                f"QuantizedConv2d: activation must be {', '.join(ACTIVATIONS)} or a function, got {activation!r}"
            )
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or conv.dilation != (1, 1):
            raise ValueError("QuantizedConv2d: conv must have numbers as padding, padding_mode zeros and no dilation")
        if range is None and pool is not None:
            raise ValueError("QuantizedConv2d: pool must go with a range: float32 results are not pooled")
        weight, offset = folded(conv, norm)
        if not (bool(weight.isfinite().all()) and bool(offset.isfinite().all())):
            raise ValueError("QuantizedConv2d: conv must have finite weights and bias")
        if correction is not None:
            if correction.shape != offset.shape:
                wanted, got = list(offset.shape), list(correction.shape)
                raise ValueError(f"QuantizedConv2d: correction must have shape {wanted}, got {got}")
            offset = offset + correction.to(offset)
        # A scale that is large enough for the bias to fit into the sum.
        least = (offset.abs() / (input.scale * MAX_BIAS * 0.99)).clamp(min=1e-30)
        steps = torch.maximum(_weight_scales(weight), least)
        levels = (weight / steps[:, None, None, None]).round().clamp(-127, 127).to(torch.int8)
        unit = input.scale * steps  # the value of one unit of the sum
        bias = (offset / unit).round() - input.zero_point * levels.double().sum(dim=(1, 2, 3))
        before = output = table = None
        if range is not None:
            low, high = range
            before = output = Quantization.of_range(0.0 if activation == "relu" else low, high)
            if activation not in ("none", "relu"):
                values = function(before.dequantize(torch.arange(256)))
                output = Quantization.of_range(values.min().item(), values.max().item())
                table = output.quantize(values)
            unit = unit / before.scale
        return cls(
            levels.cpu(), unit.float().cpu(), bias.clamp(-MAX_BIAS, MAX_BIAS).to(torch.int32).cpu(), table,
            input=input, before=before, output=output, activation=activation, stride=conv.stride,
            padding=conv.padding, groups=conv.groups, pool=pool or (1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = self.input.quantize(x)
        if self._before is not None:
            return self._run(x, self.scale, output_zero_point=self._before.zero_point, table=self.table, pool=self.pool)
        y = self._run(x, self.scale, float_output=True)
        if self.activation == "none":
            return y
        return (ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation)(y)

    def sums(self, x: Tensor) -> Tensor:
        """The float32 values before the activation and the pool, not rounded to levels."""
        if x.is_floating_point():
            x = self.input.quantize(x)
        unit = 1.0 if self._before is None else self._before.scale
        return self._run(x, self.scale * unit, float_output=True)

    def _run(self, x: Tensor, scale: Tensor, **options) -> Tensor:
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._packed is None or self._packed[0] is not self.weight or self._packed[1] != version:
            self._packed = self.weight, version, quantized_conv2d_pack(self.weight, self.groups)
        return quantized_conv2d(
            x, self._packed[2], scale, self.bias, kernel_size=tuple(self.weight.shape[2:]), stride=self.stride,
            padding=self.padding, groups=self.groups, input_zero_point=self.input.zero_point, **options,
        )  # fmt: skip

    def get_extra_state(self) -> Tensor:
        """The quantizations, which complete a state dict: scale and zero point of each, 0 for none."""
        rows = [self.input, self._before or (0, 0), self.output or (0, 0)]
        return torch.tensor(rows, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        rows = [Quantization(scale, int(zero)) if scale else None for scale, zero in state.tolist()]
        self.input, self._before, self.output = rows

    def __getstate__(self) -> dict:
        """Leave the packed weights, which are for this version of the library only, out of copies and pickles."""
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        out, per_group, *kernel = self.weight.shape
        name = self.activation if isinstance(self.activation, str) else getattr(self.activation, "__name__", "function")
        return f"{per_group * self.groups}, {out}, kernel_size={tuple(kernel)}, activation={name}, output={self.output}"


def _weight_scales(weight: Tensor) -> Tensor:
    """The scale of the int8 levels [O]: for each channel the one of several candidates with the least squared error."""
    largest = weight.abs().amax(dim=(1, 2, 3))
    best = torch.full_like(largest, torch.inf)
    scales = largest / 127
    for share in SHRINK:
        scale = (largest * share / 127).clamp(min=1e-30)
        steps = scale[:, None, None, None]
        error = ((weight / steps).round().clamp(-127, 127) * steps - weight).square().sum(dim=(1, 2, 3))
        scales = torch.where(error < best, scale, scales)
        best = torch.minimum(error, best)
    return scales


def best_range(
    values: Tensor, activation: str | Callable[[Tensor], Tensor] = "none", pool: tuple[int, int] | None = None
) -> tuple[float, float]:
    """Find the range for `QuantizedConv2d.from_float` with the least squared error on a sample.

    Args:
        values: float32 `[N, C, H, W]`, the results of the convolution (and batch norm) before the activation.
        activation, pool: as in `from_float`.

    Returns:
        The lowest and the highest value, as floats.

    Raises:
        ValueError: `best_range: values must be finite and not all zero, got ...`.

    Example:
        >>> from fastops.nn import best_range
        >>> values = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> low, high = best_range(values, "relu")
        >>> low, 2 < high < 4.5
        (0.0, True)
    """
    function = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def result(before: Tensor) -> Tensor:
        after = function(before)
        return after if pool is None else F.max_pool2d(after, *pool)

    def error(low: float, high: float) -> float:
        levels = Quantization.of_range(low, high)
        known = function(levels.dequantize(torch.arange(256)))
        if activation not in ("none", "relu"):  # the results of the table are rounded a second time
            output = Quantization.of_range(known.min().item(), known.max().item())
            known = output.dequantize(output.quantize(known))
        got = known[levels.quantize(values).int()]
        return (got if pool is None else F.max_pool2d(got, *pool)).sub_(wanted).square_().mean().item()

    wanted = result(values)
    least, largest = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    if not (math.isfinite(least) and math.isfinite(largest) and largest > least):
        raise ValueError(f"best_range: values must be finite and not all zero, got {least} to {largest}")
    largest = largest or 1e-6 * -least
    low, high = 0.0 if activation == "relu" else least, largest
    shares = [2 ** (-i / 4) for i in range(13)]
    for _ in range(3):  # one end at a time
        high = min((largest * share for share in shares), key=lambda end: error(low, end))
        if activation == "relu":
            break
        low = min((least * share for share in shares), key=lambda end: error(end, high))
    return low, high


def bias_correction(wanted: Tensor, module: QuantizedConv2d, x: Tensor) -> Tensor:
    """The mean error `[O]` of a quantized convolution before the activation on a sample: expected minus actual values.

    Args:
        wanted: `[N, O, H, W]`, the values of the floating-point network before the activation.
        module: the quantized convolution, built without a correction.
        x: its input, from the quantized layers before it.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019.
    """
    return wanted.double().mean(dim=(0, 2, 3)) - module.sums(x).double().mean(dim=(0, 2, 3))
