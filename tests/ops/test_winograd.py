"""The Winograd convolution and FrozenConv2d against float64 convolutions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastops.nn import FrozenConv2d, WinogradConv2d, winograd_convolutions
from fastops.ops.winograd import winograd_conv2d, winograd_pack, winograd_tile_size

ACTIVATIONS = {"none": lambda y: y, "relu": F.relu, "mish": F.mish}
# batch, in, out, groups, kernel, height, width (kernel 11: stride 2): SiamFC's layers, partial tiles, channels off the
# SIMD width, outputs smaller than a tile, more tiles than a task
SHAPES = [
    (3, 96, 256, 2, 5, 61, 61),
    (1, 256, 384, 1, 3, 28, 28),
    (3, 384, 256, 2, 3, 24, 24),
    (2, 5, 7, 1, 3, 9, 11),
    (1, 17, 33, 1, 5, 13, 8),
    (2, 48, 30, 3, 3, 7, 20),
    (1, 32, 16, 1, 3, 3, 3),
    (1, 16, 16, 2, 5, 5, 6),
    (1, 8, 24, 1, 3, 130, 70),
    (2, 3, 96, 1, 11, 127, 127),
    (1, 5, 20, 1, 11, 30, 41),
    (1, 1, 7, 1, 11, 12, 24),
]


# Of the relative L2 error: float32 is computed, half types are rounded once.
TOLERANCE = {torch.float32: 3e-5, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def _stride(kernel_size):
    return 2 if kernel_size == 11 else 1


def _packed(weight, groups, input_size):
    stride = _stride(weight.shape[2])
    tile_size = winograd_tile_size(tuple(weight.shape[2:]), tuple(input_size), stride, groups)
    return winograd_pack(weight, groups, tile_size, stride), tile_size


def _inputs(shape, seed=0):
    n, i, o, g, r, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, i, h, w, generator=generator)
    weight = torch.randn(o, i // g, r, r, generator=generator) / (i // g * r * r) ** 0.5
    return x, weight, torch.randn(o, generator=generator)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_equals_float64_convolution(shape, activation, dtype):
    x, weight, bias = _inputs(shape)
    x, groups, kernel = x.to(dtype), shape[3], shape[4]
    stride = _stride(kernel)
    packed, tile_size = _packed(weight, groups, x.shape)
    assert tile_size in (4, 5, 6)
    options = {"stride": stride, "groups": groups}
    expected = ACTIVATIONS[activation](F.conv2d(x.double(), weight.double(), bias.double(), **options))
    for layout in (torch.contiguous_format, torch.channels_last):
        source = x.contiguous(memory_format=layout)
        y = winograd_conv2d(source, packed, bias, shape[2], kernel, groups, tile_size, activation, stride)
        assert y.dtype == dtype
        assert y.shape == expected.shape and y.is_contiguous(memory_format=torch.channels_last)
        assert (y - expected).norm() <= TOLERANCE[dtype] * expected.norm()
        assert (y - expected).abs().max() <= 10 * TOLERANCE[dtype] * expected.abs().max()


def test_result_does_not_depend_on_threads():
    x, weight, bias = _inputs(SHAPES[1])
    packed, tile_size = _packed(weight, 1, x.shape)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(winograd_conv2d(x, packed, bias, 384, 3, 1, tile_size))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


def test_infinity_stays_in_the_tiles_it_touches():
    """Of a strided convolution whose last full tile has no last row: what is not there is zero, not what was there."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 39, 39), torch.randn(8, 3, 11, 11)
    x[0, :, 29, 30] = torch.inf
    packed = winograd_pack(weight, 1, 5, 2)
    reach = torch.zeros(15, 15, dtype=torch.bool)  # tiles of 5 outputs; number t reads rows 10 t to 10 t + 19
    reach[5:, 10:] = True
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = winograd_conv2d(x, packed, None, 8, 11, 1, 5, stride=2)
            assert not (~y.isfinite() & ~reach).any()
    finally:
        torch.set_num_threads(before)


def test_unsupported_sizes_say_so():
    assert winograd_tile_size((7, 7), (1, 4, 20, 20)) == 0
    assert winograd_tile_size((3, 5), (1, 4, 20, 20)) == 0
    assert winograd_tile_size((3, 3), (1, 4, 2, 20)) == 0
    assert winograd_tile_size((3, 3), (1, 4, 20, 20), stride=2) == 0
    assert winograd_tile_size((11, 11), (1, 4, 20, 20)) == 0
    assert winograd_tile_size((11, 11), (1, 4, 20, 20), stride=2, groups=2) == 0


def test_empty_batch():
    x, weight, _ = _inputs(SHAPES[3])
    packed, tile_size = _packed(weight, 1, x.shape)
    assert winograd_conv2d(x[:0], packed, None, 7, 3, 1, tile_size).shape == (0, 7, 7, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.ones(1, 8, 9, 9, dtype=torch.float64)},
            "x must have dtype float32, float16 or bfloat16, got float64",
        ),
        ({"x": torch.ones(8, 9, 9)}, r"x must be 4-D, got \[8, 9, 9\]"),
        ({"x": torch.ones(1, 8, 2, 9)}, r"x must be at least 3 x 3, got \[1, 8, 2, 9\]"),
        ({"groups": 3}, r"groups must divide the channels \(8 and 16\), got 3"),
        ({"packed": torch.ones(5)}, "packed must come from winograd_pack for these sizes, got 5 values"),
        ({"packed": torch.ones(2, 5)}, r"packed must be 1-D, got \[2, 5\]"),
        ({"packed": torch.ones(5).double()}, "packed must have dtype float32, got float64"),
        ({"kernel_size": 7}, "packed must come from winograd_pack for these sizes, got .* values"),
        ({"stride": 2}, "packed must come from winograd_pack for these sizes, got .* values"),
        ({"tile_size": 5}, "packed must come from winograd_pack for these sizes, got .* values"),
        ({"bias": torch.ones(16).double()}, "bias must have dtype float32, got float64"),
        ({"bias": torch.ones(3)}, r"bias must have shape \[16\], got \[3\]"),
        ({"activation": "gelu"}, "activation must be none, relu or mish, got gelu"),
    ],
)
def test_errors(change, message):
    packed, tile_size = _packed(torch.ones(16, 8, 3, 3), 1, (1, 8, 9, 9))
    arguments = {"x": torch.ones(1, 8, 9, 9), "packed": packed, "bias": None, "out_channels": 16, "kernel_size": 3}
    arguments |= {"groups": 1, "tile_size": tile_size, "activation": "none"} | change
    with pytest.raises(RuntimeError, match="winograd_conv2d: " + message):
        winograd_conv2d(**arguments)
    if change.get("packed", packed).numel() > 5 or "5 values" not in message:  # the size is known to the kernel alone
        with FakeTensorMode() as mode, pytest.raises(RuntimeError, match="winograd_conv2d: " + message):
            fakes = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
            winograd_conv2d(**fakes)


@pytest.mark.parametrize(
    ("weight", "groups", "tile_size", "message"),
    [
        (torch.ones(4, 4, 3), 1, 4, "weight must be 4-D"),
        (torch.ones(4, 4, 3, 3).half(), 1, 4, "weight must have dtype float32, got float16"),
        (torch.ones(4, 4, 3, 3), 3, 4, r"groups must divide the output channels \(4\), got 3"),
        (torch.ones(4, 4, 7, 7), 1, 4, r"weight must have 3x3 or 5x5 kernels .* got \[4, 4, 7, 7\] with stride 1"),
        (torch.ones(4, 4, 3, 3), 1, 5, "tile_size must be 4 or 6, with stride 2 3 or 5, got 5"),
    ],
)
def test_pack_errors(weight, groups, tile_size, message):
    with pytest.raises(RuntimeError, match="winograd_pack: " + message):
        winograd_pack(weight, groups, tile_size)


def test_pack_errors_of_stride_2():
    with pytest.raises(RuntimeError, match="winograd_pack: weight must have .* with stride 2 and 1 group"):
        winograd_pack(torch.ones(4, 4, 3, 3), 1, 4, stride=2)
    with pytest.raises(RuntimeError, match="winograd_pack: weight must have .* with stride 2 and 2 groups"):
        winograd_pack(torch.ones(4, 4, 11, 11), 2, 5, stride=2)
    with pytest.raises(RuntimeError, match="winograd_pack: tile_size must be .* got 4"):
        winograd_pack(torch.ones(4, 4, 11, 11), 1, 4, stride=2)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "tile_size"), [(3, 1, 4), (3, 1, 6), (5, 1, 4), (5, 1, 6), (11, 2, 3), (11, 2, 5)]
)
def test_every_tile_and_kernel(kernel_size, stride, tile_size):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 20, 19, 32), torch.randn(24, 20, kernel_size, kernel_size) / (20**0.5 * kernel_size)
    packed = winograd_pack(weight, 1, tile_size, stride)
    y = winograd_conv2d(x, packed, None, 24, kernel_size, 1, tile_size, stride=stride)
    expected = F.conv2d(x.double(), weight.double(), stride=stride)
    assert (y - expected).norm() <= 3e-5 * expected.norm()


def _trained(conv: nn.Conv2d) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and a batch norm with statistics that matter."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(conv.out_channels, eps=1e-6)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return conv, norm.eval()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 5, "groups": 2},
        {"kernel_size": 11, "stride": 2},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": 3, "dilation": 2},
    ],
    ids=str,
)
def test_frozen_conv_folds_batch_norm(options, activation):
    torch.manual_seed(0)
    conv, norm = _trained(nn.Conv2d(16, 32, **options))
    x = torch.randn(2, 16, 23, 19)
    with torch.no_grad():
        expected = ACTIVATIONS[activation](norm(conv(x)))
        frozen = FrozenConv2d(conv, norm, activation)
        torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=3e-4)
        other_size = torch.randn(1, 16, 40, 31)
        other_expected = ACTIVATIONS[activation](norm(conv(other_size)))
        torch.testing.assert_close(frozen(other_size), other_expected, rtol=1e-4, atol=3e-4)
        half = FrozenConv2d(conv, norm, activation, dtype=torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - expected).norm() < 2e-2 * expected.norm()


def test_frozen_conv_errors():
    conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="FrozenConv2d: activation must be none, relu or mish, got 'tanh'"):
        FrozenConv2d(conv, activation="tanh")
    with pytest.raises(ValueError, match="FrozenConv2d: norm must have running statistics of 4 channels, got 8"):
        FrozenConv2d(conv, nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="FrozenConv2d: conv must have numbers as padding"):
        FrozenConv2d(nn.Conv2d(4, 4, 3, padding="same"))


def _frozen() -> tuple[FrozenConv2d, torch.Tensor]:
    torch.manual_seed(0)
    return FrozenConv2d(nn.Conv2d(16, 32, 3), activation="mish"), torch.randn(2, 16, 20, 20)


@torch.no_grad()
def test_packed_weights_follow_the_weights():
    frozen, x = _frozen()
    frozen(x)
    other = FrozenConv2d(nn.Conv2d(16, 32, 3), activation="mish")
    frozen.load_state_dict(other.state_dict())
    assert torch.equal(frozen(x), other(x))
    frozen.weight.mul_(2)
    frozen.bias.zero_()
    expected = F.mish(F.conv2d(x, 2 * other.weight))
    torch.testing.assert_close(frozen(x), expected, rtol=1e-4, atol=1e-4)


def test_packed_weights_are_not_pickled():
    frozen, x = _frozen()
    expected = frozen(x)
    assert frozen._packed
    for copied in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert not copied._packed
        assert torch.equal(copied(x), expected)


def test_frozen_conv_keeps_what_torchs_convolution_does():
    frozen, x = _frozen()
    expected = frozen(x)
    leaf = x.clone().requires_grad_()
    frozen(leaf).sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad.any()
    torch.testing.assert_close(frozen(x[0]), expected[0], rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert frozen(x).dtype == torch.bfloat16


@pytest.mark.parametrize("warm", [False, True])
def test_frozen_conv_compiles(warm):
    frozen, x = _frozen()
    with torch.no_grad():
        expected = F.mish(F.conv2d(x, frozen.weight, frozen.bias))
        if warm:
            frozen(x)
        compiled = torch.compile(frozen, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


def test_result_is_not_a_view():
    frozen, x = _frozen()
    with torch.no_grad():
        assert not frozen(x)._is_view()


# ---- WinogradConv2d: training --------------------------------------------------------------------------------


TRAINED = [
    (3, 16, 24, 2, 5, 45, 41),
    (8, 96, 256, 2, 5, 29, 29),
    (1, 5, 7, 1, 5, 68, 70),
    (2, 3, 16, 1, 11, 127, 101),
]


def _step(conv, x, upstream):
    y = conv(x)
    y.backward(upstream)
    return y.detach()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", TRAINED, ids=lambda s: "x".join(map(str, s)))
def test_training_step_against_float64(shape, bias, layout):
    n, i, o, groups, size, h, w = shape
    torch.manual_seed(0)
    conv = WinogradConv2d(i, o, size, _stride(size), groups=groups, bias=bias).to(memory_format=layout)
    wide = nn.Conv2d(i, o, size, _stride(size), groups=groups, bias=bias).double()
    wide.load_state_dict(conv.state_dict())
    x = torch.randn(n, i, h, w).contiguous(memory_format=layout).requires_grad_(size == 5)
    x64 = x.detach().double().requires_grad_(size == 5)
    assert conv.tile_size(x) > 0
    upstream = torch.randn(wide(x64).shape)
    y, y64 = _step(conv, x, upstream), _step(wide, x64, upstream.double())
    assert y.is_contiguous(memory_format=torch.channels_last)
    pairs = [(y, y64), *((a.grad, b.grad) for a, b in zip(conv.parameters(), wide.parameters(), strict=True))]
    if size == 5:
        pairs.append((x.grad, x64.grad))
    for actual, expected in pairs:
        assert (actual - expected).norm() < 5e-5 * expected.norm()


def test_gradients_that_nobody_wants_are_not_computed():
    conv = WinogradConv2d(8, 8, 5)
    conv.bias.requires_grad_(False)
    x = torch.randn(1, 8, 70, 70)
    conv(x).sum().backward()
    assert conv.weight.grad is not None and conv.bias.grad is None and x.grad is None
    conv.weight.requires_grad_(False)
    x.requires_grad_()
    conv(x).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, conv.weight, conv.bias).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-4)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)[0].sum().backward()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"kernel_size": 3}, (1, 4, 90, 90)),
        ({"kernel_size": 5, "stride": 2}, (1, 4, 190, 190)),
        ({"kernel_size": 5, "padding": 2}, (1, 4, 90, 90)),
        ({"kernel_size": 5, "dilation": 2}, (1, 4, 90, 90)),
        ({"kernel_size": 5, "padding_mode": "circular", "padding": 2}, (1, 4, 90, 90)),
        ({"kernel_size": 5}, (1, 4, 40, 40)),
        ({"kernel_size": 5}, (4, 90, 90)),
        ({"kernel_size": 11, "stride": 2, "groups": 2}, (1, 4, 190, 190)),
    ],
)
def test_everything_else_is_torch_s_convolution(options, shape):
    conv = WinogradConv2d(4, 4, **options)
    plain = nn.Conv2d(4, 4, **options)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(shape)
    assert torch.equal(conv(x), plain(x))


def test_other_dtypes_autocast_and_transforms_run_torch_s_convolution():
    conv, x = WinogradConv2d(4, 4, 5), torch.randn(1, 4, 70, 70)
    assert conv.tile_size(x) > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert torch.func.vmap(conv)(x[None]).shape == (1, 1, 4, 66, 66)
    first = WinogradConv2d(3, 4, 11, 2)
    assert first.tile_size(torch.randn(1, 3, 141, 141, requires_grad=True)) == 0
    conv.double()
    assert torch.equal(conv(x.double()), F.conv2d(x.double(), conv.weight, conv.bias))


def test_convolutions_of_a_model_for_a_while():
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(4, 4, 5), nn.Sequential(nn.Conv2d(4, 4, 3)), Own(4, 4, 5))
    with pytest.raises(ZeroDivisionError), winograd_convolutions(model):
        assert [type(m) for m in (model[0], model[1][0], model[2])] == [WinogradConv2d, WinogradConv2d, Own]
        raise ZeroDivisionError
    assert [type(m) for m in (model[0], model[1][0], model[2])] == [nn.Conv2d, nn.Conv2d, Own]
