"""Box regression loss modules."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fastops.ops import box_loss


class _IoUFamily(nn.Module):
    _function: Callable[..., Tensor]

    def __init__(self, fmt: str = "xyxy", reduction: str = "mean", eps: float = 1e-7) -> None:
        super().__init__()
        self.fmt, self.reduction, self.eps = fmt, reduction, eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return self._function(pred, target, self.fmt, self.reduction, self.eps, weight)

    def extra_repr(self) -> str:
        return f"fmt={self.fmt!r}, reduction={self.reduction!r}, eps={self.eps:g}"


class IoULoss(_IoUFamily):
    r"""IoU loss $1 - \mathrm{IoU}$; see [`fastops.iou_loss`][].

    Args:
        fmt: "xyxy", "xywh" or "cxcywh".
        reduction: "none", "mean" or "sum".
        eps: smallest side, in the unit of the boxes; smaller sides count as `eps`.

    A third argument, `module(pred, target, weight)`, weighs the boxes.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.IoULoss(fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    _function = staticmethod(box_loss.iou_loss)


class GIoULoss(_IoUFamily):
    r"""Generalized IoU loss $1 - \mathrm{IoU} + |C \setminus (A \cup B)| / |C|$; see [`fastops.giou_loss`][].

    The arguments are those of [`IoULoss`][fastops.nn.IoULoss].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.GIoULoss(fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    _function = staticmethod(box_loss.giou_loss)


class DIoULoss(_IoUFamily):
    r"""Distance IoU loss $1 - \mathrm{IoU} + \rho^2 / c^2$; see [`fastops.diou_loss`][].

    The arguments are those of [`IoULoss`][fastops.nn.IoULoss].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.DIoULoss(fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    _function = staticmethod(box_loss.diou_loss)


class CIoULoss(_IoUFamily):
    r"""Complete IoU loss $L_{DIoU} + \alpha v$; see [`fastops.ciou_loss`][].

    The arguments are those of [`IoULoss`][fastops.nn.IoULoss].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.CIoULoss(fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    _function = staticmethod(box_loss.ciou_loss)


class EIoULoss(_IoUFamily):
    r"""Efficient IoU loss $L_{DIoU} + \Delta w^2 / w_c^2 + \Delta h^2 / h_c^2$; see [`fastops.eiou_loss`][].

    The arguments are those of [`IoULoss`][fastops.nn.IoULoss].

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.EIoULoss(fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    _function = staticmethod(box_loss.eiou_loss)


class FocalEIoULoss(nn.Module):
    r"""Focal-EIoU loss $\mathrm{IoU}^\gamma L_{EIoU}$; see [`fastops.focal_eiou_loss`][].

    Args:
        gamma: at least 0.
        fmt: "xyxy", "xywh" or "cxcywh".
        reduction: "none", "mean", "sum" or "weighted" (divided by the sum of the weights).
        detach_weight: the gradient treats the weight as a constant.
        eps: smallest side, in the unit of the boxes; smaller sides count as `eps`.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.FocalEIoULoss(reduction="weighted", fmt="xywh")(torch.ones(5, 4), torch.ones(5, 4))
        tensor(0.)
    """

    def __init__(
        self,
        gamma: float = 0.5,
        fmt: str = "xyxy",
        reduction: str = "mean",
        detach_weight: bool = True,
        eps: float = 1e-7,
    ) -> None:
        super().__init__()
        self.gamma, self.fmt, self.reduction, self.detach_weight, self.eps = gamma, fmt, reduction, detach_weight, eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return box_loss.focal_eiou_loss(
            pred, target, self.gamma, self.fmt, self.reduction, self.detach_weight, self.eps, weight
        )

    def extra_repr(self) -> str:
        return (
            f"gamma={self.gamma:g}, fmt={self.fmt!r}, reduction={self.reduction!r}, "
            f"detach_weight={self.detach_weight}, eps={self.eps:g}"
        )


class FocalL1Loss(nn.Module):
    r"""FocalL1 loss. Its gradient is $-\alpha x \ln(\beta x)$ up to x = 1; see [`fastops.focal_l1_loss`][].

    Args:
        beta: between 1/e and 1.
        reduction: "none", "mean" or "sum".

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.FocalL1Loss(reduction="none")(torch.tensor([0.0, 0.5, 2.0]), torch.zeros(3))
        tensor([0.0000, 0.3850, 1.2715])
    """

    def __init__(self, beta: float = 0.8, reduction: str = "mean") -> None:
        super().__init__()
        self.beta, self.reduction = beta, reduction

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return box_loss.focal_l1_loss(pred, target, self.beta, self.reduction)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}, reduction={self.reduction!r}"
