"""The steps of the SiamFC tracker after its network: the public function, fake kernel and checks."""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from fastops.ops._checks import check, check_floating, check_same_device, dtype_name

_response_peak = torch.ops.fastops.response_peak_.default

#: The largest h and w of maps, and the largest `up`.
MAX_SIDE, MAX_UP = 128, 32


class State(IntEnum):
    """The columns of `state`; sizes and positions in pixels."""

    CENTER_X = 0
    CENTER_Y = 1
    WIDTH = 2
    HEIGHT = 3
    SEARCH_SIZE = 4  # side of the image region in the middle scale's search crop
    OWN_CONTRAST = 5  # max - mean of the first frame's own map; negative if not yet known
    MISSES = 6  # frames in a row with a score below `lost_score`
    MIN_SIDE = 7  # lower limit of the shorter side
    MAX_WIDTH = 8
    MAX_HEIGHT = 9
    IMAGE_WIDTH = 10
    IMAGE_HEIGHT = 11


class Result(IntEnum):
    """The columns of the results."""

    X = 0
    Y = 1
    WIDTH = 2
    HEIGHT = 3
    SCORE = 4
    LOST = 5


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
    r"""All steps of the SiamFC tracker after its network, for all targets at once: from score maps to boxes.

    $$
    \begin{align*}
    r_s &= p_s \operatorname{bicubic}(m_s), \quad p_s = 1 \text{ for the middle scale, else } p \\
    s &= \arg\max_s \max r_s, \qquad f = \text{scale\_step}^{s - \lfloor S / 2 \rfloor} \\
    u &= \arg\max (1 - w) \frac{r_s - \min r_s}{\sum (r_s - \min r_s) + 10^{-16}}
    + w \frac{\operatorname{hann}}{\sum \operatorname{hann}} \\
    c &\leftarrow c + \left(u - \tfrac{\text{side} - 1}{2}\right) \frac{\text{stride}}{\text{up}}
    \frac{f x}{\text{instance\_size}}, \qquad
    (w, h, x) \leftarrow (1 - lr + lr f) (w, h, x)
    \end{align*}
    $$

    Here $c$ is the centre and $x$ the search size. The centre is kept within the image, and the sides within the
    target's limits. The score is max - mean of the best scale's map, divided by that of the first frame's own map and
    clamped to 0..1. A target is lost after `lost_frames` frames in a row with a score below `lost_score`. Among equal
    maxima the first in row-major order counts.

    Args:
        responses: score maps of K targets in S scales, S odd, from small to large: [K S, 1, h, w] or [K, S, h, w], h
            and w from 1 to 128; float32, float64, float16 or bfloat16 (half types compute in float32).
        state: the targets, float32 [K, 12], contiguous, with the columns of [`fastops.ops.response.State`][];
            changed in place. A target with `OWN_CONTRAST` below 0 is in its first frame. That column is then set from
            the map of the middle scale, and the box is returned unchanged, with score 1.
        up: upsampling factor, 1 to 32 (OpenCV's bicubic: a = -3/4, pixel centres at halves, borders repeated).
        stride: pixels of the search crop per cell of the map.
        instance_size: side of the search crop, in pixels.
        scale_step: ratio between neighbouring scales.
        scale_penalty: factor on the maps of every scale except the middle one.
        scale_lr: how far the size moves towards the best scale, 0 to 1.
        window_influence: w, the weight of the Hann window. A map with two outputs in a dimension has no Hann window, so
            none is applied.
        lost_score, lost_frames: a target with a score below `lost_score` in `lost_frames` frames in a row is lost.

    Returns:
        [K, 6] float32, with the columns of [`fastops.ops.response.Result`][]: the box x, y, w, h in pixels, where
        (x, y) is the top left corner, counted from 0; the score; lost, 0 or 1. A target with a response that is not
        finite, or whose responses span more than a quarter of the dtype's range, has NaN in all columns except lost,
        which is 1. Its row of `state` is not changed.

    Raises:
        RuntimeError: `response_peak: <argument> must ...` for other shapes, dtypes and devices, and for settings out of
            range.

    All targets take one kernel launch, or one parallel region on the CPU. No value is copied to the host, so the call
    can be captured in a CUDA graph. The results depend neither on the other targets of the call nor on the number of
    threads. The op has no gradient.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", 2016, sections 3.4 and 4.

    Examples:

        >>> import torch, fastops
        >>> responses = torch.zeros(1, 3, 17, 17)
        >>> responses[0, 1, 8, 10] = 1  # two steps to the right of the middle
        >>> #                      cx   cy   w   h    x    own  misses min  max_w max_h  image
        >>> state = torch.tensor([[320, 240, 60, 80, 255.0, -1.0, 0,   4.0, 1280, 960, 640, 480]])
        >>> fastops.response_peak(responses, state)  # the first frame
        tensor([[290.5000, 200.5000,  60.0000,  80.0000,   1.0000,   0.0000]])
        >>> fastops.response_peak(responses, state)[0, 0] - 290.5  # 8 px a step, to the nearest of 16 places
        tensor(15.7500)
    """
    if responses.requires_grad:
        responses = responses.detach()
    return _response_peak(
        responses, state, up, stride, instance_size, scale_step, scale_penalty, scale_lr, window_influence, lost_score,
        lost_frames,
    )  # fmt: skip


# ---- fake kernel and checks ----------------------------------------------------------------------------------


def check_state(op: str, state: Tensor, like_name: str, like: Tensor) -> None:
    """Check the tracker's state with the checks of csrc/common/target.h."""
    got = dtype_name(state.dtype)
    check(state.dtype == torch.float32, f"{op}: state must have dtype float32, got {got}")
    check_same_device(op, "state", state, like_name, like)
    columns = len(State)
    check(
        state.dim() == 2 and state.shape[1] == columns,
        f"{op}: state must have shape [K, {columns}], got {list(state.shape)}",
    )
    check(state.is_contiguous(), f"{op}: state must be contiguous, got strides {list(state.stride())}")


def check_map_sides(op: str, argument: str, maps: Tensor) -> None:
    """Check h and w of maps with the checks of csrc/common/target.h."""
    h, w = maps.shape[2:]
    check(
        1 <= h <= MAX_SIDE and 1 <= w <= MAX_SIDE,
        f"{op}: {argument} must have h and w from 1 to {MAX_SIDE}, got {list(maps.shape)}",
    )


def check_counts(op: str, **values: int) -> None:
    """Check settings that are counts, at least 1."""
    for name, value in values.items():
        check(value >= 1, f"{op}: {name} must be at least 1, got {value}")


def check_shares(op: str, **values: float) -> None:
    """Check settings from 0 to 1."""
    for name, value in values.items():
        check(0 <= value <= 1, f"{op}: {name} must be between 0 and 1, got {value:g}")


def _check(
    responses, state, up, stride, instance_size, scale_step, scale_penalty, scale_lr, window_influence, lost_score,
    lost_frames,
) -> None:  # fmt: skip
    op = "response_peak"
    check_floating(op, "responses", responses)
    check_state(op, state, "responses", responses)
    targets, scales = state.shape[0], 0
    if responses.dim() == 4:
        maps, channels = responses.shape[:2]
        if maps == targets:
            scales = channels
        elif channels == 1 and targets > 0 and maps % targets == 0:
            scales = maps // targets
    got = list(responses.shape)
    check(
        scales % 2 == 1,
        f"{op}: responses must have shape [K S, 1, h, w] or [K, S, h, w] with K = {targets} and S odd, got {got}",
    )
    check_map_sides(op, "responses", responses)
    check(1 <= up <= MAX_UP, f"{op}: up must be from 1 to {MAX_UP}, got {up}")
    check_counts(op, stride=stride, instance_size=instance_size)
    check(
        math.isfinite(scale_step) and scale_step > 0,
        f"{op}: scale_step must be finite and above 0, got {scale_step:g}",
    )
    check_shares(
        op, scale_penalty=scale_penalty, scale_lr=scale_lr, window_influence=window_influence, lost_score=lost_score
    )
    check_counts(op, lost_frames=lost_frames)


#: The checks of csrc/common/response.h, by schema.
CHECKS = {"response_peak_": _check}


@torch.library.register_fake("fastops::response_peak_")
def _(responses, state, *settings):
    _check(responses, state, *settings)
    return state.new_empty((state.shape[0], len(Result)))
