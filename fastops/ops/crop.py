"""Crops, pads and resizes square regions of images in one call: the public function, checks and fake kernel."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from fastops.ops._checks import FLOATING, check, check_same_device, dtype_name

_crop = torch.ops.fastops.crop_and_resize.default

MAX_CHANNELS = 4
MAX_SIZE = 1 << 24


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
    r"""Crop square regions of uint8 images, pad them with a colour and resize them bilinearly, in one kernel.

    $$
    \text{side} = \max(1, \lfloor \text{size} \rceil), \quad
    \text{left} = \lfloor x - \tfrac{\text{side} - 1}{2} \rceil, \quad
    u_i = (i + \tfrac12)\, \tfrac{\text{side}}{S} - \tfrac12
    $$

    Ties round to even, and the top is computed like the left. Output pixel $i$ samples the region at $u_i$, clamped to
    the region.

    Args:
        images: uint8, [H, W, C] or [B, H, W, C] with C from 1 to 4 and any strides. For an image [C, H, W] pass
            `image.permute(1, 2, 0)`. Three interleaved channels are the fastest.
        centers_sizes: [K, 3], float32 or float64, on the device of the images: x, y and size in pixels, 0-based; (0, 0)
            is the centre of the top left pixel. Rounding is done in this dtype.
        out_size: S, the side of the result in pixels.
        pad_value: the colour outside the image in grey levels, rounded to 0..255: a number, a sequence of C, or a
            tensor [C] or [K, C] on the device of the images (uint8 and float32 need no conversion).
        image_index: [K], int32 or int64: the image of each crop. With None, each image has K / B consecutive crops:
            one image has all of them, and each of K images has one.
        dtype: float32, float64, float16, bfloat16 or uint8.
        channels_last: memory format of the result.
        channels: of the result, from C to 4; those beyond C are 0. None is C. A convolution on a GPU may take four
            channels faster than three (with weights of 0 for the fourth), and each pixel is one store then.
        out: a tensor to write into, of the shape, dtype and memory format asked for; nothing is allocated then.

    Returns:
        [K, channels, S, S] without a gradient. The values are whole grey levels from 0 to 255, exact in every dtype,
        and those of `cv2.copyMakeBorder` and `cv2.resize` with `INTER_LINEAR`, bit for bit, but for two channels and a
        side of just 2 S, where OpenCV rounds otherwise and single values are one level apart. A region whose numbers
        are not finite, or beyond 2^24 px, is the padding all over.

    Raises:
        RuntimeError: `crop_and_resize: <argument> must ...`. An `image_index` out of range is an error on the CPU. On a
            GPU, where the host does not read it, it gives padding.

    No padded copy is made. The cost depends on S only, not on the region's side or position. On a GPU, if `pad_value`
    is a tensor, the call is one launch and can be captured in a CUDA graph.

    Source: the uint8 path of OpenCV's `resize` with `INTER_LINEAR`; regions as in Bertinetto et al.,
    "Fully-Convolutional Siamese Networks for Object Tracking", ECCVW 2016.

    Examples:

        >>> import torch, fastops
        >>> frame = torch.randint(256, (480, 640, 3), dtype=torch.uint8)
        >>> targets = torch.tensor([[320.0, 240.0, 200.0], [0.0, 0.0, 1e6]])
        >>> fastops.crop_and_resize(frame, targets, 255, 127, channels_last=True).shape
        torch.Size([2, 3, 255, 255])
    """
    device, own = images.device, images.shape[-1] if images.dim() else 0
    if not isinstance(pad_value, Tensor):
        pad_value = _colour(pad_value, own, device)
    elif pad_value.dtype not in (torch.uint8, torch.float32):
        pad_value = pad_value.float()
    if pad_value.dim() == 0:
        pad_value = pad_value.expand(own)
    if centers_sizes.requires_grad or pad_value.requires_grad:
        centers_sizes, pad_value = centers_sizes.detach(), pad_value.detach()

    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if channels is None:
        channels = own
    elif 1 <= own <= MAX_CHANNELS:
        check(
            own <= channels <= MAX_CHANNELS,
            f"crop_and_resize: channels must be from C ({own}) to {MAX_CHANNELS}, got {channels}",
        )
    size = (centers_sizes.shape[0] if centers_sizes.dim() else 0, channels, out_size, out_size)
    if out is None:
        check(out_size > 0, f"crop_and_resize: out_size must be at least 1, got {out_size}")
        out = torch.empty(size, dtype=dtype, device=device, memory_format=memory_format)
        _crop(images, centers_sizes, pad_value, image_index, out)
        return out

    check(out.dtype == dtype, f"crop_and_resize: out must have dtype {dtype_name(dtype)}, got {dtype_name(out.dtype)}")
    check(out.shape == size, f"crop_and_resize: out must have shape {list(size)}, got {list(out.shape)}")
    layout = "channels_last" if channels_last else "contiguous"
    check(out.is_contiguous(memory_format=memory_format), f"crop_and_resize: out must be {layout}, got another layout")
    check(not out.requires_grad, "crop_and_resize: out must not require grad, got a tensor that does")
    _crop(images, centers_sizes, pad_value, image_index, out)
    torch.autograd.graph.increment_version(out)  # so that a graph that needs the old values raises an error
    return out


def _colour(value: float | Sequence[float], channels: int, device: torch.device) -> Tensor:
    """The colour as a tensor [C], without a copy from the host to a GPU: the host would wait for the copy."""
    if isinstance(value, Real):
        return torch.full((channels,), value, dtype=torch.float32, device=device)
    if device.type == "cpu":
        return torch.tensor(value, dtype=torch.float32)
    return torch.cat([torch.full((1,), v, dtype=torch.float32, device=device) for v in value])


# ---- fake kernel and checks ----------------------------------------------------------------------------------


def _check(images: Tensor, centers_sizes: Tensor, pad_value: Tensor, image_index: Tensor | None, out: Tensor) -> None:
    op = "crop_and_resize"
    check(images.dtype == torch.uint8, f"{op}: images must have dtype uint8, got {dtype_name(images.dtype)}")
    check(
        images.dim() in (3, 4) and 1 <= images.shape[-1] <= MAX_CHANNELS,
        f"{op}: images must have shape [H, W, C] or [B, H, W, C] with C from 1 to 4, got {list(images.shape)}",
    )
    count, channels = images.shape[0] if images.dim() == 4 else 1, images.shape[-1]

    dtype = centers_sizes.dtype
    check(
        dtype in (torch.float32, torch.float64),
        f"{op}: centers_sizes must have dtype float32 or float64, got {dtype_name(dtype)}",
    )
    check(
        centers_sizes.dim() == 2 and centers_sizes.shape[1] == 3,
        f"{op}: centers_sizes must have shape [K, 3], got {list(centers_sizes.shape)}",
    )
    check_same_device(op, "centers_sizes", centers_sizes, "images", images)
    crops = centers_sizes.shape[0]

    check(
        pad_value.dtype in (torch.uint8, torch.float32),
        f"{op}: pad_value must have dtype uint8 or float32, got {dtype_name(pad_value.dtype)}",
    )
    check(
        pad_value.shape == (channels,) or pad_value.shape == (crops, channels),
        f"{op}: pad_value must have shape [C] = [{channels}] or [K, C] = [{crops}, {channels}], "
        f"got {list(pad_value.shape)}",
    )
    check_same_device(op, "pad_value", pad_value, "images", images)

    if image_index is not None:
        dtype = image_index.dtype
        check(
            dtype in (torch.int32, torch.int64),
            f"{op}: image_index must have dtype int32 or int64, got {dtype_name(dtype)}",
        )
        check(
            image_index.shape == (crops,),
            f"{op}: image_index must have shape [K] = [{crops}], got {list(image_index.shape)}",
        )
        check_same_device(op, "image_index", image_index, "images", images)
    else:
        check(
            crops == 0 or (count > 0 and crops % count == 0),
            f"{op}: image_index must be given where K ({crops}) is not a multiple of the number of images ({count}), "
            "got None",
        )

    check(
        out.dtype in (*FLOATING, torch.uint8),
        f"{op}: out must have dtype float32, float64, float16, bfloat16 or uint8, got {dtype_name(out.dtype)}",
    )
    check(
        out.dim() == 4
        and out.shape == (crops, out.shape[1], out.shape[3], out.shape[3])
        and channels <= out.shape[1] <= MAX_CHANNELS
        and out.shape[3] > 0,
        f"{op}: out must have shape [K, C, S, S] = [{crops}, {channels}, S, S], C up to 4, got {list(out.shape)}",
    )
    check(out.shape[3] <= MAX_SIZE, f"{op}: out must have sides of at most {MAX_SIZE}, got {out.shape[3]}")
    check(
        out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last),
        f"{op}: out must be contiguous or channels_last, got another layout",
    )
    check_same_device(op, "out", out, "images", images)


#: The checks of csrc/common/crop.h, by schema.
CHECKS = {"crop_and_resize": _check}


@torch.library.register_fake("fastops::crop_and_resize")
def _(images, centers_sizes, pad_value, image_index, out) -> None:
    _check(images, centers_sizes, pad_value, image_index, out)
