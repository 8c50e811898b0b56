"""Modules around the ops."""

from fastops.nn.activation import Mish
from fastops.nn.adaptive import AReLU, ASigmoid, ATanh
from fastops.nn.attention import SEAttention, SEScale
from fastops.nn.correlation import CrossCorrelation
from fastops.nn.frozen_conv import FrozenConv2d

__all__ = ["AReLU", "ASigmoid", "ATanh", "CrossCorrelation", "FrozenConv2d", "Mish", "SEAttention", "SEScale"]
