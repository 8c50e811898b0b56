"""The steps of the SiamFC tracker after its network (Bertinetto et al. 2016, sections 3.4 and 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import opmath


def _hann_over_mean(n: int, like: Tensor) -> Tensor:
    """The symmetric Hann window divided by its mean. A window of two values, which are both 0, stays 0."""
    if n == 1:
        return like.new_ones(1)
    i = torch.arange(n, dtype=torch.float64, device=like.device)
    window = 0.5 + 0.5 * torch.cos(torch.pi * (2 * i - (n - 1)) / (n - 1))
    return (window / window.mean() if n > 2 else torch.zeros_like(window)).to(like.dtype)


def _track(
    maps: Tensor, state: Tensor, up: int, stride: int, instance_size: int, scale_step: float, scale_penalty: float,
    scale_lr: float, window_influence: float, lost_score: float, lost_frames: int,
) -> Tensor:  # fmt: skip
    """Update the state row of one target from its maps [S, h, w], and return its result."""
    nan = float("nan")
    ranges = maps.amax((1, 2)) - maps.amin((1, 2))
    if not (4 * ranges).isfinite().all():  # also if upsampling could overflow
        return state.new_tensor([nan, nan, nan, nan, nan, 1.0])
    cx, cy, w, h, search_size, own_contrast, misses, min_side, max_w, max_h, image_w, image_h = state.double().unbind()
    middle = len(maps) // 2
    score, lost = 1.0, False
    if own_contrast < 0:
        state[5] = maps[middle].max() - maps[middle].mean()
    else:
        # Upsampling keeps constants, so the maps' largest values are subtracted first. Rounding is then relative to the
        # maps' ranges, and a constant map stays constant: its only peak is the window's.
        largest = maps.amax((1, 2), keepdim=True)
        centered = F.interpolate((maps - largest)[None], scale_factor=up, mode="bicubic", align_corners=False)[0]
        penalty = torch.full_like(largest, scale_penalty)
        penalty[middle] = 1
        best = int(((centered + largest) * penalty).amax((1, 2)).argmax())
        factor = scale_step ** (best - middle)

        response = centered[best] * penalty[best]
        response = response - response.min()
        response = response / (response.sum() + 1e-16)
        rows, columns = response.shape
        window = _hann_over_mean(rows, maps)[:, None] * _hann_over_mean(columns, maps) / response.numel()
        place = int(((1 - window_influence) * response + window_influence * window).argmax())

        pixels = stride / up * search_size * factor / instance_size
        cx = (cx + (place % columns - (columns - 1) / 2) * pixels).clamp(min=0).minimum(image_w - 1)
        cy = (cy + (place // columns - (rows - 1) / 2) * pixels).clamp(min=0).minimum(image_h - 1)
        growth = ((1 - scale_lr) + scale_lr * torch.full_like(w, factor)).maximum(min_side / torch.minimum(w, h))
        growth = growth.minimum(max_w / w).minimum(max_h / h)
        contrast = (maps[best].max() - maps[best].mean()).double()
        score = float((contrast / own_contrast.clamp(min=1e-12)).clamp(0, 1))
        misses = misses + 1 if score < lost_score else torch.zeros_like(misses)
        state[:5] = torch.stack([cx, cy, w * growth, h * growth, search_size * growth])
        state[6] = misses
        lost = bool(misses >= lost_frames)
    cx, cy, w, h = state[:4].double().tolist()
    return state.new_tensor([cx - (w - 1) / 2, cy - (h - 1) / 2, w, h, score, float(lost)])


def _response_peak_(responses: Tensor, state: Tensor, *settings) -> Tensor:
    wide = opmath(responses)
    if len(state) == 0:
        return state.new_empty((0, 6))
    maps = wide.detach().reshape(len(state), -1, *responses.shape[2:])
    return torch.stack([_track(m, row, *settings) for m, row in zip(maps, state, strict=True)])


def response_peak(
    responses: Tensor,
    state: Tensor,
    *,
    up: int = 16,
    stride: int = 8,
    instance_size: int = 255,
    scale_step: float = 1.0375,
    scale_penalty: float = 0.9745,
    scale_lr: float = 0.59,
    window_influence: float = 0.176,
    lost_score: float = 0.35,
    lost_frames: int = 5,
) -> Tensor:
    """Upsample the score maps, choose the scale and the peak, update the targets.

    Args:
        responses: score maps of K targets in S scales, S odd: [K S, 1, h, w] or [K, S, h, w], any floating dtype.
        state: float32 [K, 12], changed in place: cx, cy, w, h, search size, contrast of the first frame's own map
            (negative: this is the first frame), misses in a row, least side, largest w, largest h, image w, image h.
        up: upsampling factor.
        stride: pixels of the search crop per cell of the map.
        instance_size: side of the search crop, in pixels.
        scale_step: ratio between neighbouring scales.
        scale_penalty: factor on the maps of every scale except the middle one.
        scale_lr: how far the size moves towards the best scale, 0 to 1.
        window_influence: weight of the Hann window, 0 to 1.
        lost_score: a frame with a lower score is a miss.
        lost_frames: number of misses in a row after which a target is lost.

    Returns:
        [K, 6] float32: x, y, w, h, score, lost. If a response is not finite, lost is 1 and the rest NaN.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", ECCVW 2016.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> state = torch.tensor([[320, 240, 60, 80, 255.0, 1.0, 0, 4.0, 1280, 960, 640, 480]])
        >>> reference.response_peak(torch.randn(3, 1, 17, 17), state).shape
        torch.Size([1, 6])
    """
    return _response_peak_(
        responses, state, up, stride, instance_size, scale_step, scale_penalty, scale_lr, window_influence, lost_score,
        lost_frames,
    )  # fmt: skip


OPS = {"response_peak_": _response_peak_}
