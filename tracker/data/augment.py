"""Makes a training batch of crops, on the device, with random stretch, shift, blur, grey and colour."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import fastops
from tracker.config import FRACTION, NOT_NEGATIVE, check_settings
from tracker.data.pairs import Pair
from tracker.geometry import EXEMPLAR, INSTANCE

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BLUR = (0.5, 1.2)  # standard deviation in pixels
_TAPS = 5
_DRAWS = 23  # random numbers per pair; all are always drawn, so disabling a step does not change the others


class Batch(NamedTuple):
    """The input of the network in training: RGB, 0 to 255, channels_last.

    `box` is the target's box in the instance crop, x1, y1, x2, y2 in pixels. Pixel i covers i to i + 1, so the centre
    of the crop is 127.5.
    """

    exemplar: Tensor  # [N, 3, 127, 127]
    instance: Tensor  # [N, 3, 255, 255]
    box: Tensor  # float32 [N, 4]


@dataclass(frozen=True)
class AugmentConfig:
    """Settings of `augment`. 0 disables a step, and `AugmentConfig.none()` disables all steps.

    Args:
        stretch: the instance crop's scale is drawn from 1 - stretch to 1 + stretch.
        shift: largest displacement of the instance crop along each axis, in its pixels; less if the stretch leaves a
            smaller margin. The labels of a score map allow no more than half the network's stride, 4 px.
        exemplar_stretch, exemplar_shift: the same for the exemplar crop.
        blur: probability of a Gaussian blur of 0.5 to 1.2 px, independent for each crop.
        grey: probability that both crops of a pair become grey.
        brightness: the gain is drawn from 1 - brightness to 1 + brightness, for each crop, like the following.
        contrast: range of the factor on the distance from the crop's mean.
        saturation: range of the factor on the distance from grey.
        colour: range of the gain of each channel.

    Raises:
        ValueError: if a value is out of range. The message names the field.
    """

    stretch: float = 0.05
    shift: float = 4.0
    exemplar_stretch: float = 0.0
    exemplar_shift: float = 0.0
    blur: float = 0.1
    grey: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.2
    colour: float = 0.05

    def __post_init__(self) -> None:
        shifts = [field.name for field in fields(self) if field.name.endswith("shift")]
        others = [field.name for field in fields(self) if field.name not in shifts]
        check_settings(self, {" ".join(shifts): NOT_NEGATIVE, " ".join(others): FRACTION})

    @classmethod
    def none(cls) -> AugmentConfig:
        """Settings that leave the centred crops unchanged."""
        return cls(**{field.name: 0.0 for field in fields(cls)})


def collate(pairs: Items[Pair]) -> Pair:
    """Stack pairs into one of tensors: uint8 [N, P, P, 3] twice and float32 [N, 4] twice.

    Use it as `collate_fn` of a `DataLoader`; `pin_memory` works on the result.
    """
    return Pair(*(torch.from_numpy(np.stack(field)) for field in zip(*pairs, strict=True)))


@torch.no_grad()
def augment(
    pairs: Pair,
    generator: torch.Generator,
    config: AugmentConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    part: slice = slice(None),
    of: int | None = None,
) -> Batch:
    """Crop the network's inputs from collated pairs and augment them, on `device`.

    The random numbers are drawn on the CPU, so the batch is the same on every device and nothing waits for a GPU.
    Regions are whole pixels inside the crops of the pair, so nothing is padded and the box is exact.

    Args:
        pairs: the result of `collate`, on any device; P must be at least 255.
        generator: source of all random numbers, on the CPU.
        config: settings; the default is `AugmentConfig()`.
        device: device of the batch.
        dtype: dtype of the crops; the box is float32.
        part, of: the pairs are this part of a batch of `of` pairs that several processes divide. The augmentation of a
            pair does not depend on the division.

    Raises:
        ValueError: if the crops are too small for the stretch or the shift, or the generator is not on the CPU.

    Example:
        >>> from tracker.data.pairs import PairDataset
        >>> pairs = PairDataset.synthetic(pairs=2)
        >>> batch = augment(collate([pairs[0], pairs[1]]), torch.Generator().manual_seed(0))
        >>> batch.exemplar.shape, batch.instance.shape, batch.box.shape
        (torch.Size([2, 3, 127, 127]), torch.Size([2, 3, 255, 255]), torch.Size([2, 4]))
    """
    config, device = config or AugmentConfig(), torch.device(device)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    count = len(pairs.exemplar) if of is None else of
    draws = torch.rand(count, _DRAWS, generator=generator, dtype=torch.float64)[part]
    grey = draws[:, 0] < config.grey
    with torch.autocast(device.type, enabled=False):
        exemplar, _ = _view(
            pairs.exemplar, pairs.exemplar_box, EXEMPLAR, "exemplar_", config, grey, draws[:, 1:12], device, dtype
        )
        instance, box = _view(
            pairs.search, pairs.search_box, INSTANCE, "", config, grey, draws[:, 12:23], device, dtype
        )
    return Batch(exemplar, instance, box)


def _view(
    images: Tensor,
    boxes: Tensor,
    size: int,
    prefix: str,
    config: AugmentConfig,
    grey: Tensor,
    draws: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """One of the two crops: [N, 3, size, size] and the boxes in it, x1, y1, x2, y2."""
    stretch, shift = getattr(config, f"{prefix}stretch"), getattr(config, f"{prefix}shift")
    side, corner = _regions(images.shape[1], size, prefix, stretch, shift, draws[:, :3])
    zoom = size / side
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).cpu().double()
    moved = ((corners - corner.repeat(1, 2)) * zoom).float().to(device)

    # (corner + (side - 1) / 2, side) is the region that the op's rounding leaves as it is.
    regions = torch.cat([corner + (side - 1) / 2, side], 1).to(device)
    images = images.to(device, non_blocking=True)
    gains, greyness, contrast = _colours(config, grey, draws[:, 3:9])
    plain = bool((gains == 1).all() and (greyness == 0).all() and (contrast == 1).all())
    blurred = draws[:, 9] < config.blur
    ops = fastops if fastops.load_error is None else fastops.reference
    if plain and not blurred.any():
        return ops.crop_and_resize(images, regions, size, 0.0, dtype=dtype, channels_last=True), moved

    crops = ops.crop_and_resize(images, regions, size, 0.0)  # as planes, which are faster below
    if blurred.any():
        deviation = _BLUR[0] + (_BLUR[1] - _BLUR[0]) * draws[blurred, 10]
        chosen = blurred.nonzero()[:, 0].to(device)
        crops[chosen] = _blur(crops[chosen], deviation.float().to(device))
    if not plain:
        crops = _recolour(crops, images, gains.to(device), greyness.to(device), contrast.to(device))
    return crops.to(dtype, memory_format=torch.channels_last), moved


def check_room(config: AugmentConfig, crop: int) -> None:
    """Raise an error for settings for which crops of side `crop` are too small, before any crop is made.

    Raises:
        ValueError: names the stretch or the shift, and its limit.
    """
    _check_room(crop, EXEMPLAR, "exemplar_", config.exemplar_stretch, config.exemplar_shift)
    _check_room(crop, INSTANCE, "", config.stretch, config.shift)


def _check_room(crop: int, size: int, prefix: str, stretch: float, shift: float) -> None:
    largest, margin = round(size * (1 + stretch)), (crop - size) / 2
    if largest > crop:
        raise ValueError(f"{prefix}stretch must keep {size} px within crops of {crop} px, got {stretch}")
    if shift > margin:
        raise ValueError(f"{prefix}shift must be at most {margin:g} px in crops of {crop} px, got {shift}")


def _regions(crop: int, size: int, prefix: str, stretch: float, shift: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Sides [N, 1] and left top corners [N, 2] of squares in crops of side `crop`, whole numbers in float64."""
    _check_room(crop, size, prefix, stretch, shift)
    side = (size * (1 + stretch * (2 * draws[:, :1] - 1))).round()
    moved = shift * (2 * draws[:, 1:] - 1) * side / size  # the target moves in the opposite direction of the region
    corner = ((crop - side) / 2 - moved).round()
    return side, torch.minimum(corner.clamp(min=0), crop - side)


def _colours(config: AugmentConfig, grey: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gains of the channels [N, 3], amounts of grey [N, 1] and contrasts [N, 1], float32."""

    def factor(amount: float, columns: slice) -> Tensor:
        return 1 + amount * (2 * draws[:, columns] - 1)

    gains = factor(config.colour, slice(0, 3)) * factor(config.brightness, slice(3, 4))
    greyness = torch.where(grey[:, None], 1.0, 1 - factor(config.saturation, slice(4, 5)))
    return gains.float(), greyness.float(), factor(config.contrast, slice(5, 6)).float()


def _recolour(crops: Tensor, images: Tensor, gains: Tensor, greyness: Tensor, contrast: Tensor) -> Tensor:
    """y = gains x, y += greyness (grey(y) - y), y = mean + contrast (y - mean), within 0 and 255, in one expression.

    The mean is the grey level of every 64th pixel of the image, which does not change when y becomes grey.
    """
    weights = gains * gains.new_tensor(LUMA)  # [N, 3]: grey(y) of x
    mean = (images[:, ::8, ::8].float().mean((1, 2)) * weights).sum(1, keepdim=True)  # [N, 1]
    add = ((1 - contrast) * mean)[..., None]  # [N, 1, 1]
    toward, keep = contrast * greyness, contrast * (1 - greyness) * gains  # [N, 1], [N, 3]
    red, green, blue = (crops[:, i] * (toward * weights[:, i : i + 1])[..., None] for i in range(3))
    grey = red.add_(green).add_(blue).add_(add)
    return torch.addcmul(grey[:, None], crops, keep[..., None, None]).clamp_(0, 255)


def _blur(crops: Tensor, deviation: Tensor) -> Tensor:
    """Blur with a Gaussian of five by five pixels, with the deviation [N] of each crop. The edge is repeated."""
    reach = _TAPS // 2
    at = torch.arange(-reach, reach + 1, device=crops.device)
    taps = torch.exp(-0.5 * (at / deviation[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    kernels = (taps[:, :, None] * taps[:, None, :]).repeat_interleave(3, 0)[:, None]  # [3 N, 1, 5, 5]
    planes = F.pad(crops, (reach,) * 4, mode="replicate").flatten(0, 1)[None]
    return F.conv2d(planes, kernels, groups=len(kernels)).view_as(crops)
