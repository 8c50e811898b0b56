"""The tracker's steps after a network with a box head (Li et al. 2018, section 3.4; Tian et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import opmath

# Limits of the sides of a cell's box, in pixels of the image. The sides of an untrained network may be 0, or so large
# that their square overflows float32.
MIN_CELL_SIDE, MAX_CELL_SIDE = 1e-3, 1e6


def _context_side(w: Tensor, h: Tensor, context: float) -> Tensor:
    """The side of the square around a box and its context."""
    margin = context * (w + h)
    return ((w + margin) * (h + margin)).sqrt()


def _change(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a / b, b / a)


def _offsets(n: int, like: Tensor) -> Tensor:
    """Positions of n cells, relative to their middle."""
    return torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2


def _hann(n: int, like: Tensor) -> Tensor:
    return torch.hann_window(n, periodic=False, dtype=like.dtype, device=like.device)


def _box_peak_(
    scores: Tensor, ltrb: Tensor, state: Tensor, stride: int, unit: float | None, exemplar_size: int,
    instance_size: int, context: float, box_lr: float, box_penalty: float, box_window: float, lost_score: float,
    lost_frames: int,
) -> Tensor:  # fmt: skip
    scores, ltrb = opmath(scores.detach()), opmath(ltrb.detach())
    if unit is not None:
        ltrb = F.softplus(ltrb) * (unit / math.log(2))
    row = state.to(scores.dtype)
    cx, cy, w, h, search_size, own_contrast, misses, min_side, max_w, max_h, image_w, image_h = row.unbind(1)
    rows, columns = scores.shape[2:]
    y, x = stride * _offsets(rows, scores), stride * _offsets(columns, scores)
    left, top, right, bottom = ltrb.unbind(1)
    x1, y1, x2, y2 = (t.flatten(1) for t in (x - left, y[:, None] - top, x + right, y[:, None] + bottom))  # [K, cells]
    score = scores.flatten(1)

    # The crop shows a square of whole pixels. `fastops.crop_and_resize` rounds its side in float32, and so does this.
    shown = state[:, 4].round().clamp(min=1)
    half = (shown - 1) / 2
    shown_cx, shown_cy = ((center - half).round() + half for center in (state[:, 0], state[:, 1]))
    pixels = shown.to(scores.dtype) / instance_size  # of the image per pixel of the crop

    cell_w, cell_h = ((side * pixels[:, None]).clamp(MIN_CELL_SIDE, MAX_CELL_SIDE) for side in (x2 - x1, y2 - y1))
    size_change = _change(_context_side(cell_w, cell_h, context), _context_side(w, h, context)[:, None])
    penalty = torch.exp(-box_penalty * (size_change * _change(cell_w / cell_h, (w / h)[:, None]) - 1))
    trust = penalty * score.sigmoid()
    window = _hann(rows, scores)[:, None] * _hann(columns, scores)
    best = ((1 - box_window) * trust + box_window * window.flatten()).argmax(1, keepdim=True)

    x1, y1, x2, y2, cell_w, cell_h, trust = (t.gather(1, best)[:, 0] for t in (x1, y1, x2, y2, cell_w, cell_h, trust))
    new_cx = (shown_cx + (x1 + x2) / 2 * pixels).clamp(min=0).minimum(image_w - 1)
    new_cy = (shown_cy + (y1 + y2) / 2 * pixels).clamp(min=0).minimum(image_h - 1)
    new_w = torch.lerp(w, cell_w, box_lr * trust).maximum(min_side).minimum(max_w)
    new_h = torch.lerp(h, cell_h, box_lr * trust).maximum(min_side).minimum(max_h)
    new_search_size = _context_side(new_w, new_h, context) * (instance_size / exemplar_size)

    contrast = score.amax(1) - score.mean(1)
    relative = (contrast / own_contrast.clamp(min=1e-12)).clamp(0, 1)
    new_misses = torch.where(relative < lost_score, misses + 1, 0.0)
    found = torch.stack([new_cx, new_cy, new_w, new_h, new_search_size, own_contrast, new_misses], 1)
    kept = torch.stack([cx, cy, w, h, search_size, contrast, misses], 1)
    first = (own_contrast < 0)[:, None]
    finite = torch.cat([scores, ltrb], 1).flatten(1).isfinite().all(1, keepdim=True)
    update = torch.where(finite, torch.where(first, kept, found).float(), state[:, :7])
    state[:, :7] = update

    cx, cy, w, h = update[:, :4].to(scores.dtype).unbind(1)
    lost = (update[:, 6:7] >= lost_frames) & ~first | ~finite
    box = torch.stack([cx - (w - 1) / 2, cy - (h - 1) / 2, w, h, torch.where(first[:, 0], 1.0, relative)], 1)
    return torch.cat([torch.where(finite, box, torch.nan), lost], 1).float()


def box_peak(
    scores: Tensor,
    ltrb: Tensor,
    state: Tensor,
    *,
    stride: int = 8,
    unit: float | None = None,
    exemplar_size: int = 127,
    instance_size: int = 255,
    context: float = 0.5,
    box_lr: float = 0.26,
    box_penalty: float = 0.83,
    box_window: float = 0.39,
    lost_score: float = 0.35,
    lost_frames: int = 5,
) -> Tensor:
    """Choose the best cell of each target and move the target's box towards the cell's.

    Args:
        scores: [K, 1, h, w], any floating dtype: for every cell the logit that the target's centre is there.
        ltrb: [K, 4, h, w] distances from the cell to the left, top, right and bottom edge, in pixels of the search
            crop.
        state: float32 [K, 12], changed in place: cx, cy, w, h, search size, contrast of the first frame's own map
            (negative: this is the first frame), misses in a row, least side, largest w, largest h, image w, image h.
        stride: pixels of the search crop from cell to cell.
        unit: if None, `ltrb` holds pixels. Otherwise the distances are unit * log2(1 + e^ltrb) pixels.
        exemplar_size: side of the template crop, in pixels.
        instance_size: side of the search crop, in pixels.
        context: margin around the target, as a fraction of (w + h).
        box_lr: how far the sides move towards those of a cell of full weight, 0 to 1.
        box_penalty: weight of changes of size and aspect ratio, at least 0.
        box_window: weight of the Hann window, 0 to 1.
        lost_score: a frame with a lower score is a miss.
        lost_frames: number of misses in a row after which a target is lost.

    Returns:
        [K, 6] float32: x, y, w, h, score, lost. If a score or distance is not finite, lost is 1 and the rest NaN.

    Source: Li et al., "High Performance Visual Tracking with Siamese Region Proposal Network", CVPR 2018.

    Example:
        >>> import torch
        >>> from fastops import reference
        >>> state = torch.tensor([[320, 240, 60, 80, 255.0, 1.0, 0, 4.0, 1280, 960, 640, 480]])
        >>> reference.box_peak(torch.randn(1, 1, 17, 17), 64 * torch.rand(1, 4, 17, 17), state).shape
        torch.Size([1, 6])
    """
    return _box_peak_(
        scores, ltrb, state, stride, unit, exemplar_size, instance_size, context, box_lr, box_penalty, box_window,
        lost_score, lost_frames,
    )  # fmt: skip


OPS = {"box_peak_": _box_peak_}
