"""Modules around the ops."""

from fastops.nn.activation import Mish
from fastops.nn.attention import SEAttention, SEScale
from fastops.nn.box_loss import (
    CIoULoss,
    DIoULoss,
    EIoULoss,
    FocalEIoULoss,
    FocalL1Loss,
    GIoULoss,
    IoULoss,
)
from fastops.nn.correlation import CrossCorrelation
from fastops.nn.frozen_conv import FrozenConv2d

__all__ = [
    "CIoULoss",
    "CrossCorrelation",
    "DIoULoss",
    "EIoULoss",
    "FocalEIoULoss",
    "FocalL1Loss",
    "FrozenConv2d",
    "GIoULoss",
    "IoULoss",
    "Mish",
    "SEAttention",
    "SEScale",
]
