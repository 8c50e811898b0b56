"""Box losses: values from exact arithmetic, properties of all kinds of boxes, what is kept for the backward, errors."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastops
from fastops import reference
from fastops._backends import implementation
from tests.support.op_samples import OPS, cases

ops = torch.ops.fastops
KINDS = ("iou", "giou", "diou", "ciou", "eiou", "focal_eiou")
FORMATS = ("xyxy", "xywh", "cxcywh")
EPS = 1e-7
#: The same ones in every run.
examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_format = pytest.mark.parametrize("fmt", FORMATS)


def loss_of(kind: str, pred: Tensor, target: Tensor, **options) -> Tensor:
    return getattr(fastops, f"{kind}_loss")(pred, target, **options)


def with_gradients(kind: str, pred: Tensor, target: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of the boxes and the gradients of their sum."""
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    losses = loss_of(kind, pred, target, reduction="none", **options)
    return losses.detach(), *torch.autograd.grad(losses.sum(), (pred, target))


def formatted(corners: Tensor, fmt: str) -> Tensor:
    first, sides = corners[..., :2], corners[..., 2:] - corners[..., :2]
    last = {"xyxy": corners[..., 2:], "xywh": sides, "cxcywh": sides}[fmt]
    return torch.cat((first + sides / 2 if fmt == "cxcywh" else first, last), -1)


# ---- values --------------------------------------------------------------------------------------------------

Box = list[Fraction]  # x1, y1, x2, y2


def exact_corners(numbers: list[float], fmt: str) -> Box:
    """The box in exact arithmetic, its sides at least EPS."""
    a, b, c, d = map(Fraction, numbers)
    if fmt == "xyxy":
        centre, sides = ((a + c) / 2, (b + d) / 2), (c - a, d - b)
    else:
        centre, sides = ((a + c / 2, b + d / 2) if fmt == "xywh" else (a, b)), (c, d)
    w, h = (max(side, Fraction(EPS)) for side in sides)
    return [centre[0] - w / 2, centre[1] - h / 2, centre[0] + w / 2, centre[1] + h / 2]


def exact_loss(kind: str, a: Box, b: Box) -> float:
    """By cutting the plane along all edges and counting cells; only the arc tangents are rounded."""
    xs, ys = sorted({a[0], a[2], b[0], b[2]}), sorted({a[1], a[3], b[1], b[3]})
    both = either = Fraction(0)
    for x0, x1 in zip(xs, xs[1:], strict=False):
        for y0, y1 in zip(ys, ys[1:], strict=False):
            held = [box[0] <= x0 and x1 <= box[2] and box[1] <= y0 and y1 <= box[3] for box in (a, b)]
            both += all(held) * (x1 - x0) * (y1 - y0)
            either += any(held) * (x1 - x0) * (y1 - y0)
    iou, loss = both / either, 1 - both / either
    width, height = xs[-1] - xs[0], ys[-1] - ys[0]
    if kind == "giou":
        loss += 1 - either / (width * height)
    elif kind != "iou":
        loss += sum((a[i] + a[i + 2] - b[i] - b[i + 2]) ** 2 for i in (0, 1)) / (4 * (width**2 + height**2))
    (w, h), (wt, ht) = ((box[2] - box[0], box[3] - box[1]) for box in (a, b))
    if kind == "ciou":
        v = 4 / math.pi**2 * math.atan((wt * h - w * ht) / (ht * h + wt * w)) ** 2  # the tangent of the difference
        loss += Fraction(v**2 / (float(1 - iou) + v) if v else 0.0)
    elif "eiou" in kind:
        loss += (w - wt) ** 2 / width**2 + (h - ht) ** 2 / height**2
    return float(loss) * (float(iou) ** 0.5 if kind == "focal_eiou" else 1.0)


def exact_losses(kind: str, pred: Tensor, target: Tensor, fmt: str) -> Tensor:
    pairs = zip(pred.tolist(), target.tolist(), strict=True)
    values = [exact_loss(kind, exact_corners(p, fmt), exact_corners(t, fmt)) for p, t in pairs]
    return torch.tensor(values, dtype=torch.float64)


def coordinates(*magnitudes: float) -> st.SearchStrategy[float]:
    """0, and numbers up to each magnitude, that float32 holds."""
    return st.one_of(st.just(0.0), *(st.floats(-m, m, width=32, allow_subnormal=False) for m in magnitudes))


def pairs_of_boxes(*magnitudes: float) -> st.SearchStrategy[list[tuple[tuple, tuple]]]:
    """Boxes by any four numbers, and the same or one number changed for target: zero sides and inverted boxes come up,
    and edges that coincide."""
    box = st.tuples(*[coordinates(*magnitudes)] * 4)
    changed = st.builds(lambda b, i, v: (b, (*b[:i], v, *b[i + 1 :])), box, st.integers(0, 3), coordinates(*magnitudes))
    return st.lists(st.one_of(st.tuples(box, box), st.builds(lambda b: (b, b), box), changed), min_size=1, max_size=12)


ANY_BOXES = pairs_of_boxes(1.0, 100.0, 1e6, float(torch.tensor(1e-6)))


def as_tensors(pairs, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(boxes, dtype=dtype) for boxes in zip(*pairs, strict=True))


@each_kind
@each_format
@examples
@given(pairs=ANY_BOXES)
def test_values_are_those_of_exact_arithmetic(kind, fmt, pairs):
    pred, target = as_tensors(pairs, torch.float64)
    expected = exact_losses(kind, pred, target, fmt)
    actual = loss_of(kind, pred, target, fmt=fmt, reduction="none")
    # Where a side becomes eps the overlap has a rounding error of the other side, an IoU of up to 1e-15 (in
    # float32 1e-7), and the weight its root.
    focal = kind == "focal_eiou"
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7 if focal else 1e-12)
    actual = loss_of(kind, pred.float(), target.float(), fmt=fmt, reduction="none")
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-3 if focal else 1e-5)


@each_kind
@each_format
def test_tiny_boxes_far_out_keep_their_digits(kind, fmt, device):
    """Sides of 1e-6 at 1e6, in float32: the formats with sides hold them."""
    size = 1e-6 if fmt != "xyxy" else 1.0
    pred = torch.tensor([[1e6, -1e6, size, 2 * size], [1e6, -1e6, 3 * size, size]])
    target = torch.tensor([[1e6, -1e6, 1.5 * size, size], [1e6, -1e6, 3 * size, 1.00001 * size]])
    if fmt == "xyxy":
        pred, target = (torch.cat((b[:, :2], b[:, :2] + b[:, 2:]), 1) for b in (pred, target))
    expected = exact_losses(kind, pred, target, fmt)
    actual = loss_of(kind, pred.to(device), target.to(device), fmt=fmt, reduction="none")
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=2e-6, atol=0)


@each_kind
def test_nearly_equal_boxes_keep_their_digits(kind, device):
    """1 - IoU of 2^-20 is computed, not what is left of 1."""
    target = torch.tensor([[3.0, 5.0, 7.0, 8.0]])
    pred = target * (1 + 2.0**-20)
    expected = exact_losses(kind, pred, target, "xyxy")
    actual = loss_of(kind, pred.to(device), target.to(device), reduction="none")
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=2e-6, atol=0)


# ---- all kinds of boxes --------------------------------------------------------------------------------------

BOUNDS = {"iou": 1, "giou": 2, "diou": 2, "ciou": 3, "eiou": 4, "focal_eiou": 4}


@each_kind
@each_format
@examples
@given(pairs=st.one_of(ANY_BOXES, pairs_of_boxes(float(torch.tensor(1e18)))))
def test_losses_and_gradients_are_finite(kind, fmt, pairs):
    pred, target = as_tensors(pairs)
    for options in ({}, {"detach_weight": False}) if kind == "focal_eiou" else ({},):
        losses, *grads = with_gradients(kind, pred, target, fmt=fmt, **options)
        assert (losses >= 0).all() and (losses <= BOUNDS[kind] * (1 + 1e-6)).all()
        assert all(grad.isfinite().all() for grad in grads)


@each_kind
@each_format
@examples
@given(pairs=st.one_of(ANY_BOXES, pairs_of_boxes(float(torch.tensor(1e18)))))
def test_loss_and_gradient_of_equal_boxes_are_0(kind, fmt, pairs):
    boxes, _ = as_tensors(pairs)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        same = boxes.to(dtype)
        if same.isfinite().all():
            for result in with_gradients(kind, same, same, fmt=fmt):
                assert torch.equal(result, torch.zeros_like(result))


@each_kind
@examples
@given(boxes=st.lists(st.integers(-64, 64), min_size=16, max_size=16), power=st.integers(-10, 10))
def test_losses_do_not_depend_on_the_unit(kind, boxes, power):
    """Powers of two change no rounding: the loss is the same, the gradient the inverse."""
    pred, target = torch.tensor(boxes).reshape(2, 2, 4) / 8
    unit, eps = 2.0**power, 2.0**-20
    losses, *grads = with_gradients(kind, pred, target, eps=eps)
    scaled, *scaled_grads = with_gradients(kind, pred * unit, target * unit, eps=eps * unit)
    assert torch.equal(losses, scaled)
    for grad, scaled_grad in zip(grads, scaled_grads, strict=True):
        assert torch.equal(grad, scaled_grad * unit)


@each_kind
def test_pred_and_target_are_alike(kind, device):
    pred, target, *_ = OPS[f"{kind}_loss"].make("two_blocks", torch.float64, device)
    losses, *grads = with_gradients(kind, pred, target)
    exchanged, *exchanged_grads = with_gradients(kind, target, pred)
    torch.testing.assert_close(losses, exchanged)
    for grad, other in zip(grads, reversed(exchanged_grads), strict=True):
        torch.testing.assert_close(grad, other)


@each_kind
@pytest.mark.parametrize("fmt", FORMATS[1:])
def test_formats_agree(kind, fmt, device):
    """Also the gradients, by the chain rule."""
    pred, target, *_ = OPS[f"{kind}_loss"].make("two_blocks", torch.float64, device)
    pred.requires_grad_()
    results = []
    for name in ("xyxy", fmt):
        losses = loss_of(kind, formatted(pred, name), formatted(target, name), fmt=name, reduction="none")
        results.append((losses, *torch.autograd.grad(losses.sum(), pred)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pred", [[1.0, 1.0, 1.0, 2.0], [2.0, 1.0, 1.0, 2.0]], ids=["no width", "negative width"])
@each_kind
def test_a_collapsed_box_may_grow_again(kind, pred, device):
    """Descending the gradient moves the edges of a side below eps apart."""
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0]], device=device)
    live = {"detach_weight": False} if kind == "focal_eiou" else {}
    _, grad, _ = with_gradients(kind, torch.tensor([pred], device=device), target, **live)
    if kind == "focal_eiou":  # of nearly no overlap: the weight's own gradient prevails
        assert grad.isfinite().all() and grad.any()
    else:
        assert grad[0, 0] > grad[0, 2]


def test_eps_counts_for_smaller_sides_only(device):
    """A side of 1e-6 is itself, one of 0 is eps."""
    line = torch.tensor([[0.0, 0.0, 0.0, 1e-6]], device=device)
    target = torch.tensor([[0.0, 0.0, 1e-6, 1e-6]], device=device)
    torch.testing.assert_close(fastops.iou_loss(target, target * 2), torch.tensor(0.75, device=device))
    # x from -eps/2 to eps/2, half of it in the target
    expected = 1 - (EPS / 2) / (1e-6 + EPS / 2)
    torch.testing.assert_close(float(fastops.iou_loss(line, target)), expected, rtol=1e-5, atol=0)
    assert fastops.iou_loss(line, target, eps=1e-15) > 0.999


# ---- Focal-EIoU ----------------------------------------------------------------------------------------------


def ious(pred: Tensor, target: Tensor) -> Tensor:
    return 1 - fastops.iou_loss(pred, target, reduction="none")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.7, 2.0])
def test_weight_is_the_iou_to_the_power_of_gamma(gamma, device):
    pred, target, *_ = OPS["eiou_loss"].make("two_blocks", torch.float64, device)
    weight = ious(pred, target)[:, None] ** gamma
    losses, *grads = with_gradients("focal_eiou", pred, target, gamma=gamma)
    plain, *plain_grads = with_gradients("eiou", pred, target)
    torch.testing.assert_close(losses, weight[:, 0] * plain)
    for grad, plain_grad in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(grad, weight * plain_grad)


@pytest.mark.parametrize("detach_weight", [True, False])
def test_weighted_divides_by_the_sum_of_the_weights(detach_weight, device):
    """Eq. 11; with live weights the sum has its gradient too."""
    pred, target, *_ = OPS["eiou_loss"].make("two_blocks", torch.float64, device)
    pred.requires_grad_()
    actual = fastops.focal_eiou_loss(pred, target, reduction="weighted", detach_weight=detach_weight)
    meet = ious(pred, target) > 0  # the root of 0 has no gradient, nor has the weight
    assert meet.any() and not meet.all()
    weight = ious(pred[meet], target[meet]) ** 0.5
    plain = fastops.eiou_loss(pred[meet], target[meet], reduction="none")
    weight = weight.detach() if detach_weight else weight
    expected = (weight * plain).sum() / weight.sum()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, pred)[0] for loss in (actual, expected)))


def test_weighted_without_overlap_is_0(device):
    pred, target, *settings = OPS["focal_eiou_loss"].make("weighted_apart", torch.float32, device)
    pred.requires_grad_()
    loss = fastops.focal_eiou_loss(pred, target, *settings)
    assert loss == 0
    assert not torch.autograd.grad(loss, pred)[0].any()


# ---- outside weights -----------------------------------------------------------------------------------------


@each_kind
def test_weights_are_factors_of_the_losses_and_the_mean_is_theirs(kind, device):
    pred, target, *_ = OPS["eiou_loss"].make("two_blocks", torch.float64, device)
    weight = torch.linspace(0, 2, len(pred), dtype=torch.float64, device=device)
    each, *grads = with_gradients(kind, pred, target)
    torch.testing.assert_close(loss_of(kind, pred, target, reduction="none", weight=weight), weight * each)
    torch.testing.assert_close(loss_of(kind, pred, target, reduction="sum", weight=weight), (weight * each).sum())
    pred.requires_grad_()
    mean = loss_of(kind, pred, target, weight=weight)
    torch.testing.assert_close(mean, (weight * each).sum() / weight.sum())
    torch.testing.assert_close(torch.autograd.grad(mean, pred)[0], (weight / weight.sum())[:, None] * grads[0])


@each_kind
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64])
def test_weights_of_any_dtype_keep_that_of_the_boxes(kind, dtype, device):
    """A mask chooses boxes: the mean of those alone."""
    pred, target, *_ = OPS["eiou_loss"].make("two_blocks", torch.float32, device)
    mask = torch.arange(len(pred), device=device) % 3 == 0
    loss = loss_of(kind, pred, target, weight=mask.to(dtype))
    torch.testing.assert_close(loss, loss_of(kind, pred[mask], target[mask]))


@each_kind
def test_weights_that_are_all_0_give_0(kind, device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", torch.float32, device)
    pred.requires_grad_()
    for reduction in ("mean", "weighted") if kind == "focal_eiou" else ("mean",):
        loss = loss_of(kind, pred, target, reduction=reduction, weight=torch.zeros(len(pred), device=device))
        assert loss == 0 and not torch.autograd.grad(loss, pred)[0].any()


def test_weight_1_of_focal_eiou_weighted_changes_nothing(device):
    pred, target, *_ = OPS["focal_eiou_loss"].make("weighted", torch.float64, device)
    options = {"reduction": "weighted", "weight": torch.ones(1, device=device)}
    pred = torch.cat([pred, target[:1]])  # and equal boxes, whose loss is 0 and whose IoU is 1
    target = torch.cat([target, target[:1]])
    for detach_weight in (True, False):
        pred.requires_grad_()
        losses = [
            fastops.focal_eiou_loss(pred, target, detach_weight=detach_weight, **given)
            for given in (options, {"reduction": "weighted"})
        ]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(loss, pred)[0] for loss in losses))


def test_small_overlaps_keep_their_weight(device):
    """An IoU of 1e-10 has the weight 1e-5, though 1 - IoU is 1 in float32."""
    pred = torch.tensor([[0.0, 0.0, 1e5, 1e5], [0.0, 0.0, 1.0, 1.0]], device=device)
    target = torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]], device=device)
    options = {"reduction": "weighted", "weight": torch.tensor([3.0, 1.0], device=device)}
    expected = fastops.eiou_loss(pred[:1], target[:1])  # the other box has no overlap, and so no weight
    torch.testing.assert_close(fastops.focal_eiou_loss(pred, target, **options), expected)


def test_weighted_gradients_of_half_types_neither_underflow_nor_overflow(device):
    pair = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]], dtype=torch.float16, device=device)
    pred, target = (boxes.expand(2**20, 4).clone().requires_grad_() for boxes in pair)
    loss = fastops.iou_loss(pred, target, weight=torch.full((1,), 3.0, device=device))
    assert loss == 0.75
    (grad,) = torch.autograd.grad(loss, pred, loss.new_tensor(2.0**14))
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float16, device=device) * 2.0**-10
    assert torch.equal(grad[-1], expected)
    loss = fastops.iou_loss(pred, target, reduction="sum", weight=torch.full((1,), 1e9, device=device))
    (grad,) = torch.autograd.grad(loss, pred, torch.ones_like(loss))
    assert torch.equal(grad[-1], torch.tensor([-65504.0, -65504, 65504, 65504], dtype=torch.float16, device=device))


WRONG_WEIGHTS = {
    "no tensor": (2.0, "weight must be a tensor, got float"),
    "complex": (torch.ones(2, dtype=torch.complex64), "weight must have a real dtype, got complex64"),
    "device": (torch.ones(2, device="meta"), "weight must be on the device of pred (cpu), got meta"),
    "size": (torch.ones(3), "weight must broadcast to the losses [2], got [3]"),
    "per number": (torch.ones(2, 4), "weight must broadcast to the losses [2], got [2, 4]"),
}


@pytest.mark.parametrize("weight, message", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
@each_kind
def test_wrong_weights(kind, weight, message):
    boxes = torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match="^" + re.escape(f"{kind}_loss: {message}")):
        loss_of(kind, boxes, boxes, weight=weight)


@each_kind
def test_wrong_reduction_with_a_weight(kind):
    boxes = torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match=f"{kind}_loss: reduction must be none, mean.* got max"):
        loss_of(kind, boxes, boxes, reduction="max", weight=torch.ones(2))


# ---- FocalL1 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [math.exp(-1), 0.5, 0.8, 1.0])
def test_focal_l1_is_the_integral_of_its_gradient(beta, device):
    """Eq. 8, by Simpson's rule on both sides of 1."""
    alpha = math.e * beta

    def slope(x: Tensor) -> Tensor:
        return torch.where(x > 1, -alpha * math.log(beta), -alpha * torch.xlogy(x, beta * x))

    for a, b in ((0.25, 1.0), (1.0, 3.0)):
        x = torch.linspace(a, b, 2001, dtype=torch.float64)
        factors = torch.ones_like(x)
        factors[1:-1:2], factors[2:-1:2] = 4.0, 2.0
        integral = (factors * slope(x.clamp(min=1 + 1e-15) if a == 1.0 else x)).sum() * (x[1] - x[0]) / 3
        ends = torch.tensor([a, b], dtype=torch.float64, device=device)
        values = fastops.focal_l1_loss(ends, torch.zeros_like(ends), beta, "none")
        torch.testing.assert_close((values[1] - values[0]).cpu(), integral, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("beta", [math.exp(-1), 0.5, 0.8, 1.0])
def test_focal_l1_gradient(beta, device):
    """0 at 0, 1 at most (where x = 1 / (e beta)), and the sign of the error."""
    x = torch.tensor([0.0, 1 / (math.e * beta), -1 / (math.e * beta), -0.0], dtype=torch.float64, device=device)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(fastops.focal_l1_loss(x, torch.zeros_like(x), beta, "sum"), x)
    torch.testing.assert_close(grad.cpu(), torch.tensor([0.0, 1.0, -1.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@examples
@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
def test_focal_l1_is_finite_and_0_at_0(dtype, values):
    x = torch.tensor(values, dtype=dtype, requires_grad=True)
    losses = fastops.focal_l1_loss(x, torch.zeros_like(x), reduction="none")
    (grad,) = torch.autograd.grad(losses.sum(), x)
    assert losses.isfinite().all() and (losses >= 0).all()
    assert (grad.abs() <= 1 + 1e-6).all() and (grad * x.detach() >= 0).all()
    same = fastops.focal_l1_loss(x, x.detach(), reduction="none")
    assert not same.any() and not torch.autograd.grad(same.sum(), x)[0].any()


# ---- gradients and what is kept for them ---------------------------------------------------------------------


def arguments(pred: Tensor, target: Tensor, pred_grad: bool, target_grad: bool) -> tuple:
    return pred, target, "eiou", "xyxy", "mean", 0.0, True, EPS, pred_grad, target_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_only_wanted_gradients_are_made(dtype, device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", dtype, device)
    opmath = torch.float64 if dtype == torch.float64 else torch.float32
    for wanted in ((False, False), (True, False), (False, True), (True, True)):
        loss, *kept = ops.box_loss(*arguments(pred, target, *wanted))
        assert loss.dtype == dtype
        assert [(t.dtype, t.shape) for t in kept] == [(opmath, ()), *[(opmath, pred.shape)] * sum(wanted)][
            : len(kept)
        ] and len(kept) == (1 + sum(wanted) if any(wanted) else 0)


def test_saves_the_inputs_and_one_gradient(device):
    """16 bytes a box and 4 for the divisor, in float32."""
    pred, target, *_ = OPS["eiou_loss"].make("two_blocks", torch.float32, device)
    pred.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fastops.eiou_loss(pred, target)
    own = [t for t in saved if t.data_ptr() not in (pred.data_ptr(), target.data_ptr())]
    assert sum(t.nbytes for t in own) == 16 * len(pred) + 4


def test_small_gradients_of_half_types_do_not_underflow(device):
    """A mean over 2^20 boxes: the kept gradient is not yet divided by their number; the loss is scaled as AMP does."""
    pair = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]], dtype=torch.float16, device=device)
    pred, target = (boxes.expand(2**20, 4).clone().requires_grad_() for boxes in pair)
    loss = fastops.iou_loss(pred, target)
    assert loss == 0.75
    grads = torch.autograd.grad(loss, (pred, target), loss.new_tensor(2.0**14))
    for grad, size in zip(grads, (1 / 16, -1 / 8), strict=True):
        expected = size * torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float16, device=device) * 2.0**-6
        assert torch.equal(grad[-1], expected)


def test_backward_twice(device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", torch.float32, device)
    pred.requires_grad_()
    loss = fastops.eiou_loss(pred, target)
    first = torch.autograd.grad(loss, pred, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, pred))


def test_an_input_changed_before_the_backward_is_noticed(device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", torch.float32, device)
    loss = fastops.eiou_loss(pred.requires_grad_(), target)
    target.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autocast_computes_in_float32(device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", torch.bfloat16, device)
    pred.requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = fastops.eiou_loss(pred, target)
    assert torch.equal(loss, fastops.eiou_loss(pred.float(), target.float()))
    (grad,) = torch.autograd.grad(loss, pred)
    assert grad.dtype == torch.bfloat16
    assert torch.equal(grad, torch.autograd.grad(fastops.eiou_loss(pred.float(), target.float()), pred)[0])


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_vmap_with_gradients(reduction, device):
    pred, target, *_ = OPS["eiou_loss"].make("cxcywh", torch.float64, device)
    pred.requires_grad_()
    options = {"fmt": "cxcywh", "reduction": reduction}
    actual = torch.vmap(lambda p, t: fastops.eiou_loss(p, t, **options))(pred, target)
    expected = torch.stack([fastops.eiou_loss(p, t, **options) for p, t in zip(pred, target, strict=True)])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), pred)[0] for loss in (actual, expected)))


def test_gradient_of_the_reference_is_0_for_equal_boxes():
    """The convention for coinciding edges is the reference's own."""
    for dtype in (torch.float32, torch.float64):
        boxes = torch.tensor([[0.1, 0.2, 3.3, 4.7], [5.0, 5.0, 5.0, 5.0]], dtype=dtype)
        for kind in KINDS:
            pred = boxes.clone().requires_grad_()
            loss = getattr(reference, f"{kind}_loss")(pred, boxes)
            assert loss == 0 and not torch.autograd.grad(loss, pred)[0].any()


@pytest.mark.parametrize(
    "name, sample",
    [(row.name, sample) for row, sample in cases() if row.schema == "box_loss" and "pieces" not in sample],
)
def test_the_reference_backend_gives_the_same(name, sample):
    args = OPS[name].schema_args(OPS[name].make(sample, torch.float64))
    actual, expected = implementation("reference", "box_loss")(*args), ops.box_loss(*args)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-13)
    grad = torch.full_like(expected[0], 0.3)
    scaled = implementation("reference", "box_loss_backward_scale")(grad, expected[1], expected[2:])
    for a, e in zip(scaled, ops.box_loss_backward_scale(grad, expected[1], expected[2:]), strict=True):
        torch.testing.assert_close(a, e)


# ---- modules -------------------------------------------------------------------------------------------------

MODULES = {
    "IoULoss": "iou_loss",
    "GIoULoss": "giou_loss",
    "DIoULoss": "diou_loss",
    "CIoULoss": "ciou_loss",
    "EIoULoss": "eiou_loss",
    "FocalEIoULoss": "focal_eiou_loss",
}


@pytest.mark.parametrize("name, function", MODULES.items())
def test_modules(name, function, device):
    pred, target, *_ = OPS["eiou_loss"].make("cxcywh", torch.float32, device)
    for options in ({"fmt": "cxcywh"}, {"fmt": "xywh", "reduction": "none", "eps": 0.75}):
        module = getattr(fastops.nn, name)(**options)
        assert torch.equal(module(pred, target), getattr(fastops, function)(pred, target, **options))
        weight = torch.rand(pred.shape[:-1], device=device)
        weighted = getattr(fastops, function)(pred, target, weight=weight, **options)
        assert torch.equal(module(pred, target, weight), weighted)
    assert repr(module).endswith(
        "fmt='xywh', reduction='none', " + "detach_weight=True, " * ("F" in name) + "eps=0.75)"
    )


def test_focal_modules(device):
    pred, target, *_ = OPS["eiou_loss"].make("mean", torch.float32, device)
    options = {"gamma": 1.5, "reduction": "weighted", "detach_weight": False}
    module = fastops.nn.FocalEIoULoss(**options)
    assert torch.equal(module(pred, target), fastops.focal_eiou_loss(pred, target, **options))
    assert repr(module).startswith("FocalEIoULoss(gamma=1.5, fmt='xyxy', reduction='weighted', detach_weight=False")
    options = {"beta": 0.5, "reduction": "sum"}
    module = fastops.nn.FocalL1Loss(**options)
    assert torch.equal(module(pred, target), fastops.focal_l1_loss(pred, target, **options))
    assert repr(module) == "FocalL1Loss(beta=0.5, reduction='sum')"


# ---- what torchvision's losses take --------------------------------------------------------------------------

BOXES = torch.tensor([[1.0, 2.0, 9.0, 8.0], [0.0, 0.0, 4.0, 4.0], [3.0, 1.0, 7.0, 9.0]])
OTHERS = {
    "float64, as from NumPy": BOXES.double() + 1,
    "integers": BOXES.long() + 1,
    "bytes": (BOXES + 1).to(torch.uint8),
    "half": BOXES.half() + 1,
    "one box for all": BOXES[:1] + 1,
    "one box without a dimension": BOXES[0] + 1,
    "one box of integers": BOXES[:1].int() + 1,
    "a dimension in front": (BOXES + 1).expand(2, 3, 4),
}
LOSSES = [*(f"{kind}_loss" for kind in KINDS), "focal_l1_loss"]


@pytest.mark.parametrize("target", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("where", [fastops, fastops.reference], ids=["fastops", "reference"])
def test_targets_are_promoted_and_broadcast(name, target, where):
    loss, dtype = getattr(where, name), torch.promote_types(BOXES.dtype, target.dtype)
    shape = torch.broadcast_shapes(BOXES.shape, target.shape)
    pred = BOXES.clone().requires_grad_()
    wide = BOXES.to(dtype).expand(shape).clone().requires_grad_()
    expected = loss(wide, target.to(dtype).expand(shape).contiguous(), reduction="none")
    for got in (loss(pred, target, reduction="none"), loss(target, pred, reduction="none")):
        assert got.dtype == dtype and got.shape == expected.shape
    torch.testing.assert_close(loss(pred, target, reduction="none"), expected)
    loss(pred, target, reduction="sum").backward()
    expected.sum().backward()
    assert pred.grad.dtype == torch.float32
    torch.testing.assert_close(pred.grad, wide.grad.sum_to_size(pred.shape).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_two_integers_become_the_default_dtype(name):
    loss = getattr(fastops, name)(BOXES.int(), BOXES.long() + 1)
    torch.testing.assert_close(loss, getattr(fastops, name)(BOXES, BOXES + 1))


@pytest.mark.parametrize("target", [BOXES.double() + 1, BOXES.int() + 1, BOXES[:1].half() + 1], ids=str)
@pytest.mark.parametrize("name", ["ciou_loss", "focal_l1_loss"])
def test_promotion_under_autocast_and_compile(name, target):
    loss = getattr(fastops, name)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(BOXES.bfloat16(), target)
    torch.testing.assert_close(inside.float(), loss(BOXES.bfloat16().float(), target).float(), rtol=2e-2, atol=2e-2)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(BOXES, target), loss(BOXES, target))


@pytest.mark.parametrize("kind", ["ciou", "diou", "eiou"])
@pytest.mark.parametrize(
    "boxes",
    [([10.0, 10, 10, 10], [0.0, 0, 40, 10]), ([5.0, 5, 5, 5], [0.0, 0, 9, 30]), ([1.0, 1, 1, 3], [0.0, 0, 60, 4])],
)
def test_half_gradients_saturate(kind, boxes):
    grads = []
    for dtype in (torch.float16, torch.float32):
        pred, target = (torch.tensor([box], dtype=dtype) for box in boxes)
        pred.requires_grad_()
        loss_of(kind, pred, target).backward()
        grads.append(pred.grad)
    expected = grads[1].clamp(-65504, 65504)
    assert grads[0].isfinite().all()
    torch.testing.assert_close(grads[0].float(), expected, rtol=2e-3, atol=1e-3)
    pred = torch.tensor([boxes[0]], dtype=torch.float16, requires_grad=True)  # an infinity that comes in goes out
    loss_of(kind, pred, torch.tensor([boxes[1]], dtype=torch.float16)).backward(torch.tensor(math.inf).half())
    assert not pred.grad.isfinite().all()


# ---- errors --------------------------------------------------------------------------------------------------

FLOATING = "must have dtype float32, float64, float16 or bfloat16, got"
x = torch.zeros(2, 4)
ERRORS = {
    "dtype": ((x.bool(), x.bool()), {}, f"pred {FLOATING} bool"),
    "shape": ((x[:, :3], x[:, :3]), {}, "pred must have shape [..., 4], got [2, 3]"),
    "no_dims": ((x[0, 0], x[0, 0]), {}, "pred must have shape [..., 4], got []"),
    "target_dtype": ((x, x.bool()), {}, "target must have the dtype of pred (float32), got bool"),
    "target_device": ((x, x.to("meta")), {}, "target must be on the device of pred (cpu), got meta"),
    "target_shape": ((x, torch.zeros(3, 4)), {}, "target must have the shape of pred [2, 4], got [3, 4]"),
    "fmt": ((x, x), {"fmt": "yxyx"}, "fmt must be xyxy, xywh or cxcywh, got yxyx"),
    "eps": ((x, x), {"eps": 0.0}, "eps must be finite and at least 1e-15, got 0"),
    "eps_nan": ((x, x), {"eps": math.nan}, "eps must be finite and at least 1e-15, got nan"),
    "eps_inf": ((x, x), {"eps": math.inf}, "eps must be finite and at least 1e-15, got inf"),
}
FOCAL_ERRORS = {
    "reduction": ({"reduction": "max"}, "reduction must be none, mean, sum or weighted, got max"),
    "gamma": ({"gamma": -0.5}, "gamma must be finite and not negative, got -0.5"),
    "gamma_nan": ({"gamma": math.nan}, "gamma must be finite and not negative, got nan"),
}
L1_ERRORS = {
    "dtype": ((x.bool(), x.bool()), {}, f"pred {FLOATING} bool"),
    "target_dtype": ((x, x.bool()), {}, "target must have the dtype of pred (float32), got bool"),
    "target_device": ((x, x.to("meta")), {}, "target must be on the device of pred (cpu), got meta"),
    "target_shape": ((x, x[:, :3]), {}, "target must have the shape of pred [2, 4], got [2, 3]"),
    "beta_low": ((x, x), {"beta": 0.3}, "beta must be between 1/e and 1, got 0.3"),
    "beta_high": ((x, x), {"beta": 1.5}, "beta must be between 1/e and 1, got 1.5"),
    "reduction": ((x, x), {"reduction": "weighted"}, "reduction must be none, mean or sum, got weighted"),
}
SCALE_ERRORS = {
    "grad_dtype": ((x[0, 0].int(), x[0, 0], [x]), f"grad {FLOATING} int32"),
    "divisor_dtype": ((x[0, 0].half(), x[0, 0].half(), [x]), "divisor must have dtype float32, got float16"),
    "divisor_shape": ((x[0, 0], x[0], [x]), "divisor must have one element, got [4]"),
    "divisor_device": ((x[0, 0], x[0, 0].to("meta"), [x]), "divisor must be on the device of grad (cpu), got meta"),
    "dtype": ((x[0, 0], x[0, 0], [x, x.double()]), "grads must have dtype float32, got float64"),
    "device": ((x[0, 0], x[0, 0], [x.to("meta")]), "grads must be on the device of grad (cpu), got meta"),
    "shape": ((x[:, 0], x[0, 0], [x[:1]]), "grads must have shape [..., 4] for grad [2], got [1, 4]"),
    "boxes": ((x[0, 0], x[0, 0], [x[:, :3]]), "grads must have shape [..., 4] for grad [], got [2, 3]"),
}


def errors(table: dict, names: str):
    return pytest.mark.parametrize(names, table.values(), ids=table)


@each_kind
@errors(ERRORS, "args, options, message")
def test_errors(kind, args, options, message, raises_everywhere):
    raises_everywhere(lambda *args: loss_of(kind, *args, **options), args, f"{kind}_loss: {message}")


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_weighted_is_for_focal_eiou(kind, raises_everywhere):
    message = f"{kind}_loss: reduction must be none, mean or sum, got weighted"
    raises_everywhere(lambda *args: loss_of(kind, *args, reduction="weighted"), (x, x), message)


@errors(FOCAL_ERRORS, "options, message")
def test_focal_errors(options, message, raises_everywhere):
    call = lambda *args: fastops.focal_eiou_loss(*args, **options)  # noqa: E731
    raises_everywhere(call, (x, x), f"focal_eiou_loss: {message}")


@errors(L1_ERRORS, "args, options, message")
def test_focal_l1_errors(args, options, message, raises_everywhere):
    raises_everywhere(lambda *args: fastops.focal_l1_loss(*args, **options), args, f"focal_l1_loss: {message}")


@errors(SCALE_ERRORS, "args, message")
def test_scale_errors(args, message, raises_everywhere):
    grads = args[2]

    def call(grad: Tensor, divisor: Tensor, *grads: Tensor):
        return ops.box_loss_backward_scale(grad, divisor, list(grads))

    raises_everywhere(call, (*args[:2], *grads), f"box_loss_backward_scale: {message}")


@pytest.mark.parametrize(
    "grad, reduction, message",
    [
        (x.double(), "none", "grad must have the dtype of pred (float32), got float64"),
        (x.to("meta"), "none", "grad must be on the device of pred (cpu), got meta"),
        (x[0], "none", "grad must have the shape of pred [2, 4], got [4]"),
        (x, "mean", "grad must have one element, got [2, 4]"),
    ],
)
def test_focal_l1_grad_errors(grad, reduction, message, raises_everywhere):
    args = (grad, x, x, 0.8, reduction)
    raises_everywhere(ops.focal_l1_loss_backward, args, f"focal_l1_loss_backward: {message}")


def test_unknown_kind(raises_everywhere):
    args = list(arguments(x, x, False, False))
    args[2] = "siou"
    message = "box_loss: kind must be iou, giou, diou, ciou, eiou or focal_eiou, got siou"
    raises_everywhere(ops.box_loss, tuple(args), message)
