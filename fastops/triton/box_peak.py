"""The tracker's steps after a network with a box head in Triton. The formulas are those of csrc/math/box_peak.h.

One program tracks one target. It makes two passes over the cells. The first computes sums over all cells. The second
computes each cell's value, which depends on the target's state.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from ._common import opmath
from .response import _clamp, _write_box

BLOCK = 512  # cells per step


@triton.jit
def _round(v):
    """Round to whole numbers in float32, ties to even. All float32 numbers from 2^23 on are whole."""
    magnitude = tl.abs(v)
    rounded = (magnitude + 8388608.0) - 8388608.0
    return tl.where(magnitude < 8388608.0, tl.where(v < 0, -rounded, rounded), v)


@triton.jit
def _hann(i, n, OPMATH: tl.constexpr):
    c = tl.cos(((2 * i - (n - 1)).to(OPMATH) / tl.maximum(2 * (n - 1), 1)) * 3.141592653589793)
    return tl.where(n > 2, c * c, tl.where(n == 1, 1.0, 0.0)).to(OPMATH)


@triton.jit
def _context_side(w, h, context):
    margin = context * (w + h)
    return tl.sqrt((w + margin) * (h + margin))


@triton.jit
def _change(a, b):
    return tl.maximum(a / b, b / a)


@triton.jit
def _distance(at, inside, factor, OPMATH: tl.constexpr, LOGITS: tl.constexpr):
    x = tl.load(at, inside, 0).to(OPMATH)
    if LOGITS:
        # 1 + e loses the low digits of e; log(1 + e) e / ((1 + e) - 1) restores them.
        e = tl.exp(-tl.abs(x))
        one = 1 + e
        x = (tl.maximum(x, 0) + tl.where(one == 1, e, tl.log(one) * (e / tl.where(one == 1, 1, one - 1)))) * factor
    return x


@triton.jit
def _cell_side(before, after, pixels):
    return _clamp((before + after) * pixels, 1e-3, 1e6)


@triton.jit
def _moved(before, cell, rate, least, most):
    return _clamp(before + rate * (cell - before), least, most)


@triton.jit(do_not_specialize=["h", "w", "stride", "lost_frames"])  # specialised, a side of 1 would not be a tensor
def _box_peak_kernel(
    scores, ltrb, state, results, h, w, stride, score_target, score_cell, ltrb_target, ltrb_channel, ltrb_cell,
    factor: tl.float64, exemplar_size: tl.float64, instance_size: tl.float64, context: tl.float64, box_lr: tl.float64,
    box_penalty: tl.float64, box_window: tl.float64, lost_score: tl.float64, lost_frames,
    LOGITS: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    target = tl.program_id(0).to(tl.int64)
    cells = h * w
    scores += target * score_target
    left = ltrb + target * ltrb_target
    top, right, bottom = left + ltrb_channel, left + 2 * ltrb_channel, left + 3 * ltrb_channel
    state += target * 12
    result = results + target * 6
    factor = tl.full([], factor, OPMATH)

    most = tl.full([BLOCK], float("-inf"), OPMATH)
    total = tl.zeros([BLOCK], tl.float64)
    others = tl.zeros([BLOCK], OPMATH)  # NaN if something is not finite
    for start in range(0, cells, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < cells
        score = tl.load(scores + at * score_cell, inside, 0).to(OPMATH)
        most = tl.where(inside & (score > most), score, most)
        total += score.to(tl.float64)
        others += score - score
        for c in tl.static_range(4):
            d = _distance(left + c * ltrb_channel + at * ltrb_cell, inside, factor, OPMATH, LOGITS)
            others += d - d
    finite = tl.sum(others, 0) == 0
    contrast = tl.max(most, 0).to(tl.float64) - tl.sum(total, 0) / cells
    first = tl.load(state + 5) < 0

    if not finite:
        for i in tl.static_range(5):
            tl.store(result + i, float("nan"))
        tl.store(result + 5, 1.0)
    elif first:
        tl.store(state + 5, contrast)
        _write_box(state, result, 1.0, 0.0)
    else:
        cx, cy, own_w, own_h = tl.load(state), tl.load(state + 1), tl.load(state + 2), tl.load(state + 3)
        shown = tl.maximum(_round(tl.load(state + 4)), 1.0)
        pixels = shown.to(tl.float64) / instance_size
        share = tl.full([], box_window, OPMATH)
        margin = tl.full([], context, OPMATH)
        side = _context_side(own_w.to(OPMATH), own_h.to(OPMATH), margin)
        aspect = own_w.to(OPMATH) / own_h.to(OPMATH)

        best = tl.full([BLOCK], float("-inf"), OPMATH)
        best_trust = tl.zeros([BLOCK], OPMATH)
        place = tl.full([BLOCK], 0, tl.int32) + cells
        for start in range(0, cells, BLOCK):
            at = start + tl.arange(0, BLOCK)
            inside = at < cells
            score = tl.load(scores + at * score_cell, inside, 0).to(OPMATH)
            edge = at * ltrb_cell
            to_left = _distance(left + edge, inside, factor, OPMATH, LOGITS)
            to_top = _distance(top + edge, inside, factor, OPMATH, LOGITS)
            to_right = _distance(right + edge, inside, factor, OPMATH, LOGITS)
            to_bottom = _distance(bottom + edge, inside, factor, OPMATH, LOGITS)
            cell_w = _cell_side(to_left, to_right, pixels.to(OPMATH))
            cell_h = _cell_side(to_top, to_bottom, pixels.to(OPMATH))
            change = _change(_context_side(cell_w, cell_h, margin), side) * _change(cell_w / cell_h, aspect)
            trust = tl.exp(-tl.full([], box_penalty, OPMATH) * (change - 1)) * (1 / (1 + tl.exp(-score)))
            v = (1 - share) * trust + share * (_hann(at // w, h, OPMATH) * _hann(at % w, w, OPMATH))
            more = inside & (v > best)
            best = tl.where(more, v, best)
            best_trust = tl.where(more, trust, best_trust)
            place = tl.where(more, at, place)
        greatest = best == tl.max(best, 0)
        cell = tl.min(tl.where(greatest, place, cells), 0)
        trust = tl.sum(tl.where(greatest & (place == cell), best_trust, 0), 0).to(tl.float64)

        edge = cell * ltrb_cell
        to_left = _distance(left + edge, True, factor, OPMATH, LOGITS).to(tl.float64)
        to_top = _distance(top + edge, True, factor, OPMATH, LOGITS).to(tl.float64)
        to_right = _distance(right + edge, True, factor, OPMATH, LOGITS).to(tl.float64)
        to_bottom = _distance(bottom + edge, True, factor, OPMATH, LOGITS).to(tl.float64)
        across = stride * ((cell % w).to(tl.float64) - (w - 1) * 0.5) + (to_right - to_left) * 0.5
        down = stride * ((cell // w).to(tl.float64) - (h - 1) * 0.5) + (to_bottom - to_top) * 0.5
        half = (shown - 1) * 0.5
        x = (_round(cx - half).to(tl.float64) + half.to(tl.float64)) + across * pixels
        y = (_round(cy - half).to(tl.float64) + half.to(tl.float64)) + down * pixels
        rate, least = box_lr * trust, tl.load(state + 7).to(tl.float64)
        max_w, max_h = tl.load(state + 8).to(tl.float64), tl.load(state + 9).to(tl.float64)
        new_w = _moved(own_w.to(tl.float64), _cell_side(to_left, to_right, pixels), rate, least, max_w)
        new_h = _moved(own_h.to(tl.float64), _cell_side(to_top, to_bottom, pixels), rate, least, max_h)
        score = _clamp(contrast / tl.maximum(tl.load(state + 5).to(tl.float64), 1e-12), 0.0, 1.0)
        misses = tl.where(score < lost_score, tl.load(state + 6) + 1, 0.0)
        tl.store(state, _clamp(x, 0.0, tl.load(state + 10).to(tl.float64) - 1))
        tl.store(state + 1, _clamp(y, 0.0, tl.load(state + 11).to(tl.float64) - 1))
        tl.store(state + 2, new_w)
        tl.store(state + 3, new_h)
        whole = tl.full([], context, tl.float64)
        tl.store(state + 4, _context_side(new_w, new_h, whole) * (instance_size / exemplar_size))
        tl.store(state + 6, misses)
        tl.debug_barrier()  # the box is read again below
        _write_box(state, result, score, tl.where(misses >= lost_frames, 1.0, 0.0))


def _cells(maps: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The maps with a constant distance between cells in memory, and that distance."""
    h, w = maps.shape[2:]
    if h > 1 and w > 1 and maps.stride(2) != w * maps.stride(3):
        maps = maps.contiguous()
    return maps, maps.stride(3) if w > 1 else maps.stride(2)


def box_peak_(
    scores: torch.Tensor, ltrb: torch.Tensor, state: torch.Tensor, stride: int, unit: float | None, exemplar_size: int,
    instance_size: int, context: float, box_lr: float, box_penalty: float, box_window: float, lost_score: float,
    lost_frames: int,
) -> torch.Tensor:  # fmt: skip
    results = state.new_empty((len(state), 6))
    if len(state) == 0:
        return results
    (scores, score_cell), (ltrb, ltrb_cell) = _cells(scores), _cells(ltrb)
    h, w = scores.shape[2:]
    with torch.cuda.device_of(scores):
        _box_peak_kernel[(len(state),)](
            scores, ltrb, state, results, h, w, stride, scores.stride(0), score_cell, ltrb.stride(0), ltrb.stride(1),
            ltrb_cell, (unit or 0) / math.log(2), float(exemplar_size), float(instance_size), context, box_lr,
            box_penalty, box_window, lost_score, lost_frames,
            LOGITS=unit is not None, OPMATH=opmath(scores), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return results


OPS = {"box_peak_": box_peak_}
