"""Crops square regions of images, pads them and resizes them bilinearly in OpenCV's fixed-point arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LIMIT = 1 << 24  # largest centre and size, in pixels
WEIGHT_ONE = 2048


def crop_and_resize(
    images: Tensor,
    centers_sizes: Tensor,
    out_size: int,
    pad_value: float | Sequence[float] | Tensor,
    image_index: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    channels: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Crop squares out of images, fill them with `pad_value` outside the image, and resize them bilinearly to S x S.

    The region has side = max(1, round(size)) and left = round(x - (side - 1) / 2), with ties to even. Output pixel i of
    a row samples the region at u = (i + 1/2) side / S - 1/2. It interpolates between the pixels floor u and
    floor u + 1, clamped to the region. The weights are rounded to 11 bits. 4 bits are dropped after the pass along x,
    and 18 after the pass along y.

    Args:
        images: uint8, [H, W, C] or [B, H, W, C].
        centers_sizes: [K, 3], float32 or float64: x, y and size of each square in pixels, 0-based.
        out_size: S, the side of the result in pixels.
        pad_value: a grey level, one for each channel, or a tensor [C] or [K, C]; rounded to 0..255.
        image_index: [K], the image of each crop. With None, each image has K / B consecutive crops.
        dtype: dtype of the result, a floating-point type or uint8.
        channels_last: memory format of the result.
        channels: of the result, C to 4; those beyond C are 0. None is C.
        out: a tensor to write into.

    Returns:
        [K, C, S, S], whole grey levels from 0 to 255. A square with a number that is not finite or beyond 2^24, or with
        an image that does not exist, is all `pad_value`.

    Source: the uint8 path of `cv2.resize` with INTER_LINEAR.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> image = torch.arange(4, dtype=torch.uint8).view(2, 2, 1) * 10
        >>> reference.crop_and_resize(image, torch.tensor([[0.5, 0.5, 4.0]]), 4, 9)[0, 0]
        tensor([[ 9.,  9.,  9.,  9.],
                [ 9.,  0., 10.,  9.],
                [ 9., 20., 30.,  9.],
                [ 9.,  9.,  9.,  9.]])
    """
    crops = centers_sizes.shape[0]
    pad_value = torch.as_tensor(pad_value, device=images.device)
    pad_value = pad_value.expand(images.shape[-1]) if pad_value.dim() == 0 else pad_value
    if out is None:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        size = (crops, channels or images.shape[-1], out_size, out_size)
        out = torch.empty(size, dtype=dtype, device=images.device, memory_format=memory_format)
    _crop_and_resize(images, centers_sizes, pad_value, image_index, out)
    return out


def _taps(start: Tensor, side: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The coordinates [K, 2, S] of the two pixels that each output pixel interpolates, and their weights [K, 2, S]."""
    i = torch.arange(size, dtype=torch.float64, device=side.device)
    scale = 1 / (size / side.double())  # OpenCV's steps, in float64: float32 loses the fraction of large regions
    position = ((i + 0.5) * scale[:, None] - 0.5).float()
    first = position.floor()
    fraction = position - first
    weights = torch.stack((1 - fraction, fraction), 1).mul(WEIGHT_ONE).round().int()
    pixels = torch.stack((first, first + 1), 1).clamp(min=0).minimum(side[:, None, None] - 1)
    return start[:, None, None] + pixels.long(), weights


def _crop_and_resize(
    images: Tensor, centers_sizes: Tensor, pad_value: Tensor, image_index: Tensor | None, out: Tensor
) -> None:
    if out.numel() == 0:
        return
    images = images if images.dim() == 4 else images[None]
    count, height, width, channels = images.shape
    crops, size = out.shape[0], out.shape[-1]
    k = torch.arange(crops, device=images.device)
    image = k // (crops // count) if image_index is None else image_index.long()

    exists = (centers_sizes.abs() <= LIMIT).all(1) & (image >= 0) & (image < count)
    x, y, wanted = torch.where(exists[:, None], centers_sizes.detach(), 0).unbind(1)
    side = wanted.round().clamp(min=1)
    left, top = (torch.round(v - (side - 1) / 2).long() for v in (x, y))
    columns, weights_x = _taps(left, side, size)
    rows, weights_y = _taps(top, side, size)

    inside_columns = (columns >= 0) & (columns < width) & exists[:, None, None]
    inside_rows = (rows >= 0) & (rows < height)
    pad = pad_value.detach().double().nan_to_num(0.0).clamp(0, 255).round().int().expand(crops, channels)
    if images.numel() == 0:
        images = images.new_zeros(max(count, 1), 1, 1, channels)
    image = torch.where(exists, image, 0)[:, None, None, None, None]
    rows, columns = rows.clamp(0, images.shape[1] - 1), columns.clamp(0, images.shape[2] - 1)
    pixels = images[image, rows[:, :, :, None, None], columns[:, None, None]].int()  # [K, 2, S, 2, S, C]
    inside = inside_rows[:, :, :, None, None] & inside_columns[:, None, None]
    pixels = torch.where(inside[..., None], pixels, pad[:, None, None, None, None])

    along_x = (pixels * weights_x[:, None, None, :, :, None]).sum(3) >> 4  # [K, 2, S, S, C]
    along_y = ((along_x * weights_y[:, :, :, None, None]) >> 16).sum(1)
    out[:, :channels].copy_(((along_y + 2) >> 2).movedim(3, 1))
    out[:, channels:].zero_()


#: The schema writes to an existing tensor.
OPS = {"crop_and_resize": _crop_and_resize}
