"""crop_and_resize equals OpenCV bit for bit, for every region, layout, dtype and backend.

tests/cuda_host/run.py runs test_forward and test_runs_are_equal with the CUDA kernel.
"""

from __future__ import annotations

import importlib
import os
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastops
from benchmarks.harness import peak_memory
from fastops import reference
from tests.support.op_table import DTYPES

crop_and_resize = fastops.crop_and_resize
schema_op = torch.ops.fastops.crop_and_resize.default
RESULT_DTYPES = (*DTYPES, torch.uint8)
each_dtype = pytest.mark.parametrize("dtype", RESULT_DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
INF, NAN = float("inf"), float("nan")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def opencv(image: np.ndarray, center_size, out_size: int, colour) -> np.ndarray:
    """[C, S, S] of cv2.copyMakeBorder and cv2.resize."""
    x, y, size = center_size
    side = max(1, round(float(size)))
    left, top = (int(np.round(v - (side - 1) / 2)) for v in (x, y))
    height, width = image.shape[:2]
    x0, x1 = (min(max(v, 0), width) for v in (left, left + side))
    y0, y1 = (min(max(v, 0), height) for v in (top, top + side))
    if x0 == x1 or y0 == y1:
        region = np.empty((side, side, image.shape[2]), np.uint8)
        region[:] = colour
    else:
        borders = (y0 - top, top + side - y1, x0 - left, left + side - x1)
        value = [float(v) for v in colour]
        region = cv2.copyMakeBorder(image[y0:y1, x0:x1], *borders, cv2.BORDER_CONSTANT, value=value)
    resized = cv2.resize(region, (out_size, out_size), interpolation=cv2.INTER_LINEAR)
    return resized.reshape(out_size, out_size, -1).transpose(2, 0, 1)


def assert_opencv(image: np.ndarray, centers_sizes: np.ndarray, out_size: int, colour, device: str) -> None:
    crops = crop_and_resize(
        torch.from_numpy(image).to(device),
        torch.from_numpy(centers_sizes).to(device),
        out_size,
        torch.tensor(list(colour), dtype=torch.uint8, device=device),
        dtype=torch.uint8,
    )
    for crop, center_size in zip(crops.cpu().numpy(), centers_sizes, strict=True):
        expected = opencv(image, center_size, out_size, colour)
        # OpenCV averages two channels at half the size differently: some pixels are one grey level off.
        halved = image.shape[2] == 2 and round(float(center_size[2])) == 2 * out_size
        np.testing.assert_allclose(crop.astype(int), expected, rtol=0, atol=int(halved), err_msg=str(center_size))


# ---- values --------------------------------------------------------------------------------------------------

# Of a frame of 50 x 37.
REGIONS = {
    "inside": (24.3, 18.9, 30.0),
    "the_frame": (24.5, 18.0, 37.0),
    "left_top": (2.0, 3.0, 21.4),
    "right_bottom": (48.2, 35.9, 24.6),
    "left_only": (-8.0, 18.0, 20.0),
    "all_sides": (25.0, 18.0, 90.0),
    "just_touching": (-4.5, 18.0, 10.0),
    "outside": (-100.0, 18.0, 60.0),
    "outside_diagonally": (90.0, 80.0, 60.0),
    "far_outside": (1e6, -1e6, 700.0),
    "tiny": (24.0, 18.0, 1.0),
    "tiny_in_the_corner": (49.0, 36.0, 2.0),
    "less_than_a_pixel": (24.0, 18.0, 0.2),
    "negative": (24.0, 18.0, -9.0),
    "ties": (20.5, 10.5, 16.5),
    "other_ties": (21.5, 11.5, 17.5),
}


@pytest.mark.kernels
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward_equals_opencv(channels, dtype, device):
    image, colour = noise(37, 50, channels), [200, 90, 0, 255][:channels]
    for out_size in (1, 17, 32):
        assert_opencv(image, np.array(list(REGIONS.values()), dtype), out_size, colour, device)


@pytest.mark.kernels
def test_forward_of_a_region_100_times_the_frame(device):
    regions = np.array([[x, y, 2000.0] for x, y in ((9.0, 8.0), (-700.0, 300.0), (1012.0, 8.0))], np.float32)
    assert_opencv(noise(15, 20, 3), regions, 100, (9, 99, 199), device)


@pytest.mark.kernels
@pytest.mark.parametrize("side", [127, 254, 255, 256, 508, 510, 511, 1, 2])
@pytest.mark.parametrize("out_size", [127, 255])
def test_forward_at_the_sizes_of_a_tracker(out_size, side, device):
    """Equal sides are a copy in OpenCV, and twice the side its area average."""
    regions = np.array([[60.0, 50.0, side], [13.5, 90.0, side]], np.float32)
    assert_opencv(noise(120, 160, 3), regions, out_size, (1, 2, 3), device)


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 6), (64, 3)])
def test_forward_of_small_frames(shape, device):
    height, width = shape
    regions = [[x, y, size] for x in (0, width) for y in (0, height / 2) for size in (1, 2, 5, 20, 100)]
    assert_opencv(noise(*shape, 3), np.array(regions, np.float32), 21, (50, 60, 70), device)


@pytest.mark.kernels
@pytest.mark.parametrize("out_size, side", [(64, 9000), (1000, 12001), (1024, 9000), (4096, 2500)])
def test_forward_where_float32_keeps_little_of_a_coordinate(out_size, side, device):
    """Regions beyond 2^24 / (2 S): with S = 1024 and 4096 some coordinates are ties of float32."""
    if (out_size, side) != (64, 9000) and os.environ.get("CUDA_HOST_LIBRARY"):
        pytest.skip("too many pixels for a CPU that runs a GPU's threads one by one")
    image = noise(side, 64, 1)
    center = (side - 1) / 2
    assert_opencv(image, np.array([[31.0 + center, center, side]]), out_size, (7,), device)


@pytest.mark.kernels
@pytest.mark.parametrize("out_size", [16, 100, 255])
def test_forward_of_regions_too_large_for_opencv(out_size, device):
    """Against the reference, which counts in double."""
    images = torch.from_numpy(noise(3, 9, 11, 3)).to(device)
    sides = [2.0**15, 65537.0, 1e6, 4.2e6, 2.0**23, 2.0**24]
    for shift in (0.0, 0.37):
        # Those that bring a pixel of the result onto the frame.
        regions = [[5 + s / out_size * shift, 4 + s / out_size * (i + shift), s] for s in sides for i in (0, 1)]
        centers_sizes = torch.tensor(regions[:12], dtype=torch.float64, device=device)
        args = images, centers_sizes, out_size, [9, 8, 7]
        assert torch.equal(crop_and_resize(*args), reference.crop_and_resize(*args))


@st.composite
def regions(draw):
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    x = draw(st.floats(-2 * width, 3 * width, width=32))
    y = draw(st.floats(-2 * height, 3 * height, width=32))
    return (height, width, draw(st.sampled_from([1, 3, 4]))), (x, y, draw(st.floats(-1, 300, width=32)))


@pytest.mark.kernels
@settings(max_examples=100, deadline=None, derandomize=True)
@given(regions(), st.integers(1, 40), st.integers(0, 2**16))
@example(((7, 9, 3), (4.0, 3.0, 1.0)), 9, 0)
@example(((40, 40, 3), (19.5, 19.5, 40.0)), 20, 0)
def test_forward_of_random_regions(region, out_size, seed):
    shape, center_size = region
    colour = noise(shape[2], seed=seed).tolist()
    assert_opencv(noise(*shape, seed=seed), np.array([center_size], np.float32), out_size, colour, "cpu")


# ---- dtypes, layouts, arguments ------------------------------------------------------------------------------

BATCH = torch.tensor([[24.0, 18.0, 30.0], [0.0, 0.0, 41.3], [49.0, 20.0, 77.0], [25.0, 18.0, 9.6]])


def expected_of_batch(images: Tensor, out_size: int, colour, index) -> Tensor:
    """uint8, from OpenCV."""
    crops = [opencv(images[i].numpy(), c.numpy(), out_size, colour) for i, c in zip(index, BATCH, strict=True)]
    return torch.from_numpy(np.stack(crops))


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_forward_in_every_dtype_and_layout(channels, channels_last, dtype, device):
    images = torch.from_numpy(noise(2, 37, 50, channels))
    colour = [200, 90, 1, 255][:channels]
    index = torch.tensor([1, 0, 0, 1])
    args = images.to(device), BATCH.to(device), 33, colour, index.to(device)
    actual = crop_and_resize(*args, dtype=dtype, channels_last=channels_last)
    assert actual.dtype == dtype
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert actual.stride() == torch.empty_like(actual, memory_format=memory_format).stride()
    expected = expected_of_batch(images, 33, colour, index)
    assert torch.equal(actual.cpu(), expected.to(dtype))
    assert torch.equal(actual.to(torch.uint8).cpu(), expected)  # whole grey levels in every dtype
    assert torch.equal(actual, reference.crop_and_resize(*args, dtype=dtype, channels_last=channels_last))


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("own, channels", [(3, 4), (1, 4), (2, 3)])
def test_forward_with_channels_of_zeros(own, channels, channels_last, dtype, device):
    image = torch.from_numpy(noise(37, 50, own)).to(device)
    args, options = (image, BATCH.to(device), 33, [200, 90, 1][:own]), {"dtype": dtype, "channels_last": channels_last}
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = (1 + len(BATCH), channels, 33, 33)
    buffer = torch.full(shape, 77, dtype=dtype, device=device).contiguous(memory_format=memory_format)
    actual = crop_and_resize(*args, channels=channels, out=buffer[1:], **options)
    assert torch.equal(actual[:, :own], crop_and_resize(*args, **options))
    assert not actual[:, own:].any() and (buffer[0] == 77).all()
    assert torch.equal(actual, reference.crop_and_resize(*args, channels=channels, **options))
    assert torch.equal(actual, crop_and_resize(*args, channels=channels, **options))


# name -> images [2, 37, 50, 3] with other strides
LAYOUTS = {
    "planes": lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "transposed": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "view_of_a_larger_one": lambda t: torch.nn.functional.pad(t, (0, 0, 5, 6, 7, 8), value=77)[:, 7:-8, 5:-6],
    "every_second_pixel": lambda t: t.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, ::2, ::2],
    "three_of_four_channels": lambda t: torch.cat((t, t[..., :1]), 3)[..., :3],
    "batch_inside": lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "unaligned": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
    "one_repeated": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.kernels
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_of_strided_images(layout, device):
    images = LAYOUTS[layout](torch.from_numpy(noise(2, 37, 50, 3)).to(device))
    index = torch.tensor([0, 1, 1, 0], device=device)
    expected = expected_of_batch(images.cpu().contiguous(), 40, [3, 4, 5], index.cpu())
    for channels_last in (False, True):
        actual = crop_and_resize(images, BATCH.to(device), 40, (3, 4, 5), index, channels_last=channels_last)
        assert torch.equal(actual.cpu(), expected.float())


@pytest.mark.kernels
def test_forward_reads_nothing_beyond_the_image(device):
    """Its last row may be the last bytes of its storage; the others are not part of the view."""
    image = noise(40, 60, 3)
    storage = torch.from_numpy(image).to(device)
    view = storage[3:30, 7:50]
    regions = torch.tensor([[21.0, 13.0, s] for s in (20.0, 27.0, 43.0, 60.0, 90.0)], device=device)
    before = crop_and_resize(view, regions, 50, 128)
    outside = torch.ones(40, 60, dtype=torch.bool, device=device)
    outside[3:30, 7:50] = False
    storage[outside] = 255 - storage[outside]
    assert torch.equal(crop_and_resize(view, regions, 50, 128), before)


@pytest.mark.kernels
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64], ids=str)
def test_forward_with_an_image_for_each_crop(index_dtype, device):
    images = torch.from_numpy(noise(4, 37, 50, 3)).to(device)
    centers = BATCH.to(device)
    all_of_first = crop_and_resize(images[0], centers, 20, 0)
    assert torch.equal(crop_and_resize(images[:1], centers, 20, 0), all_of_first)
    for count, index in ((1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (4, [0, 1, 2, 3])):
        index = torch.tensor(index, dtype=index_dtype, device=device)
        explicit = crop_and_resize(images[:count], centers, 20, 0, index)
        assert torch.equal(crop_and_resize(images[:count], centers, 20, 0), explicit)
        assert torch.equal(crop_and_resize(images[:count], centers, 20, 0, index.repeat_interleave(2)[::2]), explicit)
    assert not torch.equal(explicit, all_of_first)


PADS = {
    "number": (lambda device: 90.5, [[90, 90, 90]]),
    "whole_number": (lambda device: 91, [[91, 91, 91]]),
    "number_of_numpy": (lambda device: np.float32(90.5), [[90, 90, 90]]),
    "array": (lambda device: np.array([1, 2, 255], np.uint8), [[1, 2, 255]]),
    "sequence": (lambda device: (1.5, 2.5, 300), [[2, 2, 255]]),
    "scalar_tensor": (lambda device: torch.tensor(7, device=device), [[7, 7, 7]]),
    "uint8": (lambda device: torch.tensor([1, 2, 255], dtype=torch.uint8, device=device), [[1, 2, 255]]),
    "float32": (lambda device: torch.tensor([-3.0, 254.5, NAN], device=device), [[0, 254, 0]]),
    "float64": (lambda device: torch.tensor([0.6, 254.6, INF], device=device).double(), [[1, 255, 255]]),
    "each_crop_uint8": (
        lambda device: torch.arange(12, dtype=torch.uint8, device=device).view(4, 3),
        np.arange(12).reshape(4, 3).tolist(),
    ),
    "each_crop_float32_strided": (
        lambda device: (torch.arange(12.0, device=device).view(3, 4) + 0.25).T,
        np.arange(12).reshape(3, 4).T.tolist(),
    ),
}


@pytest.mark.kernels
@pytest.mark.parametrize("kind", PADS)
def test_forward_with_padding_of_any_kind(kind, device):
    make, colours = PADS[kind]
    image = noise(37, 50, 3)
    actual = crop_and_resize(torch.from_numpy(image).to(device), BATCH.to(device), 20, make(device)).cpu()
    for i, crop in enumerate(actual):
        expected = opencv(image, BATCH[i].numpy(), 20, colours[i % len(colours)])
        np.testing.assert_array_equal(crop.numpy(), expected)
    given_to_reference = reference.crop_and_resize(torch.from_numpy(image), BATCH, 20, make("cpu"))
    assert torch.equal(actual, given_to_reference)


@pytest.mark.kernels
@pytest.mark.parametrize("value", [NAN, INF, -INF, 2.0**24 + 2, -1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_forward_of_what_is_no_region(value, dtype, device):
    image = torch.from_numpy(noise(20, 30, 3)).to(device)
    regions = torch.tensor([[15.0, 10.0, 8.0]], dtype=dtype, device=device).repeat(4, 1)
    for i in range(3):
        regions[i, i] = value
    colour = torch.tensor([11.0, 12.0, 13.0], device=device)
    actual = crop_and_resize(image, regions, 25, colour)
    assert torch.equal(actual[:3], colour[:, None, None].expand(3, 3, 25, 25))
    assert torch.equal(actual[3:], crop_and_resize(image, regions[3:], 25, colour))


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(0, 20, 30, 3), (1, 20, 30, 3), (20, 30, 3)])
def test_forward_of_no_crops(shape, device):
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    result = crop_and_resize(images, torch.zeros(0, 3, device=device), 9, 0, channels_last=True)
    assert result.shape == (0, 3, 9, 9)


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(0, 30, 3), (20, 0, 3)])
def test_forward_of_a_frame_without_pixels(shape, device):
    result = crop_and_resize(torch.zeros(shape, dtype=torch.uint8, device=device), BATCH.to(device), 9, 5)
    assert torch.equal(result, torch.full((4, 3, 9, 9), 5.0, device=device))


@pytest.mark.kernels
def test_runs_are_equal_whatever_the_threads(device):
    """Bands of rows begin anywhere in a crop."""
    images = torch.from_numpy(noise(90, 120, 3)).to(device)
    regions = torch.tensor([[60.0, 45.0, 50.0], [-5.0, 45.0, 311.0], [70.0, 80.0, 97.0]], device=device)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(crop_and_resize(images, regions, 131, 128))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.kernels
def test_runs_are_equal_in_any_company(device):
    """A crop does not depend on its neighbours, and sizes may grow from call to call."""
    images = torch.from_numpy(noise(90, 120, 3)).to(device)
    regions = torch.tensor([[60.0, 45.0, 50.0], [-5.0, 45.0, 311.0], [70.0, 80.0, 97.0]], device=device)
    for out_size in (3, 150, 40):
        together = crop_and_resize(images, regions, out_size, 128)
        for i in range(3):
            assert torch.equal(crop_and_resize(images, regions[i : i + 1], out_size, 128), together[i : i + 1])


# ---- out -----------------------------------------------------------------------------------------------------


@pytest.mark.kernels
@each_dtype
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_forward_into_a_tensor(channels_last, dtype, device):
    image = torch.from_numpy(noise(37, 50, 3)).to(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    buffer = torch.full((6, 3, 20, 20), 99, dtype=dtype, device=device).contiguous(memory_format=memory_format)
    out = buffer[1:5]
    version = buffer._version
    result = crop_and_resize(image, BATCH.to(device), 20, 0, dtype=dtype, channels_last=channels_last, out=out)
    assert result is out and buffer._version > version
    assert torch.equal(out, crop_and_resize(image, BATCH.to(device), 20, 0, dtype=dtype))
    assert (buffer[0] == 99).all() and (buffer[5] == 99).all()


def test_nothing_is_allocated_but_the_result():
    image, colour = torch.from_numpy(noise(200, 300, 3)), torch.zeros(3, dtype=torch.uint8)
    image = image.permute(2, 0, 1).contiguous().permute(1, 2, 0)  # strided images are not copied
    for size in (40.0, 1000.0, 1e6):
        regions = torch.tensor([[0.0, 100.0, size]])
        result = crop_and_resize(image, regions, 64, colour)
        assert peak_memory(lambda regions=regions: crop_and_resize(image, regions, 64, colour), "cpu") == (
            result.numel() * 4
        )
        into = partial(crop_and_resize, image, regions, 64, colour, out=result)
        assert peak_memory(into, "cpu") == 0


@pytest.mark.parametrize("out_size", [1, 4096])
def test_sizes_from_1_to_4096(out_size, device):
    assert_opencv(noise(30, 30, 3), np.array([[14.0, 15.0, 33.0]], np.float32), out_size, (9, 9, 9), device)


def test_gradients_are_not_recorded(device):
    image = torch.from_numpy(noise(37, 50, 3)).to(device)
    regions, colour = BATCH.to(device).requires_grad_(), torch.ones(3, device=device, requires_grad=True)
    result = crop_and_resize(image, regions, 20, colour)
    assert not result.requires_grad
    assert torch.equal(result, crop_and_resize(image, BATCH.to(device), 20, 1))
    out = torch.empty(4, 3, 20, 20, device=device)
    assert not crop_and_resize(image, regions, 20, colour, out=out).requires_grad
    with torch.inference_mode():
        assert torch.equal(crop_and_resize(image, regions, 20, colour), result)


# ---- what torch is told --------------------------------------------------------------------------------------


def schema_arguments(device: str, dtype=torch.float32, channels_last=False) -> tuple:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return (
        torch.from_numpy(noise(2, 37, 50, 3)).to(device),
        BATCH.to(device),
        torch.tensor([1.0, 2.0, 3.0], device=device),
        torch.tensor([0, 1, 1, 0], device=device),
        torch.zeros(4, 3, 20, 20, dtype=dtype, device=device).contiguous(memory_format=memory_format),
    )


@pytest.mark.parametrize("dtype, channels_last", [(torch.float32, False), (torch.bfloat16, True), (torch.uint8, True)])
def test_opcheck(dtype, channels_last, device):
    torch.library.opcheck(schema_op, schema_arguments(device, dtype, channels_last))


@each_dtype
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
def test_fake_results_have_the_dtype_shape_and_strides(channels_last, dtype, device):
    image = torch.from_numpy(noise(37, 50, 3)).to(device)
    run = partial(crop_and_resize, out_size=20, pad_value=3, dtype=dtype, channels_last=channels_last)
    expected = run(image, BATCH.to(device))
    with FakeTensorMode() as mode:
        result = run(mode.from_tensor(image), mode.from_tensor(BATCH.to(device)))
    assert (result.dtype, result.shape, result.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert result.device == expected.device


@pytest.mark.parametrize(
    "pad_value", [3.5, (1, 2, 3), torch.tensor([1.0, 2.0, 3.0])], ids=["number", "tuple", "tensor"]
)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend, pad_value, device):
    def network(image, regions, pad_value):
        crops = crop_and_resize(image, regions * 2, 20, pad_value, channels_last=True)
        return crops / 255, crops

    torch._dynamo.reset()
    image = torch.from_numpy(noise(37, 50, 3)).to(device)
    pad_value = pad_value.to(device) if isinstance(pad_value, Tensor) else pad_value
    args = image, BATCH.to(device), pad_value
    for actual, expected in zip(
        torch.compile(network, fullgraph=True, backend=backend)(*args), network(*args), strict=True
    ):
        assert torch.equal(actual, expected) and actual.stride() == expected.stride()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_into_a_tensor(backend, device):
    def network(image, regions, out):
        return crop_and_resize(image, regions, 20, 7, out=out) + 1

    torch._dynamo.reset()
    image, out = torch.from_numpy(noise(37, 50, 3)).to(device), torch.zeros(4, 3, 20, 20, device=device)
    expected = network(image, BATCH.to(device), torch.zeros_like(out))
    actual = torch.compile(network, fullgraph=True, backend=backend)(image, BATCH.to(device), out)
    assert torch.equal(actual, expected) and torch.equal(out + 1, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph():
    image, regions = torch.from_numpy(noise(90, 120, 3)).cuda(), BATCH.cuda()
    colour, out = torch.tensor([1.0, 2.0, 3.0]).cuda(), torch.empty(4, 3, 31, 31).cuda()
    crop_and_resize(image, regions, 31, colour, out=out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        crop_and_resize(image, regions, 31, colour, out=out)
        number = crop_and_resize(image, regions, 31, (4, 5, 6), channels_last=True)
    regions += 3.5
    image.copy_(255 - image)
    graph.replay()
    assert torch.equal(out, crop_and_resize(image, regions, 31, colour))
    assert torch.equal(number, crop_and_resize(image, regions, 31, (4, 5, 6)))


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_set_backend(backend, device):
    if backend == "triton" and device == "cpu":
        pytest.importorskip("triton")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("triton was imported without its interpreter")
    called = []
    module = importlib.import_module(f"fastops.{backend}.crop")
    kernel = module.OPS["crop_and_resize"]
    args = schema_arguments(device)
    schema_op(*args)
    expected = args[-1].clone()
    fastops._backends._resolve.cache_clear()
    module.OPS["crop_and_resize"] = lambda *a: called.append(backend) or kernel(*a)
    try:
        with fastops.set_backend(backend, "crop_and_resize"):
            args[-1].zero_()
            schema_op(*args)
            torch.library.opcheck(schema_op, args, test_utils="test_schema")
    finally:
        module.OPS["crop_and_resize"] = kernel
        fastops._backends._resolve.cache_clear()
    assert called and torch.equal(args[-1], expected)


# ---- errors --------------------------------------------------------------------------------------------------

IMAGE, REGION = torch.zeros(20, 30, 3, dtype=torch.uint8), torch.zeros(2, 3)


def arguments(**changes) -> tuple:
    args = {"images": IMAGE, "centers_sizes": REGION, "pad_value": torch.zeros(3), "image_index": None}
    args["out"] = torch.zeros(2, 3, 9, 9)
    assert changes.keys() <= args.keys()
    return tuple((args | changes).values())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": IMAGE.float()}, "images must have dtype uint8, got float32"),
        (
            {"images": IMAGE[0]},
            "images must have shape [H, W, C] or [B, H, W, C] with C from 1 to 4, got [30, 3]",
        ),
        (
            {"images": torch.zeros(3, 20, 30, dtype=torch.uint8)},
            "images must have shape [H, W, C] or [B, H, W, C] with C from 1 to 4, got [3, 20, 30]",
        ),
        ({"centers_sizes": REGION.half()}, "centers_sizes must have dtype float32 or float64, got float16"),
        ({"centers_sizes": REGION[:, :2]}, "centers_sizes must have shape [K, 3], got [2, 2]"),
        ({"centers_sizes": REGION[0]}, "centers_sizes must have shape [K, 3], got [3]"),
        ({"centers_sizes": REGION.to("meta")}, "centers_sizes must be on the device of images (cpu), got meta"),
        ({"pad_value": torch.zeros(3).double()}, "pad_value must have dtype uint8 or float32, got float64"),
        ({"pad_value": torch.zeros(4)}, "pad_value must have shape [C] = [3] or [K, C] = [2, 3], got [4]"),
        ({"pad_value": torch.zeros(3, 3)}, "pad_value must have shape [C] = [3] or [K, C] = [2, 3], got [3, 3]"),
        ({"pad_value": torch.zeros(())}, "pad_value must have shape [C] = [3] or [K, C] = [2, 3], got []"),
        ({"pad_value": torch.zeros(3, device="meta")}, "pad_value must be on the device of images (cpu), got meta"),
        ({"image_index": torch.zeros(2)}, "image_index must have dtype int32 or int64, got float32"),
        ({"image_index": torch.zeros(3).int()}, "image_index must have shape [K] = [2], got [3]"),
        (
            {"image_index": torch.zeros(2, device="meta").int()},
            "image_index must be on the device of images (cpu), got meta",
        ),
        (
            {"images": IMAGE.expand(3, 20, 30, 3)},
            "image_index must be given where K (2) is not a multiple of the number of images (3), got None",
        ),
        (
            {"images": IMAGE.expand(0, 20, 30, 3)},
            "image_index must be given where K (2) is not a multiple of the number of images (0), got None",
        ),
        (
            {"out": torch.zeros(2, 3, 9, 9).int()},
            "out must have dtype float32, float64, float16, bfloat16 or uint8, got int32",
        ),
        (
            {"out": torch.zeros(2, 3, 9, 8)},
            "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [2, 3, 9, 8]",
        ),
        (
            {"out": torch.zeros(3, 3, 9, 9)},
            "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [3, 3, 9, 9]",
        ),
        (
            {"out": torch.zeros(2, 2, 9, 9)},
            "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [2, 2, 9, 9]",
        ),
        (
            {"out": torch.zeros(2, 5, 9, 9)},
            "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [2, 5, 9, 9]",
        ),
        (
            {"out": torch.zeros(2, 3, 0, 0)},
            "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [2, 3, 0, 0]",
        ),
        ({"out": torch.zeros(2, 3, 9)}, "out must have shape [K, C, S, S] = [2, 3, S, S], C up to 4, got [2, 3, 9]"),
        (
            {"out": torch.zeros(2, 3, 9, 9).transpose(2, 3)},
            "out must be contiguous or channels_last, got another layout",
        ),
        ({"out": torch.zeros(2, 3, 9, 9, device="meta")}, "out must be on the device of images (cpu), got meta"),
    ],
)
def test_errors(changes, message, raises_everywhere):
    raises_everywhere(schema_op, arguments(**changes), f"crop_and_resize: {message}")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"out_size": 0}, "out_size must be at least 1, got 0"),
        ({"channels": 2}, "channels must be from C (3) to 4, got 2"),
        ({"channels": 5}, "channels must be from C (3) to 4, got 5"),
        ({"channels": 4, "out": torch.zeros(2, 3, 9, 9)}, "out must have shape [2, 4, 9, 9], got [2, 3, 9, 9]"),
        ({"pad_value": [1, 2]}, "pad_value must have shape [C] = [3] or [K, C] = [2, 3], got [2]"),
        ({"dtype": torch.int16}, "out must have dtype float32, float64, float16, bfloat16 or uint8, got int16"),
        ({"out": torch.zeros(2, 3, 9, 9).half()}, "out must have dtype float32, got float16"),
        ({"out": torch.zeros(2, 3, 8, 8)}, "out must have shape [2, 3, 9, 9], got [2, 3, 8, 8]"),
        (
            {"out": torch.zeros(2, 3, 9, 9), "channels_last": True},
            "out must be channels_last, got another layout",
        ),
        (
            {"out": torch.zeros(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)},
            "out must be contiguous, got another layout",
        ),
        (
            {"out": torch.zeros(2, 3, 9, 9, requires_grad=True)},
            "out must not require grad, got a tensor that does",
        ),
    ],
)
def test_errors_of_the_function(changes, message, raises_everywhere):
    keywords = {"out_size": 9, "pad_value": 0} | changes
    raises_everywhere(partial(crop_and_resize, **keywords), (IMAGE, REGION), f"crop_and_resize: {message}")


@pytest.mark.parametrize("index", [-1, 2, 2**40])
def test_an_image_that_does_not_exist(index, device):
    images = torch.from_numpy(noise(2, 37, 50, 3)).to(device)
    numbers = torch.tensor([0, 1, index, 1], device=device)
    if device == "cpu":
        message = f"^crop_and_resize: image_index must be at least 0 and below 2, got {index}(\n|$)"
        with pytest.raises(RuntimeError, match=message):
            crop_and_resize(images, BATCH, 20, 44, numbers)
        return
    result = crop_and_resize(images, BATCH.to(device), 20, 44, numbers)
    assert (result[2] == 44).all()
    others = [0, 1, 3]
    assert torch.equal(result[others], crop_and_resize(images, BATCH[others].to(device), 20, 44, numbers[others]))


# ---- instruction sets ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_values_with_instruction_set(capability, run_with_instruction_set):
    run_with_instruction_set(capability, __file__, "test_forward")
