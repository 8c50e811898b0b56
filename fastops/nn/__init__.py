"""Modules that call the ops."""

from fastops.nn._in_class import in_class
from fastops.nn.activation import Mish
from fastops.nn.adaptive import AReLU, ASigmoid, ATanh
from fastops.nn.affine_mish import AffineMish, BatchNormMish1d, BatchNormMish2d, BatchNormMish3d
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
from fastops.nn.logistic_loss import BalancedLogisticLoss
from fastops.nn.mish_max_pool2d import MishMaxPool2d
from fastops.nn.quantized_conv import PIXELS, Quantization, QuantizedConv2d, best_range, bias_correction
from fastops.nn.winograd_conv import WinogradConv2d, winograd_convolutions

__all__ = [
    "AReLU",
    "ASigmoid",
    "ATanh",
    "AffineMish",
    "BalancedLogisticLoss",
    "BatchNormMish1d",
    "BatchNormMish2d",
    "BatchNormMish3d",
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
    "MishMaxPool2d",
    "PIXELS",
    "Quantization",
    "QuantizedConv2d",
    "SEAttention",
    "SEScale",
    "WinogradConv2d",
    "best_range",
    "bias_correction",
    "in_class",
    "winograd_convolutions",
]
