"""The 8-bit convolution against its definition in int32: bit for bit, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import fastops
from fastops.ops.quantized_conv import quantized_conv2d, quantized_conv2d_pack
from fastops.reference import quantized_conv2d as reference
from tests.support.paths import ROOT

CAPABILITIES = ["baseline", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_vbmi", "avx512_amx"]

# batch, in, out, groups, kernel (height, width), stride, padding, height, width, pool: SiamFC's layers in small, the
# box head's towers, channels off every vector width, one pixel, more pixels than a block, windows apart
CASES = [
    (2, 3, 96, 1, (11, 11), (2, 2), (0, 0), 47, 83, (3, 2)),
    (1, 96, 256, 2, (5, 5), (1, 1), (0, 0), 13, 45, (3, 2)),
    (1, 256, 40, 1, (3, 3), (1, 1), (0, 0), 8, 28, (1, 1)),
    (2, 48, 66, 3, (3, 3), (1, 1), (1, 1), 7, 20, (1, 1)),
    (1, 128, 4, 1, (3, 3), (1, 1), (1, 1), 17, 17, (1, 1)),
    (1, 64, 128, 1, (1, 1), (1, 1), (0, 0), 6, 22, (1, 1)),
    (3, 5, 7, 1, (3, 3), (1, 1), (2, 0), 9, 11, (2, 1)),
    (1, 1, 1, 1, (1, 1), (1, 1), (0, 0), 1, 1, (1, 1)),
    (1, 17, 33, 1, (5, 2), (3, 1), (0, 3), 13, 71, (2, 3)),
    (2, 6, 12, 6, (7, 3), (2, 3), (3, 1), 16, 30, (3, 1)),
    (1, 64, 32, 1, (3, 3), (1, 1), (1, 1), 100, 90, (3, 2)),  # rows for more than one band
]
FILLS = ["random", "largest", "smallest"]


def inputs(case, fill="random"):
    n, i, o, groups, kernel, stride, padding, height, width, pool = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, i, height, width), dtype=torch.uint8, generator=generator)
    weight = torch.randint(-128, 128, (o, i // groups, *kernel), dtype=torch.int8, generator=generator)
    if fill != "random":
        x.fill_(255)
        weight.fill_(127 if fill == "largest" else -128)
    depth = weight[0].numel()
    # Of random products the spread is some 70 * 150 * sqrt(depth): a third of the levels is cut off at either end.
    scale = torch.rand(o, generator=generator).add_(0.5).mul_(250 / (10_000 * depth**0.5))
    bias = torch.randint(-(10**5), 10**5, (o,), dtype=torch.int32, generator=generator)
    table = torch.randperm(256, generator=generator).to(torch.uint8)
    options = {"stride": stride, "padding": padding, "groups": groups, "input_zero_point": 7, "output_zero_point": 119}
    return x, weight, scale, bias, table, options, pool


def check(case, fill):
    x, weight, scale, bias, table, options, pool = inputs(case, fill)
    packed = quantized_conv2d_pack(weight, options["groups"])
    for extra in ({"pool": pool}, {"pool": pool, "table": table}, {"float_output": True}):
        expected = reference(x, weight, scale, bias, **options, **extra)
        for layout in (torch.contiguous_format, torch.channels_last):
            source = x.contiguous(memory_format=layout)
            y = quantized_conv2d(source, packed, scale, bias, kernel_size=case[4], **options, **extra)
            assert y.dtype == expected.dtype and y.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(y, expected), (case, fill, list(extra), (y != expected).sum())


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference_bit_for_bit(case, fill):
    check(case, fill)


def test_inputs_reach_both_ends_of_the_levels():
    for case in CASES[:2]:
        x, weight, scale, bias, _, options, _ = inputs(case)
        share = torch.bincount(reference(x, weight, scale, bias, **options).flatten().int(), minlength=256) / 1.0
        share = share / share.sum()
        assert 0.01 < share[0] < 0.5 and 0.01 < share[255] < 0.5 and share[1:255].gt(0).float().mean() > 0.9


def test_reference_is_a_convolution():
    """Against float64, where all of these sums are exact."""
    for case in CASES:
        x, weight, scale, bias, _, options, _ = inputs(case)
        rows, columns = options["padding"]
        padded = torch.nn.functional.pad(x.double(), (columns, columns, rows, rows), value=7)
        sums = torch.nn.functional.conv2d(padded, weight.double(), None, options["stride"], 0, 1, options["groups"])
        y = reference(x, weight, torch.ones_like(scale), bias, **options, float_output=True)
        assert torch.equal(y.double(), sums + bias[:, None, None])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set_gives_the_same_bits(capability):
    """In a process of its own: the instruction set is chosen once. Where the CPU lacks it the next lower one runs."""
    code = (
        "import fastops, tests.ops.test_quantized_conv as t\n"
        "for case in t.CASES:\n"
        "    for fill in t.FILLS: t.check(case, fill)\n"
        "print(fastops.build_info()['int8_capability'])"
    )
    environment = {**os.environ, "FASTOPS_CPU_CAPABILITY": capability}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    used = run.stdout.strip()
    assert CAPABILITIES.index(used) <= CAPABILITIES.index(capability)
    best = fastops.build_info()["int8_capability"]
    if capability == best or "_" not in capability:
        assert used == capability or CAPABILITIES.index(best) < CAPABILITIES.index(capability)


def test_result_does_not_depend_on_threads():
    x, weight, scale, bias, table, options, pool = inputs(CASES[1])
    packed = quantized_conv2d_pack(weight, 2)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                quantized_conv2d(x, packed, scale, bias, kernel_size=(5, 5), pool=pool, table=table, **options)
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)


def test_empty_batch():
    x, weight, scale, bias, _, options, pool = inputs(CASES[0])
    packed = quantized_conv2d_pack(weight)
    y = quantized_conv2d(x[:0], packed, scale, bias, kernel_size=(11, 11), pool=pool, **options)
    assert y.shape == (0, 96, 9, 18)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(1, 8, 9, 9)}, "x must have dtype uint8, got float32"),
        ({"x": torch.ones(8, 9, 9, dtype=torch.uint8)}, r"x must be 4-D, got \[8, 9, 9\]"),
        (
            {"x": torch.ones(1, 8, 2, 9, dtype=torch.uint8)},
            r"x must be at least 3 x 3 with its padding, got \[1, 8, 2, 9",
        ),
        ({"packed": torch.ones(5, dtype=torch.int8)}, "packed must come from quantized_conv2d_pack for these .* got 5"),
        ({"packed": torch.ones(5)}, "packed must have dtype int8, got float32"),
        ({"scale": torch.ones(16).double()}, "scale must have dtype float32, got float64"),
        ({"bias": torch.ones(16)}, "bias must have dtype int32, got float32"),
        ({"bias": torch.ones(3, dtype=torch.int32)}, r"bias must have the shape of scale \[16\], got \[3\]"),
        ({"groups": 3}, r"groups must divide the channels \(8 and 16\), got 3"),
        ({"table": torch.ones(255, dtype=torch.uint8)}, r"table must have shape \[256\], got \[255\]"),
        ({"table": torch.ones(256)}, "table must have dtype uint8, got float32"),
        ({"stride": (0, 1)}, "stride must be two numbers of at least 1"),
        ({"padding": (0, -1)}, "padding must be two numbers of at least 0"),
        ({"input_zero_point": 256}, "input_zero_point must be from 0 to 255, got 256"),
        ({"output_zero_point": -1}, "output_zero_point must be from 0 to 255, got -1"),
        ({"pool": (8, 1)}, r"pool must fit into the convolution's result \[7, 7\], got 8"),
        ({"pool": (2, 2), "float_output": True}, "float_output must go without table and pool"),
    ],
)
def test_errors(change, message):
    arguments = {
        "x": torch.ones(1, 8, 9, 9, dtype=torch.uint8),
        "packed": quantized_conv2d_pack(torch.ones(16, 8, 3, 3, dtype=torch.int8)),
        "scale": torch.ones(16),
        "bias": torch.zeros(16, dtype=torch.int32),
        "kernel_size": (3, 3),
    } | change
    with pytest.raises(RuntimeError, match="quantized_conv2d: " + message):
        quantized_conv2d(**arguments)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        with pytest.raises(RuntimeError, match="quantized_conv2d: " + message):
            quantized_conv2d(**fake)


@pytest.mark.parametrize(
    ("weight", "groups", "message"),
    [
        (torch.ones(4, 4, 3, 3), 1, "weight must have dtype int8, got float32"),
        (torch.ones(4, 4, 3, dtype=torch.int8), 1, r"weight must be 4-D, got \[4, 4, 3\]"),
        (torch.ones(4, 4, 3, 3, dtype=torch.int8), 3, r"groups must divide the output channels \(4\), got 3"),
        (
            torch.ones(1, 2**15 + 1, 1, 1, dtype=torch.int8),
            1,
            "weight must have at most 32768 values per output channel",
        ),
        (torch.ones(0, 4, 3, 3, dtype=torch.int8), 1, r"weight must not be empty, got \[0, 4, 3, 3\]"),
    ],
)
def test_pack_errors(weight, groups, message):
    with pytest.raises(RuntimeError, match="quantized_conv2d_pack: " + message):
        quantized_conv2d_pack(weight, groups)
    with torch._subclasses.fake_tensor.FakeTensorMode() as mode:
        with pytest.raises(RuntimeError, match="quantized_conv2d_pack: " + message):
            quantized_conv2d_pack(mode.from_tensor(weight), groups)


def test_opcheck():
    x, weight, scale, bias, table, options, pool = inputs(CASES[6])
    packed = quantized_conv2d_pack(weight)
    torch.library.opcheck(torch.ops.fastops.quantized_conv2d_pack.default, (weight, 1))
    arguments = (x, packed, scale, bias, table, [3, 3], [1, 1], [2, 0], 1, 7, 119, list(pool), False)
    torch.library.opcheck(torch.ops.fastops.quantized_conv2d.default, arguments)
