"""Gradient centralization and the optimizer steps in Triton; the formulas are in csrc/math/centralize.h.

A table in device memory holds the addresses and sizes of the tensors. A list of any length takes one copy to the device
and at most three launches, one for each width of tile.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import laid_out_like, opmath

# A table has SCALARS float64 numbers, then an ENTRY for each tensor. An entry has the addresses of gradient, parameter,
# three states and step count, then values, length, runs, channels of a group, channels, whether centralized, and first
# program.
SCALARS = tl.constexpr(8)
ENTRY = tl.constexpr(13)
TILE = 2048  # values of a program's tile; its width depends on the number of values of a channel
WIDTHS = (32, 256, 2048)

#: CPU copies of the tables of captured graphs. Every replay copies them to the device again.
_captured: list[Tensor] = []


@triton.jit
def _scalar(table, i: tl.constexpr, OPMATH: tl.constexpr):
    return tl.load(table + i).to(tl.float64, bitcast=True).to(OPMATH)


@triton.jit
def _array(entry, k: tl.constexpr, DTYPE: tl.constexpr):
    return tl.load(entry + k).to(tl.pointer_type(DTYPE))


@triton.jit
def _input(grad, param, at, inside, scale, weight_decay, DECAY: tl.constexpr, OPMATH: tl.constexpr):
    x = scale * tl.load(grad + at, inside, 0).to(OPMATH)
    if DECAY:
        x += weight_decay * tl.load(param + at, inside, 0).to(OPMATH)
    return x


@triton.jit
def _positions(start, base, wanted, values, length, stride, numel, BLOCK: tl.constexpr):
    """Offsets of the values start ... start + BLOCK - 1 of a tile's channels, and a mask of those that exist."""
    j = start + tl.arange(0, BLOCK)
    at = base[:, None] + (j // length * stride + j % length)[None, :]
    return at, wanted[:, None] & (j < values)[None, :] & (at < numel)


@triton.jit
def _step_kernel(
    table, count, lr_tensor, grad_scale, found_inf,
    RULE: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DECAY: tl.constexpr, AMSGRAD: tl.constexpr,
    DTYPE: tl.constexpr, OPMATH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    low = tl.full((), 0, tl.int32)  # the last tensor whose first program is not after this one
    high = low + count
    while high - low > 1:
        middle = (low + high) // 2
        after = tl.load(table + SCALARS + middle * ENTRY + 12) > pid
        low = tl.where(after, low, middle)
        high = tl.where(after, middle, high)
    entry = table + SCALARS + low * ENTRY
    numel, length, runs = tl.load(entry + 6), tl.load(entry + 7), tl.load(entry + 8)
    in_group, channels, centralized = tl.load(entry + 9), tl.load(entry + 10), tl.load(entry + 11)
    values, stride = runs * length, in_group * length
    channel = (pid - tl.load(entry + 12)) * CHANNELS + tl.arange(0, CHANNELS)
    base = channel // in_group * runs * stride + channel % in_group * length
    if found_inf is not None:
        channels = tl.where(tl.load(found_inf) == 0, channels, 0)
    wanted = channel < channels

    grad, param = _array(entry, 0, DTYPE), _array(entry, 1, DTYPE)
    scale, weight_decay = _scalar(table, 0, OPMATH), _scalar(table, 1, OPMATH)
    if grad_scale is not None:
        scale /= tl.load(grad_scale).to(OPMATH)
    if lr_tensor is None:
        lr = tl.load(table + 2).to(tl.float64, bitcast=True)
    else:
        lr = tl.load(lr_tensor).to(tl.float64)
    rate = lr.to(OPMATH)
    mean = tl.zeros([CHANNELS], OPMATH)
    if centralized != 0:
        total = tl.zeros([CHANNELS, BLOCK], OPMATH)
        for start in range(0, values, BLOCK):
            at, inside = _positions(start, base, wanted, values, length, stride, numel, BLOCK)
            total += _input(grad, param, at, inside, scale, weight_decay, DECAY, OPMATH)
        mean = tl.sum(total, 1) / values

    if RULE == "adamw":
        step = tl.load(_array(entry, 5, tl.float32)).to(tl.float64)
        step_size = (lr / (1 - tl.exp(step * _scalar(table, 6, tl.float64)))).to(OPMATH)
        root = (1 / tl.sqrt(1 - tl.exp(step * _scalar(table, 7, tl.float64)))).to(OPMATH)
        decay = (1 - lr * _scalar(table, 5, tl.float64)).to(OPMATH)
        eps = _scalar(table, 1, OPMATH)
    for start in range(0, values, BLOCK):
        at, inside = _positions(start, base, wanted, values, length, stride, numel, BLOCK)
        d = _input(grad, param, at, inside, scale, weight_decay, DECAY, OPMATH) - mean[:, None]
        if RULE == "centralize":
            tl.store(grad + at, d, inside)
        else:
            p = tl.load(param + at, inside, 0).to(OPMATH)
            first = _array(entry, 2, DTYPE)
            if RULE == "sgd":
                if MOMENTUM:
                    momentum = _scalar(table, 3, OPMATH)
                    b = momentum * tl.load(first + at, inside, 0).to(OPMATH) + _scalar(table, 4, OPMATH) * d
                    tl.store(first + at, b, inside)
                    if NESTEROV:
                        d += momentum * b
                    else:
                        d = b
                p -= rate * d
            else:
                second = _array(entry, 3, DTYPE)
                m = tl.load(first + at, inside, 0).to(OPMATH)
                m += _scalar(table, 3, OPMATH) * (d - m)
                rate2 = _scalar(table, 4, tl.float64)
                v = (1 - rate2).to(OPMATH) * tl.load(second + at, inside, 0).to(OPMATH) + rate2.to(OPMATH) * d * d
                tl.store(first + at, m, inside)
                tl.store(second + at, v, inside)
                if AMSGRAD:
                    largest = _array(entry, 4, DTYPE)
                    before = tl.load(largest + at, inside, 0).to(OPMATH)
                    v = tl.where(v <= before, before, v)  # NaN stays NaN
                    tl.store(largest + at, v, inside)
                p = decay * p - step_size * m / (tl.sqrt(v) * root + eps)
            tl.store(param + at, p, inside)


def _dense(t: Tensor) -> Tensor:
    return t if t.stride() == torch.empty_like(t, device="meta").stride() else t.contiguous()


def _layout(t: Tensor, channels: int) -> tuple[int, int, int, int, bool] | None:
    """Length, runs, channels of a group, channels, whether centralized; None if `t` must be made contiguous first."""
    numel = t.numel()
    if channels < 0:  # not centralized: pieces take the place of channels
        return TILE, 1, triton.cdiv(numel, TILE), triton.cdiv(numel, TILE), False
    groups, dim = max(channels, 1), 1 if channels else 0
    if groups > 1 and t.stride(0) * t.shape[0] != numel:
        return None
    count = t.shape[dim]
    length = numel // groups if count == 1 else t.stride(dim)
    return length, numel // (groups * count * length), count, groups * count, True


def _launch(rule: str, lists: Sequence[Sequence[Tensor]], steps, channels, scalars, lr, grad_scale, found_inf, **flags):
    """`lists`: the gradients, then (except for centralize_) the parameters and their states."""
    main = lists[min(1, len(lists) - 1)]
    entries: dict[int, list[list[int]]] = {width: [] for width in WIDTHS}
    programs = dict.fromkeys(WIDTHS, 0)
    copies = []
    for i, t in enumerate(main):
        if t.numel() == 0:
            continue
        like = _dense(t)
        layout = _layout(like, channels[i])
        if layout is None:
            like = like.contiguous()
            layout = _layout(like, channels[i])
        arrays = [like if tensors is main else laid_out_like(tensors[i], like) for tensors in lists]
        for k, (tensors, array) in enumerate(zip(lists, arrays, strict=True)):
            if array is not tensors[i]:
                copies.append((tensors[i], array, k > 0 or len(lists) == 1))
        length, runs, _, count, _ = layout
        width = next(w for w in WIDTHS if w >= length * runs or w == WIDTHS[-1])
        addresses = [a.data_ptr() for a in arrays] + [0] * (5 - len(arrays)) + [steps[i].data_ptr() if steps else 0]
        entries[width].append([*addresses, like.numel(), *map(int, layout), programs[width]])
        programs[width] += triton.cdiv(count, TILE // width)
    if not any(programs.values()):
        return
    device = main[0].device
    bits = [struct.unpack("<q", struct.pack("<d", x))[0] for x in scalars] + [0] * (SCALARS.value - len(scalars))
    flat, offsets = [], {}
    for width in WIDTHS:
        offsets[width] = len(flat)
        flat += bits
        for entry in entries[width]:
            flat += entry
    host = torch.tensor(flat, dtype=torch.int64, pin_memory=device.type == "cuda")
    table = host.to(device, non_blocking=True)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append(host)
    with torch.cuda.device_of(main[0]):
        for width in WIDTHS:
            if programs[width]:
                _step_kernel[(programs[width],)](
                    table[offsets[width] :], len(entries[width]), lr, grad_scale, found_inf, RULE=rule, **flags,
                    DTYPE=_DTYPES[main[0].dtype], OPMATH=opmath(main[0]), CHANNELS=TILE // width, BLOCK=width,
                )  # fmt: skip
    for t, array, written in copies:
        if written:
            t.copy_(array)


_DTYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}
_FLAGS = {"MOMENTUM": False, "NESTEROV": False, "DECAY": False, "AMSGRAD": False}


def centralize_(tensors: Sequence[Tensor], channels: Sequence[int]) -> None:
    if tensors:
        _launch("centralize", [tensors], None, channels, [1.0], None, None, None, **_FLAGS)


def sgd_gc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    channels: Sequence[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    if not params:
        return
    lists = [grads, params, *([momentum_buffers] if momentum else [])]
    scalars = [-1.0 if maximize else 1.0, weight_decay, lr, momentum, 1 - dampening]
    flags = _FLAGS | {"MOMENTUM": momentum != 0, "NESTEROV": nesterov, "DECAY": weight_decay != 0}
    _launch("sgd", lists, None, channels, scalars, lr_tensor, grad_scale, found_inf, **flags)


def adamw_gc_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    channels: Sequence[int],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    lr_tensor: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    if not params:
        return
    torch._foreach_add_(list(steps), 1.0 if found_inf is None else (found_inf == 0).float().reshape(()))
    lists = [grads, params, exp_avgs, exp_avg_sqs, *([max_exp_avg_sqs] if max_exp_avg_sqs else [])]
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    scalars = [-1.0 if maximize else 1.0, eps, lr, 1 - beta1, 1 - beta2, weight_decay, *logs]
    flags = _FLAGS | {"AMSGRAD": bool(max_exp_avg_sqs)}
    _launch("adamw", lists, steps, channels, scalars, lr_tensor, grad_scale, found_inf, **flags)


OPS = {"centralize_": centralize_, "sgd_gc_step_": sgd_gc_step_, "adamw_gc_step_": adamw_gc_step_}
