"""The losses with which Zhang et al. compare EIoU and Focal-EIoU, in plain PyTorch. `fastops` has the fused losses.

Source: Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression", 2022, sections 4.2 and 5.4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import fastops

TINY = 1e-6  # lower bound of the IoU in a logarithm, and of sides in pixels


def offsets(pred: Tensor, target: Tensor) -> Tensor:
    r"""The four offsets that the $\ell_n$ losses compare.

    $$\left(\frac{x - x_t}{w_t}, \frac{y - y_t}{h_t}, \ln \frac{w}{w_t}, \ln \frac{h}{h_t}\right)$$

    Here (x, y) is the centre of a box, w and h are its sides, and the index t marks the target.

    Args:
        pred, target: boxes [..., 4], x1, y1, x2, y2.

    Returns:
        The offsets [..., 4].

    Example:
        >>> offsets(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 0.0, 2.0, 1.0])).tolist()
        [0.0, 0.5, 0.0, 0.6931471824645996]
    """
    centre, side = (pred[..., :2] + pred[..., 2:]) / 2, (pred[..., 2:] - pred[..., :2]).clamp(min=TINY)
    wanted = (target[..., 2:] - target[..., :2]).clamp(min=TINY)
    return torch.cat([(centre - (target[..., :2] + target[..., 2:]) / 2) / wanted, (side / wanted).log()], -1)


def smooth_l1(pred: Tensor, target: Tensor) -> Tensor:
    r"""SmoothL1 of the four `offsets`, summed.

    $$L(x) = \begin{cases} x^2 / 2 & |x| < 1 \\ |x| - 1/2 & |x| \ge 1 \end{cases}$$

    Args:
        pred, target: boxes [..., 4], x1, y1, x2, y2.

    Returns:
        The losses [...].

    Source: Girshick, "Fast R-CNN", 2015, equation 3.
    """
    x = offsets(pred, target)
    return F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none").sum(-1)


def balanced_l1(pred: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 1.5) -> Tensor:
    r"""BalancedL1 of the four `offsets`, summed.

    $$L(x) = \begin{cases}
        \frac{\alpha}{b} (b |x| + 1) \ln(b |x| + 1) - \alpha |x| & |x| < 1 \\
        \gamma |x| + \gamma / b - \alpha & |x| \ge 1
    \end{cases}, \qquad b = e^{\gamma / \alpha} - 1$$

    Source: Pang et al., "Libra R-CNN: Towards Balanced Learning for Object Detection", 2019, equation 9.
    """
    x = offsets(pred, target).abs()
    b = math.exp(gamma / alpha) - 1
    near = alpha / b * (b * x + 1) * torch.log1p(b * x) - alpha * x
    return torch.where(x < 1, near, gamma * x + gamma / b - alpha).sum(-1)


def focal_l1(pred: Tensor, target: Tensor, beta: float = 0.8) -> Tensor:
    """`fastops.focal_l1_loss` of the four `offsets`, summed."""
    x = offsets(pred, target)
    return _ops().focal_l1_loss(x, torch.zeros_like(x), beta, "none").sum(-1)


def focal_eiou_v1(pred: Tensor, target: Tensor, beta: float = 0.8) -> Tensor:
    """FocalL1 of the EIoU loss, in place of a distance: "Focal-EIOU (v1)" of the paper's Table 1."""
    loss = _ops().eiou_loss(pred, target, reduction="none")
    return _ops().focal_l1_loss(loss, torch.zeros_like(loss), beta, "none")


def focal_eiou_star(pred: Tensor, target: Tensor, gamma: float = 0.5) -> Tensor:
    r"""$-(1 - \mathrm{IoU})^\gamma \ln(\mathrm{IoU}) \, L_{EIoU}$, "Focal-EIOU*" of the paper's section 5.4.4.

    The gradient treats the factor before the EIoU loss as a constant, as in Focal-EIoU.
    """
    iou = (1 - _ops().iou_loss(pred.detach(), target, reduction="none")).clamp(min=TINY)
    return -(1 - iou).clamp(min=0).pow(gamma) * iou.log() * _ops().eiou_loss(pred, target, reduction="none")


def _ops():
    """The fused ops, or the reference implementations if the compiled library is missing."""
    return fastops if fastops.load_error is None else fastops.reference
