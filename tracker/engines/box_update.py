"""The next box of a target, from the score map and the distances of a network with a box head."""

from __future__ import annotations

import torch
from torch import Tensor

from tracker.config import TrackerConfig
from tracker.engines.target import MAX_BOX_SIDE
from tracker.geometry import region_side
from tracker.network.box_head import boxes_of

MIN_SIDE = 1e-3


def box_update(maps: Tensor, state: Tensor, config: TrackerConfig) -> Tensor:
    r"""Choose the best cell of each target and move the target's box towards the cell's.

    $$
    \begin{align*}
    p_u &= e^{-k (\max(s_u / s, s / s_u) \max(r_u / r, r / r_u) - 1)} \quad
    s = \sqrt{(w + c)(h + c)}, \; c = \tfrac{w + h}{2}, \; r = \tfrac{w}{h} \\
    u &= \arg\max (1 - \omega) p_u \sigma(v_u) + \omega \operatorname{hann}_u, \qquad
    \lambda = \text{box\_lr} \; p_u \sigma(v_u) \\
    (w, h) &\leftarrow (1 - \lambda) (w, h) + \lambda (w_u, h_u)
    \end{align*}
    $$

    with the scores v, the weight k of changes of size s and aspect ratio r, and the weight $\omega$ of the window. The
    centre becomes the centre of the cell's box. Centre and sides are then kept within the limits of `Tracker`. `score`
    and `lost` are computed as in `Tracker`, from the score map. Nothing waits for the device, so a CUDA graph can
    capture this function.

    Args:
        maps: [K, 5, h, w]: score, and l, t, r, b in pixels of the instance crop.
        state: [K, 12] float32 with the columns of `fastops.ops.response.State`, changed in place. In the first frame
            the column OWN_CONTRAST is negative; then only this column is set.
        config: settings.

    Returns:
        [K, 6] with the columns of `fastops.ops.response.Result`. Where maps are not finite, the result is NaN and the
        state is unchanged.

    Source: Li et al., SiamRPN, section 3.4 (penalty, window, size update).
    """
    maps = maps.float()
    count, _, rows, columns = maps.shape
    cx, cy, w, h, search_size, own_contrast, misses, min_side, max_w, max_h, image_w, image_h = state.unbind(1)
    score = maps[:, 0].flatten(1)  # [K, cells]
    x1, y1, x2, y2 = boxes_of(maps[:, 1:]).flatten(1, 2).unbind(2)

    # `fastops.crop_and_resize` rounds the region to whole pixels.
    shown = search_size.round().clamp(min=1)
    half = (shown - 1) / 2
    shown_cx, shown_cy = (cx - half).round() + half, (cy - half).round() + half
    pixels = shown / config.instance_size  # image pixels per pixel of the crop

    # The sides of an untrained network may be 0, or so large that their squares overflow.
    new_w, new_h = ((side * pixels[:, None]).clamp(MIN_SIDE, MAX_BOX_SIDE) for side in (x2 - x1, y2 - y1))
    size_change = _ratio(region_side(new_w, new_h, config.context), region_side(w, h, config.context)[:, None])
    aspect_change = _ratio(new_w / new_h, (w / h)[:, None])
    penalty = torch.exp(-config.box_penalty * (size_change * aspect_change - 1))
    window = _hann(rows, maps)[:, None] * _hann(columns, maps)
    trust = penalty * score.sigmoid()
    best = ((1 - config.box_window) * trust + config.box_window * window.flatten()).argmax(1, keepdim=True)

    x1, y1, x2, y2, new_w, new_h, trust = (t.gather(1, best)[:, 0] for t in (x1, y1, x2, y2, new_w, new_h, trust))
    rate = config.box_lr * trust
    new_cx = (shown_cx + (x1 + x2) / 2 * pixels).clamp(min=0).minimum(image_w - 1)
    new_cy = (shown_cy + (y1 + y2) / 2 * pixels).clamp(min=0).minimum(image_h - 1)
    new_w = torch.lerp(w, new_w, rate).maximum(min_side).minimum(max_w)
    new_h = torch.lerp(h, new_h, rate).maximum(min_side).minimum(max_h)
    new_search = region_side(new_w, new_h, config.context) * (config.instance_size / config.exemplar_size)

    contrast = score.amax(1) - score.mean(1)
    first = own_contrast < 0
    relative = torch.where(first, 1.0, (contrast / own_contrast.clamp(min=1e-12)).clamp(0, 1))
    new_misses = torch.where(relative < config.lost_score, misses + 1, 0.0)
    found = [new_cx, new_cy, new_w, new_h, new_search, own_contrast, new_misses]
    kept = [cx, cy, w, h, search_size, contrast, misses]
    update = torch.where(first[:, None], torch.stack(kept, 1), torch.stack(found, 1))
    finite = maps.flatten(1).isfinite().all(1, keepdim=True)
    state[:, : len(kept)] = torch.where(finite, update, state[:, : len(kept)])

    cx, cy, w, h, _, _, misses = state[:, : len(kept)].unbind(1)
    box = torch.stack([cx - (w - 1) / 2, cy - (h - 1) / 2, w, h, relative], 1)
    lost = (misses >= config.lost_frames).float()[:, None] * finite + ~finite
    return torch.cat([torch.where(finite, box, torch.nan), lost], 1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a / b, b / a)


def _hann(n: int, like: Tensor) -> Tensor:
    return torch.hann_window(n, periodic=False, dtype=like.dtype, device=like.device)
