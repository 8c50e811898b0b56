"""Loss module for score maps."""

from __future__ import annotations

from torch import Tensor, nn

from fastops.ops.logistic_loss import balanced_logistic_loss


class BalancedLogisticLoss(nn.Module):
    r"""Balanced logistic loss of score maps, $\sum_u w_u \ln(1 + e^{-y_u v_u})$ for each map.

    Args:
        radius, stride, reduction: as in [`fastops.balanced_logistic_loss`][]. Its `responses` and `centers` are the
            inputs of the module.

    Examples:

        >>> import torch, fastops
        >>> fastops.nn.BalancedLogisticLoss()(torch.zeros(8, 1, 17, 17))
        tensor(0.6931)
    """

    def __init__(self, radius: float = 16.0, stride: float = 8.0, reduction: str = "mean") -> None:
        super().__init__()
        self.radius, self.stride, self.reduction = radius, stride, reduction

    def forward(self, responses: Tensor, centers: Tensor | None = None) -> Tensor:
        return balanced_logistic_loss(responses, self.radius, self.stride, self.reduction, centers)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, stride={self.stride}, reduction={self.reduction!r}"
