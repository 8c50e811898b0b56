"""Balanced logistic loss in Triton. Formulas and labels are those of csrc/math/logistic_loss.h.

Each program takes a part of one map. It counts the map's positives, which are consecutive in each row, to get the
weights of both labels. The distance of a cell from the centre decides its label. The losses of the parts are added in a
fixed order, so the result is deterministic.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from ._common import opmath, opmath_dtype

BLOCK = 1024  # cells per step, and rows per step of the count
PART = 8 * BLOCK  # the most cells of a map per program


@triton.jit
def _exp_minus_abs(s):
    return tl.exp(tl.where(s < 0, s, -s))  # NaN stays NaN


@triton.jit
def _softplus(s, OPMATH: tl.constexpr):
    """max(s, 0) + ln(1 + e) with e = e^-|s|."""
    e = _exp_minus_abs(s)
    if OPMATH == tl.float64:
        u = 1 + e  # for the rounded u, ln(1 + e) = ln(u) e / (u - 1) up to rounding
        tail = tl.where(u == 1, e, tl.log(u) * (e / tl.where(u == 1, 1, u - 1)))
    else:
        x = e / (2 + e)  # 2 atanh(x); the polynomial is that of math/logistic_loss.h
        z = x * x
        q = ((0.134337738 * z + 0.141169786) * z + 0.200038359) * z + 0.333333194
        tail = 2 * x + 2 * x * (z * q)
    return tl.where(s > 0, s, 0) + tail


@triton.jit
def _slope(s):
    e = _exp_minus_abs(s)
    return tl.where(s < 0, e, 1) / (1 + e)


@triton.jit
def _labels(
    centers, map, middle_row, middle_column, limit, height, width, size, OPMATH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The map's centre, the squared radius of its positives, and the weights of positives and negatives."""
    row, column = tl.full([], middle_row, tl.float64), tl.full([], middle_column, tl.float64)
    if centers is not None:
        row = tl.load(centers + 2 * map).to(tl.float64)
        column = tl.load(centers + 2 * map + 1).to(tl.float64)
    limit = tl.full([], limit, tl.float64)
    count = tl.zeros([BLOCK], tl.float64)
    for start in range(0, height, BLOCK):
        r = start + tl.arange(0, BLOCK)
        down = r.to(tl.float64) - row
        left = limit - down * down
        inside = (left >= 0) & (r < height)
        reach = tl.sqrt(tl.where(inside, left, 0))
        first, last = tl.ceil(column - reach), tl.floor(column + reach)
        first, last = tl.where(first > 0, first, 0), tl.where(last < width, last, width - 1)
        count += tl.where(inside & (first <= last), last - first + 1, 0)
    positives = tl.sum(count, 0)
    negatives = size - positives
    positive = tl.where(positives > 0, 0.5 / tl.where(positives > 0, positives, 1), 0)
    negative = tl.where(negatives > 0, 0.5 / tl.where(negatives > 0, negatives, 1), 0)
    return row, column, limit, positive.to(OPMATH), negative.to(OPMATH)


@triton.jit
def _is_positive(place, row, column, limit, width):
    down = (place // width).to(tl.float64) - row
    across = (place % width).to(tl.float64) - column
    return down * down + across * across <= limit


@triton.jit
def _loss_kernel(
    responses, centers, losses,
    middle_row: tl.float64, middle_column: tl.float64, limit: tl.float64, height, width, size, parts,
    PART: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    map = pid // parts
    row, column, limit, positive, negative = _labels(
        centers, map, middle_row, middle_column, limit, height, width, size, OPMATH, BLOCK
    )
    total = tl.zeros([BLOCK], OPMATH)
    for step in range(0, PART, BLOCK):
        place = pid % parts * PART + step + tl.arange(0, BLOCK)
        v = tl.load(responses + map * size + place, place < size, 0).to(OPMATH)
        is_positive = _is_positive(place, row, column, limit, width)
        loss = tl.where(is_positive, positive, negative) * _softplus(tl.where(is_positive, -v, v), OPMATH)
        total += tl.where(place < size, loss, 0)
    tl.store(losses + pid, tl.sum(total, 0))


@triton.jit
def _loss_backward_kernel(
    grad, responses, centers, grad_responses, divisor: tl.float64, grad_stride,
    middle_row: tl.float64, middle_column: tl.float64, limit: tl.float64, height, width, size, parts,
    PART: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    map = pid // parts
    row, column, limit, positive, negative = _labels(
        centers, map, middle_row, middle_column, limit, height, width, size, OPMATH, BLOCK
    )
    g = tl.load(grad + map * grad_stride).to(OPMATH) / tl.full([], divisor, OPMATH)
    for step in range(0, PART, BLOCK):
        place = pid % parts * PART + step + tl.arange(0, BLOCK)
        v = tl.load(responses + map * size + place, place < size, 0).to(OPMATH)
        is_positive = _is_positive(place, row, column, limit, width)
        weight = tl.where(is_positive, -positive, negative)
        slope = g * weight * _slope(tl.where(is_positive, -v, v))
        tl.store(grad_responses + map * size + place, slope, place < size)


def _settings(responses: torch.Tensor, radius: float, stride: float) -> dict:
    """The arguments of both kernels that are not tensors."""
    height, width = responses.shape[-2:]
    size = height * width
    return {
        "middle_row": (height - 1) / 2,
        "middle_column": (width - 1) / 2,
        "limit": (radius / stride) ** 2,
        "height": height,
        "width": width,
        "size": size,
        "parts": triton.cdiv(size, PART),
        "PART": min(PART, triton.cdiv(size, BLOCK) * BLOCK),
        "OPMATH": opmath(responses),
        "BLOCK": BLOCK,
    }


def balanced_logistic_loss(
    responses: torch.Tensor, radius: float, stride: float, reduction: str, centers: torch.Tensor | None
) -> torch.Tensor:
    settings = _settings(responses, radius, stride)
    losses = responses.new_empty((*responses.shape[:-2], settings["parts"]), dtype=opmath_dtype(responses))
    if losses.numel():
        with torch.cuda.device_of(responses):
            _loss_kernel[(losses.numel(),)](
                responses.contiguous(), None if centers is None else centers.contiguous(), losses, **settings
            )
    if reduction == "none":
        losses = losses.sum(-1)
    else:
        losses = losses.sum()
        if reduction == "mean":
            losses = losses / math.prod(responses.shape[:-2])
    return losses.to(responses.dtype)


def balanced_logistic_loss_backward(
    grad: torch.Tensor,
    responses: torch.Tensor,
    radius: float,
    stride: float,
    reduction: str,
    centers: torch.Tensor | None,
) -> torch.Tensor:
    settings = _settings(responses, radius, stride)
    grad_responses = torch.empty_like(responses, memory_format=torch.contiguous_format)
    maps = math.prod(responses.shape[:-2])
    if maps:
        with torch.cuda.device_of(responses):
            _loss_backward_kernel[(maps * settings["parts"],)](
                grad.contiguous(), responses.contiguous(), None if centers is None else centers.contiguous(),
                grad_responses, float(maps if reduction == "mean" else 1), int(reduction == "none"), **settings,
            )  # fmt: skip
    return grad_responses


OPS = {
    "balanced_logistic_loss": balanced_logistic_loss,
    "balanced_logistic_loss_backward": balanced_logistic_loss_backward,
}
