"""Convolution whose training step on the CPU needs fewer multiplications."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fastops.nn._in_class import in_class
from fastops.ops._transforms import in_transform_or_vmap
from fastops.ops.winograd import winograd_conv2d, winograd_pack, winograd_tile_size

#: For fewer output pixels in a batch than this, packing the weights in each call takes more time than it saves.
MIN_PIXELS = 4096


class WinogradConv2d(nn.Conv2d):
    r"""`nn.Conv2d` that computes forward and input gradient by Winograd's minimal filtering where that is faster.

    It is faster on the CPU in float32 for large enough inputs and convolutions without padding and dilation: 5x5
    kernels with stride 1, and 11x11 kernels with stride 2 without groups if the input needs no gradient. Everything
    else, and the gradient of the weight, uses torch's own convolution. The rounding differs: for SiamFC's second layer
    the relative L2 error is 1e-5 in the result and 2e-5 in the input's gradient. Arguments, parameters and state-dict
    keys are those of `nn.Conv2d`.

    One step (forward and backward) of SiamFC's second layer, with 8 inputs [96, 61, 61] and 256 output channels in 2
    groups, takes 0.7 times as long as `nn.Conv2d` on one core with AVX-512.

    Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.WinogradConv2d(16, 32, 5)(torch.ones(1, 16, 68, 68)).shape
        torch.Size([1, 32, 64, 64])
    """

    def forward(self, x: Tensor) -> Tensor:
        tile_size = self.tile_size(x)
        if tile_size == 0:
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias, self, tile_size)

    def tile_size(self, x: Tensor) -> int:
        """Winograd's tile size for this input; 0 means torch's convolution."""
        size, stride = self.kernel_size[0], self.stride[0]
        if (*self.kernel_size, *self.stride) not in ((5, 5, 1, 1), (11, 11, 2, 2)):
            return 0
        if (self.padding, self.dilation, self.padding_mode) != ((0, 0), (1, 1), "zeros"):
            return 0
        if x.device.type != "cpu" or x.dim() != 4 or not x.dtype == self.weight.dtype == torch.float32:
            return 0
        if in_transform_or_vmap() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return 0
        pixels = len(x) * ((x.shape[2] - size) // stride + 1) * ((x.shape[3] - size) // stride + 1)
        if pixels < MIN_PIXELS or (stride == 2 and x.requires_grad):
            return 0
        return winograd_tile_size(self.kernel_size, tuple(x.shape), stride, self.groups)


def winograd_convolutions(model: nn.Module) -> AbstractContextManager[None]:
    """For a `with` block, make every `nn.Conv2d` of the model a [`WinogradConv2d`][fastops.nn.WinogradConv2d].

    The modules stay the same objects, with the same parameters.

    Examples:

        >>> import torch, fastops
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(16, 32, 5))
        >>> with fastops.nn.winograd_convolutions(model):
        ...     print(type(model[0]).__name__)
        WinogradConv2d
        >>> type(model[0]).__name__
        'Conv2d'
    """
    return in_class(model, nn.Conv2d, WinogradConv2d)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, tile: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return _winograd(x, weight, bias, tile, conv.groups, conv.stride[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        conv, grad_x = ctx.conv, None
        if ctx.needs_input_grad[0]:
            # Convolve the padded gradient with the rotated kernels, [O, I/g, K, K] -> [I, O/g, K, K].
            turned = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
            padded = F.pad(grad, 4 * (conv.kernel_size[0] - 1,))
            tile = winograd_tile_size(conv.kernel_size, tuple(padded.shape), 1, conv.groups)
            grad_x = _winograd(padded, turned, None, tile, conv.groups, 1)
        mask = [False, *ctx.needs_input_grad[1:3]]
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)], conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, mask
        )
        return grad_x, grad_weight, grad_bias, None, None


def _winograd(x: Tensor, weight: Tensor, bias: Tensor | None, tile: int, groups: int, stride: int) -> Tensor:
    packed = winograd_pack(weight, groups, tile, stride)
    return winograd_conv2d(x, packed, bias, len(weight), weight.shape[2], groups, tile, "none", stride)
