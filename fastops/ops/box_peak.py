"""The tracker's steps after a network with a box head: the public function, fake kernel and checks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype
from fastops.ops.response import Result, check_counts, check_map_sides, check_shares, check_state

_box_peak = torch.ops.fastops.box_peak_.default


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
    r"""All steps of the tracker after a network with a box head, for all targets at once: from maps to boxes.

    $$
    \begin{align*}
    w_u &= (l_u + r_u) \tfrac{x}{\text{instance\_size}}, \qquad
    h_u = (t_u + b_u) \tfrac{x}{\text{instance\_size}} \\
    p_u &= e^{-k (\max(s_u / s, s / s_u) \max(a_u / a, a / a_u) - 1)}, \quad
        s = \sqrt{(w + m)(h + m)}, \; m = \text{context} (w + h), \; a = \tfrac{w}{h} \\
    u &= \arg\max (1 - \omega) p_u \sigma(v_u) + \omega \operatorname{hann}_u, \qquad
    \lambda = \text{box\_lr} \; p_u \sigma(v_u) \\
    (w, h) &\leftarrow (1 - \lambda) (w, h) + \lambda (w_u, h_u), \qquad
    x \leftarrow s \tfrac{\text{instance\_size}}{\text{exemplar\_size}}
    \end{align*}
    $$

    Here v are the scores, x is the search size in whole pixels, k is the weight of changes of size and aspect ratio
    (`box_penalty`), and $\omega$ is the weight of the window (`box_window`). The centre becomes the centre of the
    cell's box and is kept within the image. The sides are kept within the target's limits. The score is max - mean of
    the scores, divided by that of the first frame and clamped to 0..1. A target is lost after `lost_frames` frames in a
    row with a score below `lost_score`. Among equal maxima the first in row-major order counts.

    Args:
        scores: [K, 1, h, w], for every cell the logit that the target's centre is there; h and w from 1 to 128;
            float32, float64, float16 or bfloat16 (half types compute in float32).
        ltrb: [K, 4, h, w] of the same dtype. Without `unit`, the distances from the cell to the left, top, right and
            bottom edge of the target, in pixels of the search crop. Contiguous tensors, channels_last tensors and
            channels of one larger tensor are read without a copy.
        state: the targets, float32 [K, 12], contiguous, with the columns of `fastops.ops.response.State`; changed in
            place. A target with `OWN_CONTRAST` below 0 is in its first frame. That column is then set from the scores,
            and the box is returned unchanged, with score 1.
        stride: pixels of the search crop from cell to cell. The middle of the map is the middle of the crop.
        unit: if None, `ltrb` holds pixels. Otherwise the distances are `unit * log2(1 + e^ltrb)` pixels.
        exemplar_size, instance_size: sides of the template crop and of the search crop, in pixels.
        context: margin around the target, as a fraction of (w + h).
        box_lr: how far the sides move towards those of a cell with p sigmoid(v) = 1, 0 to 1.
        box_penalty: weight of changes of size and aspect ratio, at least 0.
        box_window: weight of the Hann window against the score, 0 to 1.
        lost_score, lost_frames: a target with a score below `lost_score` in `lost_frames` frames in a row is lost.

    Returns:
        [K, 6] float32, with the columns of `fastops.ops.response.Result`: the box x, y, w, h in pixels, where (x, y) is
        the top left corner, counted from 0; the score; lost, 0 or 1. A target with a score or distance that is not
        finite has NaN in all columns except lost, which is 1. Its row of `state` is not changed.

    Raises:
        RuntimeError: `box_peak: <argument> must ...` for other shapes, dtypes and devices, and for settings out of
            range.

    All targets take one kernel launch, or one parallel region on the CPU. No value is copied to the host, so the call
    can be captured in a CUDA graph. The results depend neither on the other targets of the call nor on the number of
    threads. The op has no gradient.

    Source: Li et al., "High Performance Visual Tracking with Siamese Region Proposal Network", 2018, section 3.4
    (penalty, window, size); Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", 2019 (distances).

    Examples:

        >>> import torch, fastops
        >>> scores, ltrb = torch.full((1, 1, 17, 17), -5.0), torch.full((1, 4, 17, 17), 32.0)
        >>> scores[0, 0, 8, 10] = 5  # two cells to the right of the middle
        >>> #                      cx   cy   w   h    x    own  misses min  max_w max_h  image
        >>> state = torch.tensor([[320, 240, 64, 64, 255.0, -1.0, 0,   4.0, 1280, 960, 640, 480]])
        >>> fastops.box_peak(scores, ltrb, state)  # the first frame
        tensor([[288.5000, 208.5000,  64.0000,  64.0000,   1.0000,   0.0000]])
        >>> fastops.box_peak(scores, ltrb, state)[0, :2] - 288.5  # 8 px a cell
        tensor([ 16., -80.])
    """
    if scores.requires_grad or ltrb.requires_grad:
        scores, ltrb = scores.detach(), ltrb.detach()
    return _box_peak(
        scores, ltrb, state, stride, unit, exemplar_size, instance_size, context, box_lr, box_penalty, box_window,
        lost_score, lost_frames,
    )  # fmt: skip


# ---- fake kernel and checks ----------------------------------------------------------------------------------


def _check(
    scores, ltrb, state, stride, unit, exemplar_size, instance_size, context, box_lr, box_penalty, box_window,
    lost_score, lost_frames,
) -> None:  # fmt: skip
    op = "box_peak"
    check_floating(op, "scores", scores)
    check_same_dtype(op, "ltrb", ltrb, "scores", scores)
    check_same_device(op, "ltrb", ltrb, "scores", scores)
    check_state(op, state, "scores", scores)
    targets, got = state.shape[0], list(scores.shape)
    check(
        scores.dim() == 4 and got[:2] == [targets, 1],
        f"{op}: scores must have shape [K, 1, h, w] with K = {targets}, got {got}",
    )
    check_map_sides(op, "scores", scores)
    expected = [targets, 4, *got[2:]]
    check(list(ltrb.shape) == expected, f"{op}: ltrb must have shape {expected}, got {list(ltrb.shape)}")

    check_counts(op, stride=stride)
    check(
        unit is None or (math.isfinite(unit) and unit > 0),
        f"{op}: unit must be None, or finite and above 0, got {unit or 0:g}",
    )
    check_counts(op, exemplar_size=exemplar_size, instance_size=instance_size)
    for name, value in {"context": context, "box_penalty": box_penalty}.items():
        check(math.isfinite(value) and value >= 0, f"{op}: {name} must be finite and at least 0, got {value:g}")
    check_shares(op, box_lr=box_lr, box_window=box_window, lost_score=lost_score)
    check_counts(op, lost_frames=lost_frames)


#: The checks of csrc/common/box_peak.h, by schema.
CHECKS = {"box_peak_": _check}


@torch.library.register_fake("fastops::box_peak_")
def _(scores, ltrb, state, *settings):
    _check(scores, ltrb, state, *settings)
    return state.new_empty((state.shape[0], len(Result)))
