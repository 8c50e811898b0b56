"""Reference implementations of the ops: plain PyTorch, written directly from their definitions.

Each function has the signature of the function in `fastops` with the same name. It runs on any device and floating
dtype, and can be differentiated any number of times. Half types are computed in float32 and rounded once, at the end.
"""

from .adaptive import adaptive_relu, adaptive_sigmoid, adaptive_tanh
from .affine_mish import affine_mish, batch_norm_mish
from .bias_activation import bias_activation
from .box_loss import (
    ciou_loss,
    diou_loss,
    eiou_loss,
    focal_eiou_loss,
    focal_l1_loss,
    giou_loss,
    iou_loss,
)
from .box_peak import box_peak
from .centralize import centralize_gradients_
from .crop import crop_and_resize
from .logistic_loss import balanced_logistic_loss
from .mish import mish, mish_
from .mish_max_pool2d import mish_max_pool2d
from .quantized_conv import quantized_conv2d
from .response import response_peak
from .se import se_attention, se_scale
from .xcorr import xcorr, xcorr_depthwise

__all__ = [
    "adaptive_relu",
    "adaptive_sigmoid",
    "adaptive_tanh",
    "affine_mish",
    "balanced_logistic_loss",
    "batch_norm_mish",
    "bias_activation",
    "box_peak",
    "centralize_gradients_",
    "ciou_loss",
    "crop_and_resize",
    "diou_loss",
    "eiou_loss",
    "focal_eiou_loss",
    "focal_l1_loss",
    "giou_loss",
    "iou_loss",
    "mish",
    "mish_",
    "mish_max_pool2d",
    "quantized_conv2d",
    "response_peak",
    "se_attention",
    "se_scale",
    "xcorr",
    "xcorr_depthwise",
]
