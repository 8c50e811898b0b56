"""Box regression losses: public functions, fake kernels, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._checks import (
    check,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_same_shape,
    dtype_name,
)
from fastops.ops._register import reference_vjp, register_autocast, to_front
from fastops.ops._transforms import in_transform
from fastops.reference.box_loss import promoted

_box_loss = torch.ops.fastops.box_loss.default
_scale = torch.ops.fastops.box_loss_backward_scale.default
_focal_l1 = torch.ops.fastops.focal_l1_loss.default
_focal_l1_backward = torch.ops.fastops.focal_l1_loss_backward.default


def iou_loss(
    pred: Tensor,
    target: Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""IoU loss, and its gradients ready, in one pass over the boxes.

    $$
    L = 1 - \mathrm{IoU}, \quad \mathrm{IoU} = \frac{|A \cap B|}{|A \cup B|}
    $$

    Args:
        pred: boxes [..., 4]; float32, float64, float16 or bfloat16 (half types compute in float32).
        target: boxes on the device of `pred`. Dtypes promote and shapes broadcast, as in torchvision's losses, so it
            may hold float64 from NumPy, integers or a single box [1, 4].
        fmt: "xyxy" (first and last corner), "xywh" (first corner and sides) or "cxcywh" (centre and sides).
        reduction: "none" gives the losses [...], "mean" and "sum" a scalar; the mean of no boxes is 0.
        eps: in the unit of the boxes, at least 1e-15. Sides below it, negative ones of inverted boxes among them, count
            as `eps` about the same centre; larger boxes are not touched by it.
        weight: a factor $w \ge 0$ for each box, such as a centerness or a mask, on the device of `pred`; of any real
            dtype, and of a shape that broadcasts to the losses [...]. "none" gives $w L$ and "sum" $\sum w L$. "mean"
            gives the weighted mean $\sum w L / \sum w$, as `torch.nn.functional.cross_entropy` does; it is 0 where all
            weights are. For a mean over the number of boxes divide the sum by it.

    Returns:
        The loss, in the dtype that `pred` and `target` promote to.

    Raises:
        RuntimeError: `iou_loss: <argument> must ...` for other shapes, dtypes, devices or options.

    The loss is differentiable any number of times in `pred` and `target`. The forward pass computes the gradient of
    each tensor that needs one and keeps it in float32 or float64. The backward pass only scales it.

    Weights multiply the losses of the boxes after the same pass, in float32 or wider. They are differentiable too:
    detach a predicted weight that shall be a constant of the gradient.

    Works under `torch.compile(fullgraph=True)`, `torch.autocast` (in float32) and `torch.vmap`; in forward mode
    and under `torch.func.grad` it runs as [`fastops.reference`][] does.

    Source: Yu et al., "UnitBox: An Advanced Object Detection Network", 2016; "Focal and efficient IOU loss for accurate
    bounding box regression", eq. 3.

    Examples:

        >>> import torch, fastops
        >>> fastops.iou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.5000)
    """
    return _loss(pred, target, weight, "iou", fmt, reduction, 0.0, True, eps)


def giou_loss(
    pred: Tensor,
    target: Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Generalized IoU loss, and its gradients ready, in one pass over the boxes.

    $$
    L = 1 - \mathrm{IoU} + \frac{|C \setminus (A \cup B)|}{|C|}, \quad C \text{ the smallest box around both}
    $$

    Arguments, results, errors and numerics are those of [`iou_loss`][fastops.iou_loss].

    Source: Rezatofighi et al., "Generalized Intersection over Union", 2019; "Focal and efficient IOU loss for accurate
    bounding box regression", eq. 4.

    Examples:

        >>> import torch, fastops
        >>> fastops.giou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
        tensor(1.3333)
    """
    return _loss(pred, target, weight, "giou", fmt, reduction, 0.0, True, eps)


def diou_loss(
    pred: Tensor,
    target: Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Distance IoU loss, and its gradients ready, in one pass over the boxes.

    $$
    L = 1 - \mathrm{IoU} + \frac{\rho^2(b, b_t)}{w_c^2 + h_c^2}, \quad
    b, b_t \text{ the centres, } w_c, h_c \text{ the sides of the smallest box around both}
    $$

    Arguments, results, errors and numerics are those of [`iou_loss`][fastops.iou_loss].

    Source: Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", 2020, eq. 7.

    Examples:

        >>> import torch, fastops
        >>> fastops.diou_loss(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
        tensor(1.4000)
    """
    return _loss(pred, target, weight, "diou", fmt, reduction, 0.0, True, eps)


def ciou_loss(
    pred: Tensor,
    target: Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Complete IoU loss, and its gradients ready, in one pass over the boxes.

    $$
    L = L_{DIoU} + \alpha v, \quad
    v = \frac{4}{\pi^2} \left(\arctan\frac{w_t}{h_t} - \arctan\frac{w}{h}\right)^2, \quad
    \alpha = \frac{v}{1 - \mathrm{IoU} + v}
    $$

    Arguments, results, errors and numerics are those of [`iou_loss`][fastops.iou_loss]. As in the original code, the
    gradient treats `alpha` as a constant. The gradient of v is exact. (Some implementations multiply it by w^2 + h^2.)

    Source: Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression", 2020, eq. 8-11;
    "Focal and efficient IOU loss for accurate bounding box regression", eq. 5-6.

    Examples:

        >>> import torch, fastops
        >>> fastops.ciou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.7629)
    """
    return _loss(pred, target, weight, "ciou", fmt, reduction, 0.0, True, eps)


def eiou_loss(
    pred: Tensor,
    target: Tensor,
    fmt: str = "xyxy",
    reduction: str = "mean",
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Efficient IoU loss, and its gradients ready, in one pass over the boxes.

    $$
    L = 1 - \mathrm{IoU} + \frac{\rho^2(b, b_t)}{w_c^2 + h_c^2} + \frac{(w - w_t)^2}{w_c^2}
    + \frac{(h - h_t)^2}{h_c^2}
    $$

    Arguments, results, errors and numerics are those of [`iou_loss`][fastops.iou_loss].

    This is eq. 7 of the paper. Other code under the same name computes the *Extended* IoU loss (Peng and Yu 2021), a
    smoothed IoU, or does not divide the differences of the sides by the sides of the smallest box around both.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022, eq. 7.

    Examples:

        >>> import torch, fastops
        >>> fastops.eiou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(1.2292)
    """
    return _loss(pred, target, weight, "eiou", fmt, reduction, 0.0, True, eps)


def focal_eiou_loss(
    pred: Tensor,
    target: Tensor,
    gamma: float = 0.5,
    fmt: str = "xyxy",
    reduction: str = "mean",
    detach_weight: bool = True,
    eps: float = 1e-7,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Focal-EIoU loss. One pass over the boxes computes the loss and its gradients.

    $$
    L = \mathrm{IoU}^\gamma \, L_{EIoU}
    $$

    Args:
        pred, target, fmt, eps: as [`iou_loss`][fastops.iou_loss].
        gamma: at least 0; the larger, the less boxes of little overlap count. 0.5, the default, costs the least.
        reduction: "none", "mean", "sum" or "weighted", the sum divided by the sum of $\mathrm{IoU}^\gamma$
            (eq. 11; 0 where no boxes overlap).
        detach_weight: take $\mathrm{IoU}^\gamma$, as a weight, for a constant of the gradient. Else it has its
            own gradient, which grows without bound as the IoU goes to 0, and is taken as 0 at IoU = 0.
        weight: as [`iou_loss`][fastops.iou_loss], beside $\mathrm{IoU}^\gamma$; "weighted" gives
            $\sum w \, \mathrm{IoU}^\gamma L_{EIoU} / \sum w \, \mathrm{IoU}^\gamma$.

    Results, errors and numerics are those of [`iou_loss`][fastops.iou_loss].

    The weight is that of eq. 10, which is large for good boxes. Some implementations use the opposite weight,
    $(1 - \mathrm{IoU})^\gamma$. Others include the weight's gradient: the loss then rewards *less* overlap for boxes
    of small overlap, and is NaN for boxes without overlap.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022, eq. 10-11.

    Examples:

        >>> import torch, fastops
        >>> fastops.focal_eiou_loss(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0]]))
        tensor(0.7097)
    """
    return _loss(pred, target, weight, "focal_eiou", fmt, reduction, gamma, detach_weight, eps)


def focal_l1_loss(pred: Tensor, target: Tensor, beta: float = 0.8, reduction: str = "mean") -> Tensor:
    r"""FocalL1 loss, elementwise, in one pass. Its gradients are bounded for outliers.

    $$
    L(x) = \begin{cases}
    -\alpha x^2 (2 \ln(\beta x) - 1) / 4 & x \le 1 \\
    -\alpha \ln(\beta) \, x + \alpha (2 \ln \beta + 1) / 4 & x > 1
    \end{cases}, \quad x = |p - t|, \quad \alpha = e \beta
    $$

    Args:
        pred: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).
        target: on the device of `pred`. Dtypes promote and shapes broadcast.
        beta: between 1/e and 1. A larger beta gives outliers less weight.
        reduction: "none" gives the losses in the shape of `pred`, "mean" and "sum" a scalar. The mean of no values is
            0.

    Returns:
        The loss, in the dtype that `pred` and `target` promote to.

    Raises:
        RuntimeError: `focal_l1_loss: <argument> must ...` for other shapes, dtypes, devices or options.

    The loss is differentiable any number of times in `pred` and `target`. Only these two are saved, and the backward
    pass recomputes the rest. The first case is the integral of the gradient of eq. 8; the printed eq. 9 has
    $2 \alpha^2$ in place of $\alpha x^2$. Works under `torch.compile(fullgraph=True)`, `torch.autocast` (in float32)
    and `torch.vmap`.

    Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022, eq. 8-9.

    Examples:

        >>> import torch, fastops
        >>> fastops.focal_l1_loss(torch.tensor([0.0, 0.5, 2.0]), torch.zeros(3), reduction="none")
        tensor([0.0000, 0.3850, 1.2715])
    """
    if in_transform():
        return reference.focal_l1_loss(pred, target, beta, reduction)
    pred, target = promoted(pred, target, trailing=0)
    return _focal_l1(pred, target, beta, reduction)


# ---- fake kernels and checks ---------------------------------------------------------------------------------

_PENALTIES = ("iou", "giou", "diou", "ciou", "eiou", "focal_eiou")


def _opmath(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _check_target(op: str, pred: Tensor, target: Tensor) -> None:
    check_same_dtype(op, "target", target, "pred", pred)
    check_same_device(op, "target", target, "pred", pred)
    check_same_shape(op, "target", target, "pred", pred)


def _check_reduction(op: str, reduction: str, weighted: bool = False) -> None:
    known = ("none", "mean", "sum", "weighted") if weighted else ("none", "mean", "sum")
    names = f"{', '.join(known[:-1])} or {known[-1]}"
    check(reduction in known, f"{op}: reduction must be {names}, got {reduction}")


def _check_box_loss(
    pred: Tensor,
    target: Tensor,
    kind: str,
    fmt: str,
    reduction: str,
    gamma: float,
    detach_weight: bool,
    eps: float,
    pred_grad: bool,
    target_grad: bool,
) -> None:
    check(kind in _PENALTIES, f"box_loss: kind must be {', '.join(_PENALTIES[:-1])} or {_PENALTIES[-1]}, got {kind}")
    op = f"{kind}_loss"
    check_floating(op, "pred", pred)
    check(pred.dim() >= 1 and pred.shape[-1] == 4, f"{op}: pred must have shape [..., 4], got {list(pred.shape)}")
    _check_target(op, pred, target)
    check(fmt in ("xyxy", "xywh", "cxcywh"), f"{op}: fmt must be xyxy, xywh or cxcywh, got {fmt}")
    focal = kind == "focal_eiou"
    _check_reduction(op, reduction, weighted=focal)
    if focal:
        check(0 <= gamma < math.inf, f"{op}: gamma must be finite and not negative, got {gamma:g}")
    check(1e-15 <= eps < math.inf, f"{op}: eps must be finite and at least 1e-15, got {eps:g}")


def _check_scale(grad: Tensor, divisor: Tensor, grads: Sequence[Tensor]) -> None:
    op = "box_loss_backward_scale"
    check_floating(op, "grad", grad)
    wanted = dtype_name(_opmath(grad))
    got = dtype_name(divisor.dtype)
    check(got == wanted, f"{op}: divisor must have dtype {wanted}, got {got}")
    check(divisor.numel() == 1, f"{op}: divisor must have one element, got {list(divisor.shape)}")
    check_same_device(op, "divisor", divisor, "grad", grad)
    for saved in grads:
        got = dtype_name(saved.dtype)
        check(got == wanted, f"{op}: grads must have dtype {wanted}, got {got}")
        check_same_device(op, "grads", saved, "grad", grad)
        fits = saved.dim() >= 1 and saved.shape[-1] == 4 and (grad.dim() == 0 or grad.shape == saved.shape[:-1])
        shapes = f"{list(grad.shape)}, got {list(saved.shape)}"
        check(fits, f"{op}: grads must have shape [..., 4] for grad {shapes}")


def _check_focal_l1(pred: Tensor, target: Tensor, beta: float, reduction: str, op: str = "focal_l1_loss") -> None:
    check_floating(op, "pred", pred)
    _check_target(op, pred, target)
    check(math.exp(-1) <= beta <= 1, f"{op}: beta must be between 1/e and 1, got {beta:g}")
    _check_reduction(op, reduction)


def _check_focal_l1_backward(grad: Tensor, pred: Tensor, target: Tensor, beta: float, reduction: str) -> None:
    op = "focal_l1_loss_backward"
    _check_focal_l1(pred, target, beta, reduction, op)
    check_same_dtype(op, "grad", grad, "pred", pred)
    check_same_device(op, "grad", grad, "pred", pred)
    if reduction == "none":
        check_same_shape(op, "grad", grad, "pred", pred)
    else:
        check(grad.numel() == 1, f"{op}: grad must have one element, got {list(grad.shape)}")


#: The checks of csrc/common/box_loss.h, by schema.
CHECKS = {
    "box_loss": _check_box_loss,
    "box_loss_backward_scale": _check_scale,
    "focal_l1_loss": _check_focal_l1,
    "focal_l1_loss_backward": _check_focal_l1_backward,
}


@torch.library.register_fake("fastops::box_loss")
def _(pred, target, kind, fmt, reduction, gamma, detach_weight, eps, pred_grad, target_grad):
    CHECKS["box_loss"](pred, target, kind, fmt, reduction, gamma, detach_weight, eps, pred_grad, target_grad)
    results = [pred.new_empty(pred.shape[:-1] if reduction == "none" else ())]
    if pred_grad or target_grad:
        results.append(pred.new_empty((), dtype=_opmath(pred)))
        results += [pred.new_empty(pred.shape, dtype=_opmath(pred)) for _ in range(pred_grad + target_grad)]
    return results


@torch.library.register_fake("fastops::box_loss_backward_scale")
def _(grad, divisor, grads):
    CHECKS["box_loss_backward_scale"](grad, divisor, grads)
    return [grad.new_empty(saved.shape) for saved in grads]


@torch.library.register_fake("fastops::focal_l1_loss")
def _(pred, target, beta=0.8, reduction="mean"):
    CHECKS["focal_l1_loss"](pred, target, beta, reduction)
    return torch.empty_like(pred) if reduction == "none" else pred.new_empty(())


@torch.library.register_fake("fastops::focal_l1_loss_backward")
def _(grad, pred, target, beta, reduction):
    CHECKS["focal_l1_loss_backward"](grad, pred, target, beta, reduction)
    return torch.empty_like(pred)


# ---- gradients, autocast, vmap -------------------------------------------------------------------------------


class _BoxLoss(torch.autograd.Function):
    """Autograd for box_loss, whose forward pass has computed the gradients already.

    A gradient that torch.library registers has more overhead, which counts for few boxes. (Forward and backward of mish
    with 16 values: 45 us with torch.library, 29 us with an autograd.Function.)
    """

    @staticmethod
    def forward(ctx, pred, target, kind, fmt, reduction, gamma, detach_weight, eps, widened):
        pred_grad, target_grad = ctx.needs_input_grad[:2]
        boxes = (_widened(pred), _widened(target)) if widened else (pred, target)
        loss, divisor, *grads = _box_loss(
            *boxes, kind, fmt, reduction, gamma, detach_weight, eps, pred_grad, target_grad
        )
        ctx.save_for_backward(pred, target, divisor, *grads)
        ctx.settings = kind, fmt, reduction, gamma, detach_weight, eps
        return loss

    @staticmethod
    def backward(ctx, grad):
        pred, target, divisor, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():

            def again(pred, target, *settings):
                return _reference(_widened(pred), _widened(target), None, *settings).to(grad.dtype)

            grads = reference_vjp(again, (pred, target, *ctx.settings), grad)[:2]
        else:
            # A float16 gradient beyond 65504 becomes 65504, not infinity.
            wide = grad.float() if grad.dtype == torch.float16 else grad
            scaled = (_saturated(t, pred.dtype) for t in _scale(wide, divisor, saved))
            grads = [next(scaled) if wanted else None for wanted in ctx.needs_input_grad[:2]]
        return *grads, None, None, None, None, None, None, None


def _widened(t: Tensor) -> Tensor:
    """float16 and bfloat16 as float32."""
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _saturated(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert `t` to `dtype`. Finite values stay finite."""
    if t.dtype == dtype:
        return t
    limit = torch.finfo(dtype).max
    return torch.where(t.isfinite(), t.clamp(-limit, limit), t).to(dtype)


def _plain(pred, target, *settings) -> Tensor:
    return _box_loss(pred, target, *settings, False, False)[0]


def _loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: str,
    fmt: str,
    reduction: str,
    gamma: float,
    detach_weight: bool,
    eps: float,
) -> Tensor:
    pred, target = promoted(pred, target)
    settings = kind, fmt, reduction, gamma, detach_weight, eps
    if weight is not None:
        _check_weight(f"{kind}_loss", weight, pred)
    if in_transform():
        return _reference(pred, target, weight, *settings)
    return _fused(pred, target, *settings) if weight is None else _weighted(pred, target, weight, *settings)


def _fused(pred: Tensor, target: Tensor, *settings, widened: bool = False) -> Tensor:
    """The op with its gradients where they are wanted; `widened`: of half types in float32, its result too."""
    if torch.is_grad_enabled() and (pred.requires_grad or target.requires_grad):
        return _BoxLoss.apply(pred, target, *settings, widened)
    return _plain(_widened(pred), _widened(target), *settings) if widened else _plain(pred, target, *settings)


def _weighted(
    pred: Tensor,
    target: Tensor,
    weight: Tensor,
    kind: str,
    fmt: str,
    reduction: str,
    gamma: float,
    detach_weight: bool,
    eps: float,
) -> Tensor:
    """Outside weights, around the losses of the boxes."""
    focal = kind == "focal_eiou"
    _check_reduction(f"{kind}_loss", reduction, weighted=focal)
    if reduction == "weighted" and not detach_weight:  # IoU^gamma beside its own gradient: no op gives it
        return _reference(pred, target, weight, kind, fmt, reduction, gamma, detach_weight, eps)
    losses = _fused(pred, target, kind, fmt, "none", gamma, detach_weight, eps, widened=True)
    dtype = losses.dtype if torch.is_autocast_enabled(pred.device.type) else pred.dtype
    weight = weight.to(losses.dtype).expand(losses.shape)
    result = weight * losses
    if reduction != "none":
        result = _sum(result)
    if reduction == "weighted":
        # A quotient of two losses: 1 - (1 - IoU) would lose the digits of a small IoU. Equal boxes have the IoU 1.
        plain = _plain(_widened(pred.detach()), _widened(target.detach()), "eiou", fmt, "none", 0.0, True, eps)
        weight = weight * torch.where(plain > 0, losses.detach() / plain, 1.0)
    if reduction in ("mean", "weighted"):
        divisor = _sum(weight)
        result = result / (divisor + (divisor == 0))
    return result.to(dtype)


def _sum(values: Tensor, row: int = 4096) -> Tensor:
    """The sum, whatever the number of threads: torch shares out a single long sum, but not that of a row."""
    values = values.flatten()
    if values.numel() > row:
        values = torch.nn.functional.pad(values, (0, -values.numel() % row)).view(-1, row).sum(1)
    return values.sum()


def _check_weight(op: str, weight: Tensor, pred: Tensor) -> None:
    got = type(weight).__name__
    check(isinstance(weight, Tensor), f"{op}: weight must be a tensor, got {got}")
    check(not weight.dtype.is_complex, f"{op}: weight must have a real dtype, got {dtype_name(weight.dtype)}")
    check_same_device(op, "weight", weight, "pred", pred)
    shape, wanted = weight.shape, pred.shape[:-1]
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    fits = len(shape) <= len(wanted) and all(n in (1, m) for n, m in pairs)
    check(fits, f"{op}: weight must broadcast to the losses {list(wanted)}, got {list(shape)}")


def _reference(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kind: str,
    fmt: str,
    reduction: str,
    gamma: float,
    detach_weight: bool,
    eps: float,
) -> Tensor:
    if kind == "focal_eiou":
        return reference.focal_eiou_loss(pred, target, gamma, fmt, reduction, detach_weight, eps, weight)
    return getattr(reference, f"{kind}_loss")(pred, target, fmt, reduction, eps, weight)


# The op itself has no gradient; _BoxLoss has it.
_library = torch.library.Library("fastops", "IMPL")  # kept alive with the process
_library.impl("box_loss", torch.library.fallthrough_kernel, "Autograd")


def _save_focal_l1(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _focal_l1_gradients(ctx, grad):
    inputs = ctx.saved_tensors
    if torch.is_grad_enabled():
        return reference_vjp(reference.focal_l1_loss, (*inputs, *ctx.settings), grad)
    grad_pred = _focal_l1_backward(grad, *inputs, *ctx.settings)
    return grad_pred, -grad_pred if ctx.needs_input_grad[1] else None, None, None


torch.library.register_autograd("fastops::focal_l1_loss", _focal_l1_gradients, setup_context=_save_focal_l1)
register_autocast("box_loss", "float32")
register_autocast("focal_l1_loss", "float32")


@torch.library.register_vmap("fastops::box_loss")
def _(info, in_dims, pred, target, kind, fmt, reduction, gamma, detach_weight, eps, pred_grad, target_grad):
    pred, target = (to_front(t, dim, info.batch_size) for t, dim in zip((pred, target), in_dims, strict=False))
    settings = kind, fmt, reduction, gamma, detach_weight, eps
    # A tensor under vmap does not tell that it requires grad; here it does, but torch allows no _BoxLoss.
    differentiable = torch.is_grad_enabled() and (pred.requires_grad or target.requires_grad)

    def run(pred, target):
        return _reference(pred, target, None, *settings) if differentiable else _plain(pred, target, *settings)

    if reduction == "none":
        return [run(pred, target)], [0]
    return [torch.stack([run(p, t) for p, t in zip(pred, target, strict=True)])], [0]


@torch.library.register_vmap("fastops::focal_l1_loss")
def _(info, in_dims, pred, target, beta=0.8, reduction="mean"):
    pred, target = (to_front(t, dim, info.batch_size) for t, dim in zip((pred, target), in_dims, strict=False))
    if reduction == "none":
        return _focal_l1(pred, target, beta, reduction), 0
    return torch.stack([_focal_l1(p, t, beta, reduction) for p, t in zip(pred, target, strict=True)]), 0
