"""Modules around the ops."""

from fastops.nn.activation import Mish
from fastops.nn.affine_mish import AffineMish, BatchNormMish1d, BatchNormMish2d, BatchNormMish3d
from fastops.nn.attention import SEAttention, SEScale
from fastops.nn.correlation import CrossCorrelation
from fastops.nn.frozen_conv import FrozenConv2d
from fastops.nn.mish_max_pool2d import MishMaxPool2d

__all__ = [
    "AffineMish",
    "BatchNormMish1d",
    "BatchNormMish2d",
    "BatchNormMish3d",
    "CrossCorrelation",
    "FrozenConv2d",
    "Mish",
    "MishMaxPool2d",
    "SEAttention",
    "SEScale",
]
