"""The ops of fastops in plain PyTorch, straight from their definitions: what tests, benchmarks and docs compare with.

Each function has the signature of its namesake in `fastops`, runs on any device and floating dtype, and can be
differentiated any number of times. Half types are computed in float32 and rounded once, at the end.
"""

from .box_loss import (
    ciou_loss,
    diou_loss,
    eiou_loss,
    focal_eiou_loss,
    focal_l1_loss,
    giou_loss,
    iou_loss,
)
from .mish import mish, mish_
from .se import se_attention, se_scale
from .xcorr import xcorr, xcorr_depthwise

__all__ = [
    "ciou_loss",
    "diou_loss",
    "eiou_loss",
    "focal_eiou_loss",
    "focal_l1_loss",
    "giou_loss",
    "iou_loss",
    "mish",
    "mish_",
    "se_attention",
    "se_scale",
    "xcorr",
    "xcorr_depthwise",
]
