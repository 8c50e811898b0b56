"""The tracker's steps after its network in Triton. The formulas are those of csrc/math/response.h.

One program tracks one target. It upsamples a map along its rows into a buffer in device memory, and reads 4 rows of the
buffer for each output. Programs share nothing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from ._common import opmath, opmath_dtype

BLOCK = 2048  # outputs per step


@triton.jit
def _dot(m0, m1, m2, m3, phase, up, OPMATH: tl.constexpr):
    """An output of a cell from its four neighbours. Sums and differences keep it symmetric."""
    u = (2 * up - 2 * (phase + up // 2) - 1).to(OPMATH) / up
    q = (1 - u * u) * 0.125
    outer = -0.75 * q
    return (m1 + m2) * (0.5 - outer) + (m1 - m2) * (u * (0.5 + 1.25 * q)) + (m0 + m3) * outer + (m0 - m3) * (outer * u)


@triton.jit
def _place(cell, n):
    return tl.minimum(tl.maximum(cell, 0), n - 1)


@triton.jit
def _cell(output, up):
    return (output + up - up // 2) // up - 1


@triton.jit
def _along_rows(m, offset, rows, h, w, up, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """rows[i, x]: the map without `offset`, upsampled along its rows."""
    tl.debug_barrier()  # the previous contents of rows have been read
    width = w * up
    for start in range(0, h * width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < h * width
        x = at % width
        cell = _cell(x, up)
        row = m + at // width * w
        m0 = tl.load(row + _place(cell - 1, w), inside, 0).to(OPMATH) - offset
        m1 = tl.load(row + _place(cell, w), inside, 0).to(OPMATH) - offset
        m2 = tl.load(row + _place(cell + 1, w), inside, 0).to(OPMATH) - offset
        m3 = tl.load(row + _place(cell + 2, w), inside, 0).to(OPMATH) - offset
        tl.store(rows + at, _dot(m0, m1, m2, m3, x - cell * up - up // 2, up, OPMATH), inside)
    tl.debug_barrier()


@triton.jit
def _along_columns(rows, at, factor, h, width, up, OPMATH: tl.constexpr):
    """The outputs `at`, in row-major order, times `factor`."""
    y, x = at // width, at % width
    cell = _cell(y, up)
    inside = y < h * up
    m0 = tl.load(rows + _place(cell - 1, h) * width + x, inside, 0) * factor
    m1 = tl.load(rows + _place(cell, h) * width + x, inside, 0) * factor
    m2 = tl.load(rows + _place(cell + 1, h) * width + x, inside, 0) * factor
    m3 = tl.load(rows + _place(cell + 2, h) * width + x, inside, 0) * factor
    return _dot(m0, m1, m2, m3, y - cell * up - up // 2, up, OPMATH)


@triton.jit
def _hann_over_mean(i, n, OPMATH: tl.constexpr):
    c = tl.cos(((2 * i - (n - 1)).to(OPMATH) / tl.maximum(2 * (n - 1), 1)) * 3.141592653589793)
    window = c * c * ((2 * n) / tl.maximum(n - 1, 1).to(OPMATH))
    return tl.where(n > 2, window, tl.where(n == 1, 1.0, 0.0)).to(OPMATH)


@triton.jit
def _extremes(m, size, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """The maximum and the minimum of a map. The maximum is infinite if a value is NaN."""
    most = tl.full([BLOCK], float("-inf"), OPMATH)
    least = tl.full([BLOCK], float("inf"), OPMATH)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.load(m + at, at < size, 0).to(OPMATH)
        most = tl.where((at < size) & ((v > most) | (v != v)), tl.where(v == v, v, float("inf")), most)
        least = tl.where((at < size) & (v < least), v, least)
    return tl.max(most, 0), tl.min(least, 0)


@triton.jit
def _contrast(m, offset, size, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], OPMATH)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.where(at < size, tl.load(m + at, at < size, 0).to(OPMATH) - offset, 0)
    return 0 - tl.sum(total, 0).to(tl.float64) / size


@triton.jit
def _output_extremes(rows, h, width, up, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """The maximum, the minimum and the sum of the outputs."""
    count = h * up * width
    most = tl.full([BLOCK], float("-inf"), OPMATH)
    least = tl.full([BLOCK], float("inf"), OPMATH)
    total = tl.zeros([BLOCK], OPMATH)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = _along_columns(rows, at, 1.0, h, width, up, OPMATH)
        most = tl.where((at < count) & (v > most), v, most)
        least = tl.where((at < count) & (v < least), v, least)
        total += tl.where(at < count, v, 0)
    return tl.max(most, 0), tl.min(least, 0), tl.sum(total.to(tl.float64), 0)


@triton.jit
def _peak(rows, factor, influence, h, width, up, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """The position of the first maximum of the outputs, which are multiplied by `factor` and get the window."""
    height = h * up
    count = height * width
    best = tl.full([BLOCK], float("-inf"), OPMATH)
    place = tl.full([BLOCK], 0, tl.int32) + count
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        window = _hann_over_mean(at % width, width, OPMATH) * influence
        v = _along_columns(rows, at, factor, h, width, up, OPMATH)
        v += _hann_over_mean(at // width, height, OPMATH) * window
        more = (at < count) & (v > best)
        best = tl.where(more, v, best)
        place = tl.where(more, at, place)
    return tl.min(tl.where(best == tl.max(best, 0), place, count), 0)


@triton.jit
def _clamp(x, low, high):
    return tl.minimum(tl.maximum(x, low), high)


@triton.jit
def _write_box(state, result, score, lost):
    w, h = tl.load(state + 2), tl.load(state + 3)
    tl.store(result, tl.load(state).to(tl.float64) - (w.to(tl.float64) - 1) * 0.5)
    tl.store(result + 1, tl.load(state + 1).to(tl.float64) - (h.to(tl.float64) - 1) * 0.5)
    tl.store(result + 2, w)
    tl.store(result + 3, h)
    tl.store(result + 4, score)
    tl.store(result + 5, lost)


@triton.jit
def _update(
    state, result, factor, down, across, contrast, pixels: tl.float64, scale_lr: tl.float64, lost_score: tl.float64,
    lost_frames,
):  # fmt: skip
    search_size = tl.load(state + 4).to(tl.float64)
    step = pixels * search_size * factor
    cx = (tl.load(state).to(tl.float64) + across * step).to(tl.float32).to(tl.float64)
    cy = (tl.load(state + 1).to(tl.float64) + down * step).to(tl.float32).to(tl.float64)
    tl.store(state, _clamp(cx, 0.0, tl.load(state + 10).to(tl.float64) - 1))
    tl.store(state + 1, _clamp(cy, 0.0, tl.load(state + 11).to(tl.float64) - 1))
    w, h = tl.load(state + 2).to(tl.float64), tl.load(state + 3).to(tl.float64)
    least = tl.load(state + 7).to(tl.float64) / tl.minimum(w, h)
    most = tl.minimum(tl.load(state + 8).to(tl.float64) / w, tl.load(state + 9).to(tl.float64) / h)
    growth = _clamp((1 - scale_lr) + scale_lr * factor, least, most)
    tl.store(state + 2, w * growth)
    tl.store(state + 3, h * growth)
    tl.store(state + 4, search_size * growth)
    score = _clamp(contrast / tl.maximum(tl.load(state + 5).to(tl.float64), 1e-12), 0.0, 1.0)
    misses = tl.where(score < lost_score, tl.load(state + 6) + 1, 0.0)
    tl.store(state + 6, misses)
    tl.debug_barrier()  # the box is read again below
    _write_box(state, result, score, tl.where(misses >= lost_frames, 1.0, 0.0))


@triton.jit(do_not_specialize=["h", "w", "up", "lost_frames"])  # specialised, a side of 1 would not be a tensor
def _response_peak_kernel(
    maps, state, results, scratch, h, w, up,
    pixels: tl.float64, log_step: tl.float64, penalty: tl.float64, scale_lr: tl.float64, influence: tl.float64,
    lost_score: tl.float64, lost_frames, SCALES: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    target = tl.program_id(0).to(tl.int64)
    size, width, height = h * w, w * up, h * up
    maps += target * SCALES * size
    rows = scratch + target * h * width
    state += target * 12
    result = results + target * 6
    middle: tl.constexpr = SCALES // 2
    first = tl.load(state + 5) < 0
    penalty = tl.full([], penalty, tl.float64)
    log_step = tl.full([], log_step, tl.float64)

    fits = tl.full([], 1, tl.int1)
    best = tl.full([], 0, tl.int32)
    best_peak = tl.full([], float("-inf"), tl.float64)
    least = tl.full([], 0, OPMATH)
    total = tl.full([], 0, tl.float64)
    for s in range(SCALES):
        most, lowest = _extremes(maps + s * size, size, OPMATH, BLOCK)
        fits = fits & (4 * (most - lowest) < float("inf"))
        if not first:
            _along_rows(maps + s * size, most, rows, h, w, up, OPMATH, BLOCK)
            highest, deepest, outputs = _output_extremes(rows, h, width, up, OPMATH, BLOCK)
            peak = (most.to(tl.float64) + highest.to(tl.float64)) * tl.where(s == middle, 1.0, penalty)
            better = peak > best_peak
            best = tl.where(better, s, best)
            best_peak = tl.where(better, peak, best_peak)
            least = tl.where(better, deepest, least)
            total = tl.where(better, outputs, total)

    if not fits:
        for i in tl.static_range(5):
            tl.store(result + i, float("nan"))
        tl.store(result + 5, 1.0)
    elif first:
        m = maps + middle * size
        most, _ = _extremes(m, size, OPMATH, BLOCK)
        tl.store(state + 5, _contrast(m, most, size, OPMATH, BLOCK))
        _write_box(state, result, 1.0, 0.0)
    else:
        m = maps + best * size
        most, _ = _extremes(m, size, OPMATH, BLOCK)
        contrast = _contrast(m, most, size, OPMATH, BLOCK)
        _along_rows(m, most, rows, h, w, up, OPMATH, BLOCK)
        own_penalty = tl.where(best == middle, 1.0, penalty)
        count = height.to(tl.float64) * width.to(tl.float64)
        above = tl.maximum(total - count * least.to(tl.float64), 0.0)
        factor = (1 - influence) * own_penalty * count / (own_penalty * above + 1e-16)
        place = _peak(rows, factor.to(OPMATH), tl.full([], influence, OPMATH), h, width, up, OPMATH, BLOCK)
        down = (place // width).to(tl.float64) - (height - 1) * 0.5
        across = (place % width).to(tl.float64) - (width - 1) * 0.5
        scale = tl.exp((best - middle).to(tl.float64) * log_step)
        _update(state, result, scale, down, across, contrast, pixels, scale_lr, lost_score, lost_frames)


def response_peak_(
    responses: torch.Tensor, state: torch.Tensor, up: int, stride: int, instance_size: int, scale_step: float,
    scale_penalty: float, scale_lr: float, window_influence: float, lost_score: float, lost_frames: int,
) -> torch.Tensor:  # fmt: skip
    targets = len(state)
    results = state.new_empty((targets, 6))
    if targets == 0:
        return results
    h, w = responses.shape[2:]
    scratch = responses.new_empty((targets, h, w * up), dtype=opmath_dtype(responses))
    with torch.cuda.device_of(responses):
        _response_peak_kernel[(targets,)](
            responses.contiguous(), state, results, scratch, h, w, up, stride / up / instance_size,
            math.log(scale_step), scale_penalty, scale_lr, window_influence, lost_score, lost_frames,
            SCALES=responses.shape[0] * responses.shape[1] // targets, OPMATH=opmath(responses), BLOCK=BLOCK,
            num_warps=8,
        )  # fmt: skip
    return results


OPS = {"response_peak_": response_peak_}
