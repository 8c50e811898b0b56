"""The Triton kernel of crop_and_resize: equal to the reference, bit for bit."""

from __future__ import annotations

import pytest
import torch

from fastops import reference
from tests.ops.test_crop import BATCH, LAYOUTS, NAN, PADS, REGIONS, RESULT_DTYPES, noise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="the triton package is not installed")
if DEVICE == "cpu":
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sigmoid, InterpretedFunction):
        pytest.skip("no GPU, and triton was imported without its interpreter before", allow_module_level=True)

from fastops.triton.crop import OPS  # noqa: E402


def check(
    images, centers_sizes, pad_value, image_index=None, size=20, dtype=torch.float32, channels_last=False, channels=None
):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (len(centers_sizes), channels or images.shape[-1], size, size)
    expected, actual = (
        torch.full(shape, 77, dtype=dtype, device=DEVICE).contiguous(memory_format=memory_format) for _ in range(2)
    )
    args = images, centers_sizes, pad_value, image_index
    args = [t.to(DEVICE) if isinstance(t, torch.Tensor) and t.device.type != DEVICE else t for t in args]
    reference.crop.OPS["crop_and_resize"](*args, expected)
    OPS["crop_and_resize"](*args, actual)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", RESULT_DTYPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_dtypes_and_layouts(channels_last, dtype):
    index = torch.tensor([1, 0, 0, 1], dtype=torch.int32)
    images = torch.from_numpy(noise(2, 37, 50, 3))
    check(images, BATCH, torch.tensor([1.5, 2.5, 300.0]), index, dtype=dtype, channels_last=channels_last)


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_channels_of_zeros(channels_last):
    image = torch.from_numpy(noise(37, 50, 3))
    check(image, BATCH, torch.full((3,), 9.0), dtype=torch.float16, channels_last=channels_last, channels=4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_regions(channels, dtype):
    regions = torch.tensor(list(REGIONS.values()), dtype=dtype)
    for size in (1, 17):
        check(torch.from_numpy(noise(37, 50, channels)), regions, torch.full((channels,), 200.0), size=size)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_images(layout):
    check(LAYOUTS[layout](torch.from_numpy(noise(2, 37, 50, 3))), BATCH, torch.tensor([3, 4, 5], dtype=torch.uint8))


@pytest.mark.parametrize("kind", [kind for kind in PADS if isinstance(PADS[kind][0]("cpu"), torch.Tensor)])
def test_padding(kind):
    pad_value = PADS[kind][0]("cpu")
    pad_value = pad_value if pad_value.dtype == torch.uint8 else pad_value.float()
    check(torch.from_numpy(noise(37, 50, 3)), BATCH, pad_value.expand(3) if pad_value.dim() == 0 else pad_value)


def test_large_regions():
    sides = [2.0**15, 65537.0, 1e6, 2.0**24]
    regions = torch.tensor([[5 + 0.37 * s / 100, 4 + i * s / 100, s] for s in sides for i in (0, 1)])
    check(torch.from_numpy(noise(9, 11, 3)), regions.double(), torch.ones(3), size=100)


def test_what_is_no_region_and_no_image():
    regions = BATCH.clone()
    regions[0, 0], regions[1, 2] = NAN, 3e7
    index = torch.tensor([0, 0, 5, -1])
    check(torch.from_numpy(noise(1, 37, 50, 3)), regions, torch.tensor([1.0, 2.0, 3.0]), index)


def test_no_crops_and_no_pixels():
    check(torch.zeros(0, 5, 5, 3, dtype=torch.uint8), torch.zeros(0, 3), torch.ones(3))
    check(torch.zeros(5, 0, 3, dtype=torch.uint8), BATCH, torch.ones(3))
