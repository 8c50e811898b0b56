"""Convolution for inference: batch norm folded; bias, activation and max pooling fused."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastops.ops._transforms import in_transform
from fastops.ops.bias_activation import ACTIVATIONS, bias_activation
from fastops.ops.mish import mish, mish_
from fastops.ops.mish_max_pool2d import mish_max_pool2d
from fastops.ops.relu_max_pool2d import relu_max_pool2d
from fastops.ops.winograd import winograd_conv2d, winograd_pack, winograd_tile_size

#: Whether torch multiplies bfloat16 matrices with the AMX tiles of this CPU, at about 8 times the rate of float32.
#: A constant, so that `torch.compile` can read it.
AMX = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))
#: Devices on which bias, activation, pooling and the change of dtype are one kernel behind torch's convolution.
ONE_PASS = frozenset({"cuda"})


class FrozenConv2d(nn.Module):
    """A trained convolution made ready for inference: batch norm folded in; bias, activation and max pooling fused;
    channels_last.

    $$
    y = \\max_{\\text{window}} f(\\gamma (w * x + b - \\mu) / \\sqrt{\\sigma^2 + \\epsilon} + \\beta)
    $$

    On the CPU a 3x3 or 5x5 convolution of stride 1, or an 11x11 one of stride 2 without groups, neither padded nor
    dilated, runs by Winograd's minimal filtering (3 to 7 times fewer multiplications), in float32 arithmetic whatever
    the dtype of the values; everything else runs torch's own convolution, as do inputs that need a gradient, autocast,
    `torch.compile` of a module that has not run before, and bfloat16 on a CPU with AMX (SiamFC's features of 8 crops
    on two cores of a Sapphire Rapids: 25 ms, by Winograd 48 ms). On a GPU torch's convolution runs without the bias;
    [`fastops.bias_activation`][] does all that follows it in one kernel.

    Args:
        conv: the convolution; its parameters are copied.
        norm: a batch norm that follows it, in eval mode, or None.
        activation: "none", "relu" or "mish".
        device, dtype: where and in what to run; those of `conv` by default.
        max_pool: kernel size and stride of a max pooling that follows, without padding; None for none.
        output_dtype: of the result; None is that of the input. Beside a half type it may be float32.

    Raises:
        ValueError: `FrozenConv2d: <argument> must ...`.

    Examples:

        >>> import torch, fastops
        >>> conv = torch.nn.Conv2d(16, 32, 3)
        >>> fastops.nn.FrozenConv2d(conv, activation="mish")(torch.ones(1, 16, 28, 28)).shape
        torch.Size([1, 32, 26, 26])
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None = None,
        activation: str = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        max_pool: tuple[int, int] | None = None,
        output_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"FrozenConv2d: activation must be none, relu or mish, got {activation!r}")
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError("FrozenConv2d: conv must have numbers as padding and padding_mode zeros")
        weight, bias = folded(conv, norm)
        options = {"device": device or conv.weight.device, "dtype": dtype or conv.weight.dtype}
        weight = weight.to(**options, copy=True).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(**options, copy=True))
        self.activation, self.groups = activation, conv.groups
        self.max_pool, self.output_dtype = max_pool, output_dtype
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}  # tile size -> weight and bias, packed from _packed_from
        self._packed_from: tuple[tuple[Tensor, int], ...] = ()
        self._plain = (self.padding, self.dilation) == ((0, 0), (1, 1)) and self.stride in ((1, 1), (2, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self._is_one_pass(x):
            y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
            return bias_activation(y, self.bias, self.activation, *(self.max_pool or (1, 1)), dtype=self.output_dtype)
        before_pool = self.activation if self.max_pool is None else "none"  # a pool applies it to fewer values
        if tile_size := self._tile_size(x):
            out, _, size, _ = self.weight.shape
            packed, bias = self._packed[tile_size]
            y = winograd_conv2d(x, packed, bias, out, size, self.groups, tile_size, before_pool, self.stride[0])
        else:
            y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
            if before_pool != "none" and y.requires_grad:
                y = F.relu(y) if before_pool == "relu" else mish(y)
            elif before_pool != "none":
                y = y.relu_() if before_pool == "relu" else mish_(y)
        if self.max_pool is not None:
            y = self._pooled(y)
        return y if self.output_dtype is None else y.to(self.output_dtype)

    def _pooled(self, y: Tensor) -> Tensor:
        """The activation and the pooling."""
        if self.activation == "mish":
            return mish_max_pool2d(y, *self.max_pool)
        if self.activation == "relu" and not y.requires_grad:
            return relu_max_pool2d(y, *self.max_pool)
        y = F.max_pool2d(y, *self.max_pool)
        return F.relu(y) if self.activation == "relu" else y

    def _is_one_pass(self, x: Tensor) -> bool:
        if x.device.type not in ONE_PASS or x.dim() != 4 or torch.is_autocast_enabled(x.device.type):
            return False
        needs_grad = any(t.requires_grad for t in (x, self.weight, self.bias)) and torch.is_grad_enabled()
        return not (needs_grad or in_transform())

    def _tile_size(self, x: Tensor) -> int:
        """Winograd's tile size for this input, after packing its weights; 0 means torch's convolution."""
        if not (self._plain and x.device.type == "cpu" and x.dtype == self.weight.dtype != torch.float64):
            return 0
        differentiated = (x.requires_grad and torch.is_grad_enabled()) or in_transform()
        if x.dim() != 4 or differentiated or torch.is_autocast_enabled("cpu") or (AMX and x.dtype == torch.bfloat16):
            return 0
        tile_size = winograd_tile_size(tuple(self.weight.shape[2:]), tuple(x.shape), self.stride[0], self.groups)
        if tile_size == 0 or torch.compiler.is_compiling():
            return tile_size if tile_size in self._packed else 0
        made_from = tuple((t, 0 if t.is_inference() else t._version) for t in (self.weight, self.bias))
        if [(id(t), version) for t, version in self._packed_from] != [(id(t), version) for t, version in made_from]:
            self._packed, self._packed_from = {}, made_from
        if tile_size not in self._packed:
            packed = winograd_pack(self.weight.float(), self.groups, tile_size, self.stride[0])
            self._packed[tile_size] = packed, self.bias.float()
        return tile_size

    def __getstate__(self) -> dict:
        """Leave the packed weights, which are for this CPU only, out of pickles and copies. They are packed again."""
        return {**self.__dict__, "_packed": {}, "_packed_from": ()}

    def extra_repr(self) -> str:
        out, per_group, *kernel = self.weight.shape
        return f"{per_group * self.groups}, {out}, kernel_size={tuple(kernel)}, activation={self.activation}"


@torch.no_grad()
def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with its batch norm, computed in float64."""
    weight = conv.weight.double()
    bias = torch.zeros(conv.out_channels, dtype=weight.dtype, device=weight.device)
    if conv.bias is not None:
        bias = conv.bias.double()
    if norm is not None:
        if norm.running_mean is None or norm.num_features != conv.out_channels:
            raise ValueError(
                f"FrozenConv2d: norm must have running statistics of {conv.out_channels} channels, "
                f"got {norm.num_features}{' without statistics' if norm.running_mean is None else ''}"
            )
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double()
        if norm.affine:
            factor = factor * norm.weight.double()
        weight = weight * factor[:, None, None, None]
        bias = (bias + shift) * factor
        if norm.affine:
            bias = bias + norm.bias.double()
    return weight, bias
