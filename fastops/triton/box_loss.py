"""The box losses in Triton. Formulas and derivations are in csrc/math/box_loss.h and focal_l1.h.

Each program takes BLOCK boxes or values and sums over them. The sums of the programs are then added in a fixed order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from ._common import laid_out_like, opmath, opmath_dtype

BLOCK = 256  # boxes of a program
VALUES = 1024  # values of a program in FocalL1


@triton.jit
def _sum_error(a, b, sum):
    b_seen = sum - a
    return (a - (sum - b_seen)) + (b - b_seen)


@triton.jit
def _least(a, b):
    return tl.where(b < a, b, a)  # NaN in `a` stays NaN


@triton.jit
def _axis(p0, p1, t0, t1, eps, FORMAT: tl.constexpr):
    """Sides of at least eps, edges and centre of pred minus those of target, difference of the sides, and overlap.

    A negative overlap is a gap.
    """
    first, last = p0 - t0, p1 - t1
    if FORMAT == "xyxy":
        raw_p, raw_t = p1 - p0, t1 - t0
        offset, first_error = 0.5 * (first + last), 0.0
    else:
        raw_p, raw_t = p1, t1
        offset, first_error = first, _sum_error(p0, -t0, first)
        if FORMAT == "xywh":
            offset += 0.5 * last
    p, t = tl.where(raw_p < eps, eps + 0 * raw_p, raw_p), tl.where(raw_t < eps, eps + 0 * raw_t, raw_t)
    sum, stretch = p + t, p - t
    half_error = 0.5 * _sum_error(p, t, sum)
    left, right = offset - 0.5 * stretch, offset + 0.5 * stretch
    ahead = (0.5 * sum + offset) + (half_error + first_error)
    behind = (0.5 * sum - offset) + (half_error - first_error)
    if FORMAT != "cxcywh":
        direct = (raw_p >= eps) & (raw_t >= eps)
        left = tl.where(direct, first, left)
        if FORMAT == "xyxy":
            right = tl.where(direct, last, right)
            stretch = tl.where(direct, last - first, stretch)
            ahead, behind = tl.where(direct, p1 - t0, ahead), tl.where(direct, t1 - p0, behind)
        else:
            right = tl.where(direct, first + last, right)
            ahead = tl.where(direct, (first + p1) + first_error, ahead)
            behind = tl.where(direct, (t1 - first) - first_error, behind)
    return p, t, left, right, offset, stretch, _least(_least(_least(ahead, behind), p), t)


@triton.jit
def _span(p, t, left, right, reach):
    """The parts of each interval outside the other, the overlap, the gap and the enclosing interval."""
    beyond = tl.where(left > 0, 0, -left) + tl.where(right < 0, 0, right)
    within = tl.where(left < 0, 0, left) + tl.where(right > 0, 0, -right)
    overlap, gap = tl.where(reach < 0, 0, reach), tl.where(reach > 0, 0, -reach)
    return _least(beyond, p), _least(within, t), overlap, gap, t + beyond


@triton.jit
def _share(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, 0.0, 0.5))


@triton.jit
def _edges(left, right, by_p, by_t, by_overlap, by_cover):
    """dL by pred's and target's edges from dL/dp, dL/dt, minus dL/d overlap and dL/d cover."""
    a, b = _share(left).to(left.dtype), _share(right).to(left.dtype)
    p1 = (a * by_overlap - by_p) - (1 - a) * by_cover
    p2 = (by_p - (1 - b) * by_overlap) + b * by_cover
    t1 = ((1 - a) * by_overlap - by_t) - a * by_cover
    t2 = (by_t - b * by_overlap) + (1 - b) * by_cover
    return p1, p2, t1, t2


@triton.jit
def _ratio(a, b):
    return tl.where(a == b, 1, a / b)  # a / a need not be 1 on a GPU


@triton.jit
def _atan_ratio(y, x, TERMS: tl.constexpr):
    """atan(y / x) for x > 0, as in csrc/math/atan.h."""
    a = tl.abs(y)
    steep = a > x
    r = tl.where(steep, x, a) / tl.where(steep, a, x)
    s = r / (1 + tl.sqrt(1 + r * r))
    z = s * s
    series = tl.zeros_like(z)
    for k in tl.static_range(TERMS):
        series = 1.0 / (2 * (TERMS - 1 - k) + 1) - z * series
    angle = 2 * s * series
    angle = tl.where(steep, 1.5707963267948966 - angle, angle)
    return tl.where(y < 0, -angle, angle)


@triton.jit
def _load_box(boxes, at, inside, OPMATH: tl.constexpr):
    # Boxes beyond the last one get sides of 1, so that all values are finite.
    a = tl.load(boxes + at, inside, 0).to(OPMATH)
    b = tl.load(boxes + at + 1, inside, 0).to(OPMATH)
    c = tl.load(boxes + at + 2, inside, 1).to(OPMATH)
    d = tl.load(boxes + at + 3, inside, 1).to(OPMATH)
    return a, b, c, d


@triton.jit
def _store_gradient(grad, at, inside, x1, x2, y1, y2, FORMAT: tl.constexpr):
    if FORMAT == "xyxy":
        a, b, c, d = x1, y1, x2, y2
    elif FORMAT == "xywh":
        a, b, c, d = x1 + x2, y1 + y2, x2, y2
    else:
        a, b, c, d = x1 + x2, y1 + y2, 0.5 * (x2 - x1), 0.5 * (y2 - y1)
    tl.store(grad + at, a, inside)
    tl.store(grad + at + 1, b, inside)
    tl.store(grad + at + 2, c, inside)
    tl.store(grad + at + 3, d, inside)


@triton.jit
def _box_loss_kernel(
    pred, target, mean, loss, grad_pred, grad_target, partial, n, eps: tl.float64, gamma: tl.float64,
    FORMAT: tl.constexpr, PENALTY: tl.constexpr, WEIGHT: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill those of `loss` [n], `grad_pred`, `grad_target` [n, 4] and `partial` [2, programs] that are not None."""
    pid = tl.program_id(0).to(tl.int64)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    inside, at = i < n, 4 * i
    eps, gamma = tl.full([], eps, OPMATH), tl.full([], gamma, OPMATH)
    px0, py0, px1, py1 = _load_box(pred, at, inside, OPMATH)
    tx0, ty0, tx1, ty1 = _load_box(target, at, inside, OPMATH)
    xp, xt, x_left, x_right, x_offset, x_stretch, x_reach = _axis(px0, px1, tx0, tx1, eps, FORMAT)
    yp, yt, y_left, y_right, y_offset, y_stretch, y_reach = _axis(py0, py1, ty0, ty1, eps, FORMAT)
    x_outside_p, x_outside_t, x_overlap, x_gap, x_cover = _span(xp, xt, x_left, x_right, x_reach)
    y_outside_p, y_outside_t, y_overlap, y_gap, y_cover = _span(yp, yt, y_left, y_right, y_reach)

    intersection = x_overlap * y_overlap
    excess = (x_outside_p * yp + x_outside_t * yt) + x_overlap * (y_outside_p + y_outside_t)
    whole = intersection + excess
    iou = _ratio(intersection, whole)
    base = excess / whole
    inverse = 1 / whole + 0 * base  # a NaN spreads to all gradients
    x_by_overlap = tl.where(x_reach < 0, 0, (1 + iou) * y_overlap)
    y_by_overlap = tl.where(y_reach < 0, 0, (1 + iou) * x_overlap)
    xp1, xp2, xt1, xt2 = _edges(x_left, x_right, iou * yp, iou * yt, x_by_overlap, 0.0)
    yp1, yp2, yt1, yt2 = _edges(y_left, y_right, iou * xp, iou * xt, y_by_overlap, 0.0)

    result = base
    if PENALTY == "giou":
        cover = x_cover * y_cover
        uncovered = (x_outside_p * y_outside_t + x_outside_t * y_outside_p) + (
            x_gap * y_cover + (x_cover - x_gap) * y_gap
        )
        result += uncovered / cover
        filled, share = _ratio(whole, cover), 1 / cover
        x_met, y_met = tl.where(x_reach < 0, 0, -y_overlap), tl.where(y_reach < 0, 0, -x_overlap)
        rxp1, rxp2, rxt1, rxt2 = _edges(x_left, x_right, -yp, -yt, x_met, filled * y_cover)
        ryp1, ryp2, ryt1, ryt2 = _edges(y_left, y_right, -xp, -xt, y_met, filled * x_cover)
        rxp1, rxp2, rxt1, rxt2 = share * rxp1, share * rxp2, share * rxt1, share * rxt2
        ryp1, ryp2, ryt1, ryt2 = share * ryp1, share * ryp2, share * ryt1, share * ryt2
    elif PENALTY == "iou":
        rxp1, rxp2, rxt1, rxt2, ryp1, ryp2, ryt1, ryt2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    else:
        share = 1 / (x_cover * x_cover + y_cover * y_cover)
        distance = (x_offset * x_offset + y_offset * y_offset) * share
        result += distance
        x_by_p, x_by_t, y_by_p, y_by_t = 0.0, 0.0, 0.0, 0.0
        x_by_cover, y_by_cover = -2 * distance * share * x_cover, -2 * distance * share * y_cover
        if PENALTY == "ciou":
            TERMS: tl.constexpr = 20 if OPMATH == tl.float64 else 9
            same = (x_stretch == 0) & (y_stretch == 0)
            theta = _atan_ratio(tl.where(same, 0, xt * yp - xp * yt), yp * yt + xp * xt, TERMS)
            v = 0.40528473456935109 * theta * theta
            alpha = v / tl.where(v > 0, base + v, 1)
            result += alpha * v
            slope = 2 * 0.40528473456935109 * alpha * theta
            slope_p, slope_t = slope / (xp * xp + yp * yp), slope / (xt * xt + yt * yt)
            x_by_p, y_by_p, x_by_t, y_by_t = -slope_p * yp, slope_p * xp, slope_t * yt, -slope_t * xt
        elif PENALTY == "eiou":
            x_ratio, y_ratio = x_stretch / x_cover, y_stretch / y_cover
            result += x_ratio * x_ratio + y_ratio * y_ratio
            x_by_p, y_by_p = 2 * x_ratio / x_cover, 2 * y_ratio / y_cover
            x_by_t, y_by_t = -x_by_p, -y_by_p
            x_by_cover -= x_ratio * x_by_p
            y_by_cover -= y_ratio * y_by_p
        rxp1, rxp2, rxt1, rxt2 = _edges(x_left, x_right, x_by_p, x_by_t, 0.0, x_by_cover)
        ryp1, ryp2, ryt1, ryt2 = _edges(y_left, y_right, y_by_p, y_by_t, 0.0, y_by_cover)
        x_move, y_move = share * x_offset, share * y_offset
        rxp1, rxp2, rxt1, rxt2 = rxp1 + x_move, rxp2 + x_move, rxt1 - x_move, rxt2 - x_move
        ryp1, ryp2, ryt1, ryt2 = ryp1 + y_move, ryp2 + y_move, ryt1 - y_move, ryt2 - y_move

    weight = tl.full([BLOCK], 1, OPMATH)
    scale = inverse
    if WEIGHT != "none":
        if WEIGHT == "root":
            weight = tl.sqrt(iou)
        else:
            power = tl.exp(gamma * tl.log(tl.where(iou > 0, iou, 1)))
            weight = tl.where(iou > 0, power, tl.where(gamma > 0, 0 * iou, 1))
        scale = weight * inverse
        if WEIGHT == "live":
            base_value = tl.load(mean) if mean is not None else 0.0
            rate = (result - base_value) * gamma * (weight / tl.where(iou > 0, iou, 1)) * inverse
            scale -= tl.where(iou > 0, rate, 0)
        result *= weight

    if loss is not None:
        tl.store(loss + i, result, inside)
    if grad_pred is not None:
        _store_gradient(
            grad_pred, at, inside, scale * xp1 + weight * rxp1, scale * xp2 + weight * rxp2,
            scale * yp1 + weight * ryp1, scale * yp2 + weight * ryp2, FORMAT,
        )  # fmt: skip
    if grad_target is not None:
        _store_gradient(
            grad_target, at, inside, scale * xt1 + weight * rxt1, scale * xt2 + weight * rxt2,
            scale * yt1 + weight * ryt1, scale * yt2 + weight * ryt2, FORMAT,
        )  # fmt: skip
    if partial is not None:
        tl.store(partial + pid, tl.sum(tl.where(inside, result, 0), 0))
        tl.store(partial + tl.num_programs(0) + pid, tl.sum(tl.where(inside, weight, 0), 0))


@triton.jit
def _scale_kernel(saved, divisor, grad, out, n, ONE: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr):
    """out = saved grad / divisor for n values, 4 per box. There is one grad per box, or one for all."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    g = tl.load(grad).to(OPMATH) if ONE else tl.load(grad + at // 4, inside, 0).to(OPMATH)
    tl.store(out + at, tl.load(saved + at, inside, 0) * (g / tl.load(divisor)), inside)


@triton.jit
def _log_beta_x(x, log_beta):
    return log_beta + tl.log(tl.where(x < 1e-30, 1e-30, x))


@triton.jit
def _focal_l1_kernel(
    pred, target, loss, partial, n, alpha: tl.float64, log_beta: tl.float64, OPMATH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the losses to `loss` [n], or their sum to `partial` [programs]."""
    pid = tl.program_id(0).to(tl.int64)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    alpha, log_beta = tl.full([], alpha, OPMATH), tl.full([], log_beta, OPMATH)
    x = tl.abs(tl.load(pred + at, inside, 0).to(OPMATH) - tl.load(target + at, inside, 0).to(OPMATH))
    inner = 0.25 * x * x * (1 - 2 * _log_beta_x(x, log_beta))
    outer = 0.25 * (2 * log_beta + 1) - log_beta * x
    value = alpha * tl.where(x > 1, outer, inner)
    if partial is None:
        tl.store(loss + at, value, inside)
    else:
        tl.store(partial + pid, tl.sum(value, 0))  # the loss of 0 is 0


@triton.jit
def _focal_l1_backward_kernel(
    grad, pred, target, grad_pred, n, alpha: tl.float64, log_beta: tl.float64, divisor: tl.float64,
    ONE: tl.constexpr, OPMATH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    alpha, log_beta = tl.full([], alpha, OPMATH), tl.full([], log_beta, OPMATH)
    g = tl.load(grad).to(OPMATH) if ONE else tl.load(grad + at, inside, 0).to(OPMATH)
    g = g / tl.full([], divisor, OPMATH)
    d = tl.load(pred + at, inside, 0).to(OPMATH) - tl.load(target + at, inside, 0).to(OPMATH)
    x = tl.abs(d)
    bounded = tl.where(d > 1, 1, tl.where(d < -1, -1, d))
    tl.store(grad_pred + at, -g * alpha * bounded * tl.where(x > 1, log_beta, _log_beta_x(x, log_beta)), inside)


# ---- host side -----------------------------------------------------------------------------------------------


def box_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    kind: str,
    fmt: str,
    reduction: str,
    gamma: float,
    detach_weight: bool,
    eps: float,
    pred_grad: bool,
    target_grad: bool,
) -> list[torch.Tensor]:
    pred, target = pred.contiguous(), target.contiguous()
    boxes, dtype = pred.numel() // 4, opmath_dtype(pred)
    programs = triton.cdiv(boxes, BLOCK)
    weight = "none"
    if kind == "focal_eiou":
        weight = "live" if not detach_weight else "root" if gamma == 0.5 else "power"
    each = pred.new_empty(pred.shape[:-1]) if reduction == "none" else None
    partial = None if reduction == "none" else pred.new_empty((2, programs), dtype=dtype)
    grads = [pred.new_empty(pred.shape, dtype=dtype) if wanted else None for wanted in (pred_grad, target_grad)]

    def run(mean: torch.Tensor | None, grads: list[torch.Tensor | None], partial: torch.Tensor | None) -> None:
        if boxes:
            with torch.cuda.device_of(pred):
                _box_loss_kernel[(programs,)](
                    pred, target, mean, each, *grads, partial, boxes, eps, gamma, FORMAT=fmt,
                    PENALTY=kind.removeprefix("focal_"), WEIGHT=weight, OPMATH=opmath(pred), BLOCK=BLOCK,
                )  # fmt: skip

    gradient = pred_grad or target_grad
    mean_first = weight == "live" and reduction == "weighted" and gradient
    run(None, [None, None] if mean_first else grads, partial)
    divisor = pred.new_full((), max(boxes, 1) if reduction == "mean" else 1, dtype=dtype)
    loss = each
    if partial is not None:
        total, weights = partial.double().sum(1)
        if reduction == "weighted":
            divisor = torch.where(weights == 0, 1, weights).to(dtype)
        mean = total / divisor
        loss = mean.to(pred.dtype)
        if mean_first:
            run(mean.to(dtype), grads, None)
    return [loss, divisor, *(g for g in grads if g is not None)] if gradient else [loss]


def box_loss_backward_scale(grad: torch.Tensor, divisor: torch.Tensor, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    grad = grad.contiguous()
    results = [grad.new_empty(saved.shape) for saved in grads]
    for saved, out in zip(grads, results, strict=True):
        if saved.numel():
            with torch.cuda.device_of(grad):
                _scale_kernel[(triton.cdiv(saved.numel(), VALUES),)](
                    saved.contiguous(), divisor, grad, out, saved.numel(),
                    ONE=grad.dim() == 0, OPMATH=opmath(grad), BLOCK=VALUES,
                )  # fmt: skip
    return results


def focal_l1_loss(pred: torch.Tensor, target: torch.Tensor, beta: float = 0.8, reduction: str = "mean") -> torch.Tensor:
    n, each = pred.numel(), reduction == "none"
    loss = torch.empty_like(pred) if each else None  # the strides of pred if it is dense, else dense ones
    pred = laid_out_like(pred, loss) if each else pred.contiguous()
    target = laid_out_like(target, pred)
    programs = triton.cdiv(n, VALUES)
    partial = None if each else pred.new_empty(programs, dtype=opmath_dtype(pred))
    if n:
        with torch.cuda.device_of(pred):
            _focal_l1_kernel[(programs,)](
                pred, target, loss, partial, n, math.e * beta, math.log(beta), OPMATH=opmath(pred), BLOCK=VALUES
            )
    if each:
        return loss
    return (partial.double().sum() / (max(n, 1) if reduction == "mean" else 1)).to(pred.dtype)


def focal_l1_loss_backward(
    grad: torch.Tensor, pred: torch.Tensor, target: torch.Tensor, beta: float, reduction: str
) -> torch.Tensor:
    n, one = pred.numel(), reduction != "none"
    grad_pred = torch.empty_like(pred)
    if n:
        pred, target = laid_out_like(pred, grad_pred), laid_out_like(target, grad_pred)
        grad = grad if one else laid_out_like(grad, grad_pred)
        with torch.cuda.device_of(pred):
            _focal_l1_backward_kernel[(triton.cdiv(n, VALUES),)](
                grad, pred, target, grad_pred, n, math.e * beta, math.log(beta), n if reduction == "mean" else 1,
                ONE=one, OPMATH=opmath(pred), BLOCK=VALUES,
            )  # fmt: skip
    return grad_pred


OPS = {
    "box_loss": box_loss,
    "box_loss_backward_scale": box_loss_backward_scale,
    "focal_l1_loss": focal_l1_loss,
    "focal_l1_loss_backward": focal_l1_loss_backward,
}
