"""8-bit integer convolution for inference on the CPU: packed weights, fused rescaling, activation and pooling."""

from __future__ import annotations

import torch
from torch import Tensor

from fastops.ops._checks import check, dtype_name

_pack = torch.ops.fastops.quantized_conv2d_pack.default
_conv2d = torch.ops.fastops.quantized_conv2d.default

#: The most values that one output may sum over, so that 32 bits never overflow.
MAX_DEPTH = 2**15


def quantized_conv2d_pack(weight: Tensor, groups: int = 1) -> Tensor:
    """Lay out int8 weights for `quantized_conv2d`.

    Args:
        weight: int8 `[O, I / groups, kernel height, kernel width]`, at most 32,768 values per output channel.
        groups: groups of the convolution.

    Returns:
        The packed weights, int8, 1-D; zeros fill incomplete blocks. Do not store them: their layout may change with
        each version.

    Raises:
        RuntimeError: `quantized_conv2d_pack: <argument> must ...` for other dtypes and sizes.

    Example:
        >>> import torch
        >>> from fastops.ops.quantized_conv import quantized_conv2d_pack
        >>> quantized_conv2d_pack(torch.ones(32, 16, 3, 3, dtype=torch.int8)).dtype
        torch.int8
    """
    return _pack(weight, groups)


def quantized_conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    input_zero_point: int = 0,
    output_zero_point: int = 0,
    table: Tensor | None = None,
    pool: tuple[int, int] = (1, 1),
    float_output: bool = False,
) -> Tensor:
    r"""Convolve uint8 activations with int8 weights, exactly, and rescale the sums to uint8 or float32.

    $$v = s_o \Big(b_o + \sum_k w_{ok} x_k\Big), \qquad
    y = \max_\text{window} T\big[\operatorname{clamp}(\operatorname{round}(v) + z, 0, 255)\big]$$

    The sums are 32-bit integers. $v$ is rounded to float32 twice: after the conversion of the sum and after the
    product. Halves round to even. So the result has the same bits on every CPU and for any number of threads. The op is
    fast if the CPU multiplies 8-bit integers (AVX-VNNI, AVX512-VNNI or AMX); then
    `fastops.build_info()["int8_is_fast"]` is True.

    Args:
        x: uint8 `[N, I, H, W]`, on the CPU; channels_last runs without a copy.
        packed: weights from `quantized_conv2d_pack` with the same `groups`.
        scale: $s$, float32 `[O]`, finite: the value of one unit of the sum.
        bias: $b$, int32 `[O]`, at most $2^{30}$ in magnitude. If a level $z_x$ other than 0 stands for zero in `x`, the
            bias includes $-z_x \sum_k w_{ok}$.
        kernel_size, stride, padding, groups: those of the convolution.
        input_zero_point: $z_x$, the value of the padding.
        output_zero_point: $z$, the level that stands for zero before the table.
        table: uint8 `[256]`, the output for each level, such as an activation. None keeps the levels.
        pool: size and stride of the max pool that follows, square and without padding; (1, 1) means no pool.
        float_output: return $v$ as float32, without table and pool.

    Returns:
        uint8 or float32 `[N, O, H', W']`, channels_last.

    Raises:
        RuntimeError: `quantized_conv2d: <argument> must ...` for other shapes, dtypes and settings.

    The op has no gradient. `fastops.nn.QuantizedConv2d` chooses the scales, packs the weights and calls it.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018.

    Example:
        >>> import torch
        >>> from fastops.ops.quantized_conv import quantized_conv2d, quantized_conv2d_pack
        >>> packed = quantized_conv2d_pack(torch.ones(4, 3, 3, 3, dtype=torch.int8))
        >>> x = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
        >>> scale, bias = torch.full((4,), 0.01), torch.zeros(4, dtype=torch.int32)
        >>> quantized_conv2d(x, packed, scale, bias, kernel_size=(3, 3))[0, 0, 0]  # 27 * 200 * 0.01
        tensor([54, 54, 54, 54, 54, 54], dtype=torch.uint8)
    """
    return _conv2d(
        x, packed, scale, bias, table, kernel_size, stride, padding, groups, input_zero_point, output_zero_point, pool,
        float_output,
    )  # fmt: skip


def _check_tensor(op: str, name: str, t: Tensor, dtype: torch.dtype, dims: int) -> None:
    check(t.dtype == dtype, f"{op}: {name} must have dtype {dtype_name(dtype)}, got {dtype_name(t.dtype)}")
    check(t.dim() == dims, f"{op}: {name} must be {dims}-D, got {list(t.shape)}")


def _packed_size(out: int, groups: int, channels: int, height: int, width: int) -> int:
    return groups * -(-(out // groups) // 32) * height * -(-width * channels // 64) * 64 * 32


@torch.library.register_fake("fastops::quantized_conv2d_pack")
def _(weight, groups):
    op = "quantized_conv2d_pack"
    _check_tensor(op, "weight", weight, torch.int8, 4)
    out, channels, height, width = weight.shape
    check(weight.numel() > 0, f"{op}: weight must not be empty, got {list(weight.shape)}")
    check(groups >= 1 and out % groups == 0, f"{op}: groups must divide the output channels ({out}), got {groups}")
    most = f"{op}: weight must have at most {MAX_DEPTH} values per output channel, got {list(weight.shape)}"
    check(channels * height * width <= MAX_DEPTH, most)
    return weight.new_empty(_packed_size(out, groups, channels, height, width))


@torch.library.register_fake("fastops::quantized_conv2d")
def _(x, packed, scale, bias, table, kernel_size, stride, padding, groups, input_zero_point, output_zero_point, pool,
      float_output):  # fmt: skip
    op = "quantized_conv2d"
    for name, t, dtype, dims in (
        ("x", x, torch.uint8, 4),
        ("packed", packed, torch.int8, 1),
        ("scale", scale, torch.float32, 1),
        ("bias", bias, torch.int32, 1),
    ):
        _check_tensor(op, name, t, dtype, dims)
    for name, pair, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0),
                              ("pool", pool, 1)):  # fmt: skip
        check(len(pair) == 2 and min(pair) >= least, f"{op}: {name} must be two numbers of at least {least}")
    for name, level in (("input_zero_point", input_zero_point), ("output_zero_point", output_zero_point)):
        check(0 <= level <= 255, f"{op}: {name} must be from 0 to 255, got {level}")
    n, channels, height, width = x.shape
    out = scale.shape[0]
    check(bias.shape == scale.shape, f"{op}: bias must have the shape of scale [{out}], got {list(bias.shape)}")
    divides = groups >= 1 and channels % groups == 0 and out % groups == 0
    check(divides, f"{op}: groups must divide the channels ({channels} and {out}), got {groups}")
    size = _packed_size(out, groups, channels // groups, *kernel_size)
    wrong = f"{op}: packed must come from quantized_conv2d_pack for these sizes, got {packed.numel()} values"
    check(packed.numel() == size, wrong)
    height, width = height + 2 * padding[0] - kernel_size[0], width + 2 * padding[1] - kernel_size[1]
    least = f"{kernel_size[0]} x {kernel_size[1]}"
    small = f"{op}: x must be at least {least} with its padding, got {list(x.shape)}"
    check(height >= 0 and width >= 0, small)
    height, width = height // stride[0] + 1, width // stride[1] + 1
    fits = f"{op}: pool must fit into the convolution's result [{height}, {width}], got {pool[0]}"
    check(height >= pool[0] and width >= pool[0], fits)
    alone = not float_output or (table is None and tuple(pool) == (1, 1))
    check(alone, f"{op}: float_output must go without table and pool")
    if table is not None:
        _check_tensor(op, "table", table, torch.uint8, 1)
        check(table.shape == (256,), f"{op}: table must have shape [256], got {list(table.shape)}")
    shape = (n, out, (height - pool[0]) // pool[1] + 1, (width - pool[0]) // pool[1] + 1)
    dtype = torch.float32 if float_output else torch.uint8
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
