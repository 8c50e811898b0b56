"""Modules around the ops."""

from fastops.nn.activation import Mish
from fastops.nn.attention import SEAttention, SEScale
from fastops.nn.correlation import CrossCorrelation

__all__ = ["CrossCorrelation", "Mish", "SEAttention", "SEScale"]
