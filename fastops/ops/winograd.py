"""Winograd convolution for inference on the CPU, with packed weights and fused bias and activation."""

from __future__ import annotations

import torch
from torch import Tensor

from fastops.ops._checks import check, check_floating, dtype_name

_pack = torch.ops.fastops.winograd_pack.default
_conv2d = torch.ops.fastops.winograd_conv2d.default


def winograd_tile_size(
    kernel_size: tuple[int, int], input_size: tuple[int, ...], stride: int = 1, groups: int = 1
) -> int:
    """Choose the output tile size M that is fastest for a convolution.

    Args:
        kernel_size: (3, 3) and (5, 5) are supported with stride 1, (11, 11) with stride 2.
        input_size: N, I, H, W of the inputs.
        stride, groups: those of the convolution; stride 2 is supported without groups only.

    Returns:
        M, or 0 if [`winograd_conv2d`][fastops.ops.winograd.winograd_conv2d] does not support the convolution.

    Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.

    Examples:

        >>> from fastops.ops.winograd import winograd_tile_size
        >>> winograd_tile_size((3, 3), (3, 256, 28, 28)), winograd_tile_size((7, 7), (3, 256, 28, 28))
        (4, 0)
    """
    n, _, h, w = input_size
    kernel = kernel_size[0]
    if min(h, w) < kernel or (*kernel_size, stride) not in ((3, 3, 1), (5, 5, 1), (11, 11, 2)):
        return 0
    if stride == 2:
        return 5 if groups == 1 else 0

    def cost(m: int) -> int:
        """Cost in multiplications. Reading the weights costs as much as multiplying them with about 24 tiles."""
        tiles = n * -(-(h - kernel + 1) // m) * -(-(w - kernel + 1) // m)
        return (m + kernel - 1) ** 2 * (tiles + 24)

    return 6 if cost(6) < cost(4) else 4


def winograd_pack(weight: Tensor, groups: int, tile_size: int, stride: int = 1) -> Tensor:
    """Transform convolution weights for [`winograd_conv2d`][fastops.ops.winograd.winograd_conv2d].

    $$
    U = G \\, w \\, G^T \\quad \\text{for each pair of channels}
    $$

    Args:
        weight: [O, I / groups, K, K], float32, on the CPU; K is 3 or 5, or 11 with stride 2.
        groups: groups of the convolution; 1 with stride 2.
        tile_size: M, which is 4 or 6, or with stride 2, 3 or 5. See
            [`winograd_tile_size`][fastops.ops.winograd.winograd_tile_size].
        stride: stride of the convolution.

    Returns:
        The packed weights, 1-D, for inputs of any size. Do not store them: they are for this process and CPU only.

    Raises:
        RuntimeError: `winograd_pack: <argument> must ...` for other shapes, dtypes and settings.

    Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.

    Examples:

        >>> import torch
        >>> from fastops.ops.winograd import winograd_pack
        >>> winograd_pack(torch.ones(32, 16, 3, 3), 1, 4).dim()
        1
    """
    return _pack(weight, stride, groups, tile_size)


def winograd_conv2d(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    out_channels: int,
    kernel_size: int,
    groups: int,
    tile_size: int,
    activation: str = "none",
    stride: int = 1,
) -> Tensor:
    """Convolve without padding by Winograd's minimal filtering, then add the bias and apply the activation.

    $$
    y = f(A^T [U \\odot (B^T d B)] A + b) \\quad \\text{for each tile } d \\text{ of the input}
    $$

    With stride 2, the four pixels of each 2 x 2 block become channels of one pixel, so the stride becomes 1.

    Args:
        x: [N, I, H, W], float32, float16 or bfloat16, on the CPU; channels_last runs without a copy.
        packed: from [`winograd_pack`][fastops.ops.winograd.winograd_pack] with the same `stride`, `groups` and
            `tile_size`.
        bias: [O], float32, or None.
        out_channels, kernel_size, stride, groups: those of the convolution.
        tile_size: M, which is 4 or 6, or with stride 2, 3 or 5.
        activation: "none", "relu" or "mish".

    Returns:
        [N, O, (H - K) / stride + 1, (W - K) / stride + 1], channels_last, in the dtype of `x`; computed in float32.
        The rounding differs from that of a direct convolution: the relative L2 error is 1e-6 to 1e-5 for SiamFC's
        layers. Tiles of ten pixels (M + R - 1) are the least exact. An inf or NaN in the input spreads over its tiles.

    Raises:
        RuntimeError: `winograd_conv2d: <argument> must ...` for other shapes, dtypes and settings.

    The op is for inference: it has no gradient. [`fastops.nn.FrozenConv2d`][] packs the weights and calls it.

    Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.

    Examples:

        >>> import torch
        >>> from fastops.ops.winograd import winograd_conv2d, winograd_pack
        >>> packed = winograd_pack(torch.ones(32, 16, 3, 3), 1, tile_size=4)
        >>> winograd_conv2d(torch.ones(1, 16, 28, 28), packed, None, 32, 3, 1, tile_size=4).shape
        torch.Size([1, 32, 26, 26])
    """
    return _conv2d(x, packed, bias, out_channels, kernel_size, stride, groups, tile_size, activation)


def _is_supported(kernel_size: int, stride: int, groups: int, tile_size: int) -> bool:
    if stride == 2:
        return kernel_size == 11 and groups == 1 and tile_size in (3, 5)
    return stride == 1 and kernel_size in (3, 5) and tile_size in (4, 6)


@torch.library.register_fake("fastops::winograd_conv2d")
def _(x, packed, bias, out_channels, kernel_size, stride, groups, tile_size, activation):
    op = "winograd_conv2d"
    check_floating(op, "x", x)
    half_or_single = f"{op}: x must have dtype float32, float16 or bfloat16, got {dtype_name(x.dtype)}"
    check(x.dtype != torch.float64, half_or_single)
    check(x.dim() == 4, f"{op}: x must be 4-D, got {list(x.shape)}")
    n, channels, h, w = x.shape
    for name, t in (("packed", packed), ("bias", bias)):
        if t is not None:
            check(t.dtype == torch.float32, f"{op}: {name} must have dtype float32, got {dtype_name(t.dtype)}")
            check(t.dim() == 1, f"{op}: {name} must be 1-D, got {list(t.shape)}")
    check(
        groups >= 1 and channels % groups == 0 and out_channels % groups == 0,
        f"{op}: groups must divide the channels ({channels} and {out_channels}), got {groups}",
    )
    least = f"{kernel_size} x {kernel_size}"
    check(h >= kernel_size and w >= kernel_size, f"{op}: x must be at least {least}, got {list(x.shape)}")
    if bias is not None:
        check(bias.shape == (out_channels,), f"{op}: bias must have shape [{out_channels}], got {list(bias.shape)}")
    check(activation in ("none", "relu", "mish"), f"{op}: activation must be none, relu or mish, got {activation}")
    # Only the kernel knows how many values there must be.
    check(
        _is_supported(kernel_size, stride, groups, tile_size),
        f"{op}: packed must come from winograd_pack for these sizes, got {packed.numel()} values",
    )
    size = (n, out_channels, (h - kernel_size) // stride + 1, (w - kernel_size) // stride + 1)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
