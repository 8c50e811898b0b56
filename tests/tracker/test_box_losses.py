"""The losses that EIoU is compared with: their values by hand and their gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

import fastops
from tracker.training import box_losses

TARGET = torch.tensor([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 3.0, 6.0], [0.0, 0.0, 8.0, 8.0]], dtype=torch.float64)
#: Offsets on both sides of 1, where the formulas change; the boxes overlap.
PRED = torch.tensor([[0.5, 0.2, 4.0, 2.5], [0.0, 0.5, 5.0, 4.0], [1.0, 2.0, 3.0, 4.5]], dtype=torch.float64)


@pytest.mark.parametrize("name", ["smooth_l1", "balanced_l1", "focal_l1", "focal_eiou_v1"])
def test_gradients_are_those_of_finite_differences(name):
    pred = PRED.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: getattr(box_losses, name)(p, TARGET), pred)


def test_focal_eiou_star_weighs_the_gradient_of_eiou():
    pred = PRED.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(box_losses.focal_eiou_star(pred, TARGET, 1.5).sum(), pred)
    iou = 1 - fastops.reference.iou_loss(PRED, TARGET, reduction="none")
    weight = -((1 - iou) ** 1.5) * iou.log()
    step = 1e-6
    for column in range(4):
        moved = torch.zeros(4, dtype=torch.float64)
        moved[column] = step
        high, low = (fastops.reference.eiou_loss(PRED + sign * moved, TARGET, reduction="none") for sign in (1, -1))
        torch.testing.assert_close(gradient[:, column], weight * (high - low) / (2 * step), rtol=1e-6, atol=1e-8)


def test_values_by_hand():
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    pred = torch.tensor([[1.0, 0.0, 3.0, 4.0]])  # offsets 1/2, 1/2, 0, ln 2; IoU 1/5
    x = (0.5, 0.5, 0.0, math.log(2))
    assert float(box_losses.smooth_l1(pred, target)) == pytest.approx(sum(v * v / 2 for v in x))
    b = math.exp(3) - 1
    balanced = sum(0.5 / b * (b * v + 1) * math.log(b * v + 1) - 0.5 * v for v in x)
    assert float(box_losses.balanced_l1(pred, target)) == pytest.approx(balanced, rel=1e-5)
    eiou = 0.8 + 2 / 25 + 4 / 16  # centre off by 1 along x and y, height by 2
    assert float(box_losses.focal_eiou_star(pred, target, 2.0)) == pytest.approx(0.64 * math.log(5) * eiou, rel=1e-5)
    alpha = math.e * 0.8
    v1 = -alpha * math.log(0.8) * eiou + alpha * (2 * math.log(0.8) + 1) / 4
    assert float(box_losses.focal_eiou_v1(pred, target, 0.8)) == pytest.approx(v1, rel=1e-5)


def test_balanced_l1_is_continuous_where_its_formula_changes():
    target = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    losses = [box_losses.balanced_l1(target + torch.tensor([d, 0.0, d, 0.0]), target).item() for d in (1 - 1e-9, 1.0)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-8)


@pytest.mark.parametrize("name", ["smooth_l1", "balanced_l1", "focal_l1", "focal_eiou_v1", "focal_eiou_star"])
def test_boxes_far_off_or_collapsed_give_finite_losses_and_gradients(name):
    pred = torch.tensor([[50.0, 50.0, 60.0, 60.0], [1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 1.0, 1.0]], requires_grad=True)
    losses = getattr(box_losses, name)(pred, TARGET.float())
    losses.sum().backward()
    assert losses.isfinite().all() and pred.grad.isfinite().all()
