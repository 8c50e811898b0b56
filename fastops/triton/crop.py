"""crop_and_resize in Triton. The formula is that of csrc/math/crop.h.

Each program takes a block of pixels of one crop, with all their channels. The coordinates are computed in double with
OpenCV's steps, so multiplications and additions must not be fused.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 256  # pixels of the result
LIMIT = tl.constexpr(16777216.0)  # 2^24


@triton.jit
def _round_even(v):
    low = tl.floor(v)
    rest = v - low
    odd = low - 2 * tl.floor(low / 2) != 0
    return tl.where((rest > 0.5) | ((rest == 0.5) & odd), low + 1, low)


@triton.jit
def _taps(i, start, side, size, extent):
    """The two rows or columns that each pixel interpolates, whether they are in the image, and their weights."""
    step = 1.0 / (tl.full([], size, tl.float64) / side.to(tl.float64))
    position = ((i.to(tl.float64) + 0.5) * step - 0.5).to(tl.float32)
    first = tl.floor(position)
    fraction = position - first
    low, high = _round_even((1.0 - fraction) * 2048.0).to(tl.int32), _round_even(fraction * 2048.0).to(tl.int32)
    first = first.to(tl.int32)
    a = start + tl.minimum(tl.maximum(first, 0), side - 1)
    b = start + tl.minimum(tl.maximum(first + 1, 0), side - 1)
    return a.to(tl.int64), b.to(tl.int64), (a >= 0) & (a < extent), (b >= 0) & (b < extent), low, high


@triton.jit
def _crop_kernel(
    images, centers_sizes, pad_value, image_index, out, count, height, width,
    image_stride, row_stride, column_stride, channel_stride, pad_stride, out_channel_stride, out_pixel_stride,
    crops_per_image, size, blocks, CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    k = program // blocks
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    written = pixel < size * size

    x, y, wanted = (
        tl.load(centers_sizes + 3 * k),
        tl.load(centers_sizes + 3 * k + 1),
        tl.load(centers_sizes + 3 * k + 2),
    )
    image = k // crops_per_image
    if image_index is not None:
        image = tl.load(image_index + k).to(tl.int64)
    exists = (tl.abs(x) <= LIMIT) & (tl.abs(y) <= LIMIT) & (tl.abs(wanted) <= LIMIT) & (image >= 0) & (image < count)
    wanted = _round_even(tl.where(exists, wanted, 1.0))
    side = tl.where(wanted > 1, wanted, 1.0)
    half = (side - 1) * 0.5
    left = _round_even(tl.where(exists, x, 0.0) - half).to(tl.int32)
    top = _round_even(tl.where(exists, y, 0.0) - half).to(tl.int32)
    side = side.to(tl.int32)
    width, height = tl.where(exists, width, 0), tl.where(exists, height, 0)
    x0, x1, has_x0, has_x1, low_x, high_x = _taps(pixel % size, left, side, size, width)
    y0, y1, has_y0, has_y1, low_y, high_y = _taps(pixel // size, top, side, size, height)

    source = images + tl.where(exists, image, 0) * image_stride
    target = out + k * OUT_CHANNELS * size * size + pixel * out_pixel_stride
    upper, lower = source + y0 * row_stride, source + y1 * row_stride
    x0, x1 = x0 * column_stride, x1 * column_stride
    has_y0, has_y1 = has_y0 & written, has_y1 & written
    for c in tl.static_range(CHANNELS):
        pad = tl.load(pad_value + k * pad_stride + c).to(tl.float32)
        pad = tl.where(pad > 0, tl.where(pad < 255, pad, 255.0), 0.0)  # NaN becomes 0
        pad = _round_even(pad).to(tl.int32)
        at = c * channel_stride
        p00 = tl.where(has_y0 & has_x0, tl.load(upper + x0 + at, has_y0 & has_x0, 0).to(tl.int32), pad)
        p01 = tl.where(has_y0 & has_x1, tl.load(upper + x1 + at, has_y0 & has_x1, 0).to(tl.int32), pad)
        p10 = tl.where(has_y1 & has_x0, tl.load(lower + x0 + at, has_y1 & has_x0, 0).to(tl.int32), pad)
        p11 = tl.where(has_y1 & has_x1, tl.load(lower + x1 + at, has_y1 & has_x1, 0).to(tl.int32), pad)
        h0 = (p00 * low_x + p01 * high_x) >> 4
        h1 = (p10 * low_x + p11 * high_x) >> 4
        level = (((h0 * low_y) >> 16) + ((h1 * high_y) >> 16) + 2) >> 2
        tl.store(target + c * out_channel_stride, level.to(tl.float32).to(out.dtype.element_ty), written)
    for c in tl.static_range(CHANNELS, OUT_CHANNELS):
        tl.store(target + c * out_channel_stride, tl.zeros([BLOCK], tl.float32).to(out.dtype.element_ty), written)


def crop_and_resize(
    images: torch.Tensor,
    centers_sizes: torch.Tensor,
    pad_value: torch.Tensor,
    image_index: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    crops, out_channels, _, size = out.shape
    channels = images.shape[-1]
    if crops == 0:
        return
    images = images if images.dim() == 4 else images[None]
    pixels = size * size
    blocks = triton.cdiv(pixels, BLOCK)
    planes = out.is_contiguous()
    with torch.cuda.device_of(images):
        _crop_kernel[(crops * blocks,)](
            images, centers_sizes.contiguous(), pad_value.contiguous(),
            None if image_index is None else image_index.contiguous(), out, *images.shape[:3], *images.stride(),
            channels if pad_value.dim() == 2 else 0, pixels if planes else 1, 1 if planes else out_channels,
            crops // max(images.shape[0], 1) or 1, size, blocks,
            CHANNELS=channels, OUT_CHANNELS=out_channels, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip


OPS = {"crop_and_resize": crop_and_resize}
