"""Box regression losses ("Focal and efficient IOU loss for accurate bounding box regression", eq. 3-11)."""

from __future__ import annotations

import math

import torch

from ._common import opmath

# The four distances between a first and a last edge of two intervals: (p2 - t1, t2 - p1), (p2 - p1, t2 - t1).
# Their minimum is the overlap (a gap if negative), their maximum the side of the enclosing box. torch.minimum and
# torch.maximum share the gradient among equal values, so all gradients are 0 if the boxes are the same.


def promoted(pred: torch.Tensor, target: torch.Tensor, trailing: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Both inputs in one dtype and shape, by torch's rules of promotion and broadcasting.

    An integer tensor takes the dtype of a floating-point one. Two integer tensors become the default dtype.

    Args:
        pred, target: tensors of any dtype and shape.
        trailing: number of last dimensions that are not broadcast and must be equal: 1 for boxes [..., 4].
    """
    numbers = not any(t.dtype == torch.bool or t.dtype.is_complex for t in (pred, target))
    if numbers and (pred.dtype != target.dtype or not pred.dtype.is_floating_point):
        dtype = torch.promote_types(pred.dtype, target.dtype)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        pred, target = pred.to(dtype), target.to(dtype)
    if pred.shape != target.shape and _broadcasts(pred.shape, target.shape, trailing):
        pred, target = torch.broadcast_tensors(pred, target)
    return pred, target


def _broadcasts(a: torch.Size, b: torch.Size, trailing: int) -> bool:
    last = len(a) - trailing, len(b) - trailing
    if min(last) < 0 or a[last[0] :] != b[last[1] :]:
        return False
    pairs = zip(reversed(a[: last[0]]), reversed(b[: last[1]]), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


def _at_least(side: torch.Tensor, eps: float) -> torch.Tensor:
    """max(side, eps) with the gradient of `side`."""
    fixed = side.detach()
    return fixed.clamp(min=eps) + (side - fixed)


def _geometry(pred: torch.Tensor, target: torch.Tensor, fmt: str, eps: float) -> tuple[torch.Tensor, ...]:
    """Sides of pred and target, difference of their centres, overlap and enclosing side; each [..., 2] for x and y.

    All are computed from differences of coordinates, so boxes of size 1e-6 at 1e6 keep their accuracy.
    """
    (p0, p1), (t0, t1) = (opmath(boxes).split(2, -1) for boxes in (pred, target))
    first = p0 - t0
    if fmt == "xyxy":
        p, t = p1 - p0, t1 - t0
        offset, ahead, behind = (first + (p1 - t1)) / 2, p1 - t0, t1 - p0
    elif fmt == "xywh":
        p, t = p1, t1
        offset, ahead, behind = first + (p - t) / 2, p + first, t - first
    else:
        p, t = p1, t1
        offset, ahead, behind = first, (p + t) / 2 + first, (p + t) / 2 - first
    # A side below eps counts as eps around the same centre.
    regular = (p >= eps) & (t >= eps)
    p, t = _at_least(p, eps), _at_least(t, eps)
    ahead = torch.where(regular, ahead, (p + t) / 2 + offset)
    behind = torch.where(regular, behind, (p + t) / 2 - offset)
    overlap = torch.minimum(torch.minimum(ahead, behind), torch.minimum(p, t))
    overlap = overlap.masked_fill(overlap < 0, 0.0)  # clamp's gradient at 0 depends on torch's version
    cover = torch.maximum(torch.maximum(ahead, behind), torch.maximum(p, t))
    return p, t, offset, overlap, cover


def _losses(kind: str, pred: torch.Tensor, target: torch.Tensor, fmt: str, eps: float) -> tuple[torch.Tensor, ...]:
    """The losses of the boxes [...] and their IoU."""
    p, t, offset, overlap, cover = _geometry(pred, target, fmt, eps)
    intersection = overlap.prod(-1)
    union = p.prod(-1) + t.prod(-1) - intersection
    iou = intersection / union
    loss = 1 - iou
    if kind == "giou":
        enclosing = cover.prod(-1)
        return loss + (enclosing - union) / enclosing, iou
    if kind in ("diou", "ciou", "eiou"):
        distance = offset.square().sum(-1) / cover.square().sum(-1)
        if kind == "ciou":
            v = 4 / math.pi**2 * (torch.atan(t[..., 0] / t[..., 1]) - torch.atan(p[..., 0] / p[..., 1])).square()
            alpha = (v / (loss + v)).masked_fill(v == 0, 0.0).detach()
            distance = distance + alpha * v
        elif kind == "eiou":
            distance = distance + ((p - t) / cover).square().sum(-1)
        loss = loss + distance
    return loss, iou


def _weights(iou: torch.Tensor, gamma: float) -> torch.Tensor:
    """IoU^gamma, with a gradient of 0 where the IoU is 0."""
    empty = iou == 0
    return (iou.masked_fill(empty, 1.0) ** gamma).masked_fill(empty, 0.0**gamma)


def _divisor(losses: torch.Tensor, weights: torch.Tensor | None, reduction: str) -> torch.Tensor | int:
    """The divisor of the sum of the losses, never 0."""
    if reduction == "weighted":
        total = weights.sum()
        return total + (total == 0)
    return max(losses.numel(), 1) if reduction == "mean" else 1


def _reduced(
    losses: torch.Tensor,
    weights: torch.Tensor | None,
    reduction: str,
    dtype: torch.dtype,
    outside: torch.Tensor | None = None,
) -> torch.Tensor:
    if outside is not None:
        outside = outside.to(losses.dtype).expand(losses.shape)
        losses = outside * losses
        if reduction == "weighted":
            weights = outside * weights
        elif reduction == "mean":
            weights, reduction = outside, "weighted"
    if reduction != "none":
        losses = losses.sum() / _divisor(losses, weights, reduction)
    return losses.to(dtype)


def iou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """IoU loss: 1 - |A and B| / |A or B| (eq. 3).

    Args:
        pred: boxes [..., 4], any dtype.
        target: boxes of a dtype and shape that promote and broadcast with those of `pred`.
        fmt: "xyxy" (corners), "xywh" (first corner and sides) or "cxcywh" (centre and sides).
        reduction: "none" gives [...], "mean" and "sum" a scalar; the mean of no boxes is 0.
        eps: sides below it count as eps.
        weight: a factor w for each box, of a shape that broadcasts to [...]: w L, sum(w L) or, as the mean,
            sum(w L) / sum(w), 0 where all w are.

    Returns:
        The loss in the dtype that both promote to.

    Source: Yu et al., "UnitBox: An Advanced Object Detection Network", ACM MM 2016.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.iou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.5000)
    """
    pred, target = promoted(pred, target)
    return _reduced(_losses("iou", pred, target, fmt, eps)[0], None, reduction, pred.dtype, weight)


def giou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Generalized IoU loss: 1 - IoU + |C - (A or B)| / |C|, C the smallest box around both (eq. 4).

    The arguments are those of `iou_loss`.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.giou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
        tensor(1.3333)
    """
    pred, target = promoted(pred, target)
    return _reduced(_losses("giou", pred, target, fmt, eps)[0], None, reduction, pred.dtype, weight)


def diou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Distance IoU loss: 1 - IoU + rho^2(centres) / (wc^2 + hc^2), wc and hc the sides of the smallest box around both.

    The arguments are those of `iou_loss`.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 7.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.diou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
        tensor(1.4000)
    """
    pred, target = promoted(pred, target)
    return _reduced(_losses("diou", pred, target, fmt, eps)[0], None, reduction, pred.dtype, weight)


def ciou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Complete IoU loss: DIoU + alpha v, v = 4/pi^2 (atan(wt/ht) - atan(w/h))^2, alpha = v / (1 - IoU + v) (eq. 5).

    The arguments are those of `iou_loss`. As in the original code, the gradient treats alpha as a constant.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, eq. 8-11.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.ciou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.7629)
    """
    pred, target = promoted(pred, target)
    return _reduced(_losses("ciou", pred, target, fmt, eps)[0], None, reduction, pred.dtype, weight)


def eiou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Efficient IoU loss: 1 - IoU + rho^2(centres) / (wc^2 + hc^2) + (w - wt)^2 / wc^2 + (h - ht)^2 / hc^2 (eq. 7).

    The arguments are those of `iou_loss`.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.eiou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(1.2292)
    """
    pred, target = promoted(pred, target)
    return _reduced(_losses("eiou", pred, target, fmt, eps)[0], None, reduction, pred.dtype, weight)


def focal_eiou_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    gamma: float = 0.5,
    fmt: str = "xyxy",
    reduction: str = "mean",
    detach_weight: bool = True,
    eps: float = 1e-7,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Focal-EIoU loss: IoU^gamma EIoU (eq. 10).

    Args:
        pred, target, fmt, eps, weight: as `iou_loss`.
        gamma: at least 0.
        reduction: also "weighted", the sum divided by the sum of IoU^gamma (eq. 11), or of w IoU^gamma; 0 where no
            boxes overlap.
        detach_weight: IoU^gamma is a constant of the gradient.

    Returns:
        The loss in the dtype that both promote to.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.focal_eiou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.7097)
    """
    pred, target = promoted(pred, target)
    losses, iou = _losses("eiou", pred, target, fmt, eps)
    weights = _weights(iou.detach() if detach_weight else iou, gamma)
    return _reduced(weights * losses, weights, reduction, pred.dtype, weight)


def focal_l1_loss(pred: torch.Tensor, target: torch.Tensor, beta: float = 0.8, reduction: str = "mean") -> torch.Tensor:
    """FocalL1 loss, elementwise (eq. 8 and its integral).

    With x = |pred - target| and alpha = e beta it is -alpha x^2 (2 ln(beta x) - 1) / 4 for x <= 1, and
    -alpha ln(beta) x + alpha (2 ln(beta) + 1) / 4 for x > 1.

    Args:
        pred: tensor of any shape and dtype.
        target: tensor of a dtype and shape that promote and broadcast with those of `pred`.
        beta: between 1/e and 1. A larger beta gives outliers less weight.
        reduction: "none", "mean" (of no values 0) or "sum".

    Returns:
        The loss in the dtype that both promote to.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.focal_l1_loss(torch.tensor([0.0, 0.5, 2.0]), torch.zeros(3), reduction="none")
        tensor([0.0000, 0.3850, 1.2715])
    """
    pred, target = promoted(pred, target, trailing=0)
    alpha, log_beta = math.e * beta, math.log(beta)
    x = (opmath(pred) - opmath(target)).abs()
    zero = x == 0
    near = x.masked_fill(zero | (x > 1), 1.0)  # ln(x) and its gradient stay finite
    inner = (-alpha * near**2 * (2 * (log_beta + near.log()) - 1) / 4).masked_fill(zero, 0.0)
    outer = -alpha * log_beta * x + alpha * (2 * log_beta + 1) / 4
    return _reduced(torch.where(x > 1, outer, inner), None, reduction, pred.dtype)


# ---- the schemas ---------------------------------------------------------------------------------------------


def _box_loss(
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
    leaves = [opmath(boxes.detach().contiguous()).requires_grad_() for boxes in (pred, target)]
    with torch.enable_grad():
        losses, iou = _losses(kind.removeprefix("focal_"), *leaves, fmt, eps)
        weights = None
        if kind == "focal_eiou":
            weights = _weights(iou.detach() if detach_weight else iou, gamma)
            losses = weights * losses
        results = [_reduced(losses, weights, reduction, pred.dtype).detach()]
        if pred_grad or target_grad:
            divisor = torch.as_tensor(_divisor(losses, weights, reduction)).to(losses).detach()
            total = losses.sum()
            if reduction == "weighted":  # d (sum / divisor) = (d sum - sum / divisor d divisor) / divisor
                total = total - (total / divisor).detach() * weights.sum()
            wanted = [boxes for boxes, is_wanted in zip(leaves, (pred_grad, target_grad), strict=True) if is_wanted]
            results += [divisor, *torch.autograd.grad(total, wanted)]
    return results


def _scale(grad: torch.Tensor, divisor: torch.Tensor, grads: list[torch.Tensor]) -> list[torch.Tensor]:
    factor = opmath(grad) / divisor
    return [(saved * (factor[..., None] if grad.dim() else factor)).to(grad.dtype).contiguous() for saved in grads]


def _focal_l1(pred: torch.Tensor, target: torch.Tensor, beta: float = 0.8, reduction: str = "mean") -> torch.Tensor:
    loss = focal_l1_loss(pred, target, beta, reduction)
    return torch.empty_like(pred).copy_(loss) if reduction == "none" else loss


def _focal_l1_backward(
    grad: torch.Tensor, pred: torch.Tensor, target: torch.Tensor, beta: float, reduction: str
) -> torch.Tensor:
    leaf = pred.detach().requires_grad_()
    with torch.enable_grad():
        loss = focal_l1_loss(leaf, target, beta, reduction)
    return torch.empty_like(pred).copy_(torch.autograd.grad(loss, leaf, grad.reshape(loss.shape))[0])


OPS = {
    "box_loss": _box_loss,
    "box_loss_backward_scale": _scale,
    "focal_l1_loss": _focal_l1,
    "focal_l1_loss_backward": _focal_l1_backward,
}
