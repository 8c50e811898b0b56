"""Fused PyTorch ops for vision. Each op is one call and one kernel, with gradients, on CPU, CUDA and Triton.

The ops are functions in this package and modules in [`fastops.nn`][]. [`fastops.reference`][] has them in plain
PyTorch. `python -m fastops` prints what is built and which backend each op uses on each device.
"""

from typing import TYPE_CHECKING

from fastops import reference
from fastops._ext import build_info, load_error, missing_message
from fastops._version import __version__

__all__ = [
    "__version__",
    "accelerate",
    "acceleration_report",
    "adaptive_relu",
    "adaptive_sigmoid",
    "adaptive_tanh",
    "affine_mish",
    "backends",
    "balanced_logistic_loss",
    "batch_norm_mish",
    "bias_activation",
    "box_peak",
    "build_info",
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
    "nn",
    "optim",
    "reference",
    "relu_max_pool2d",
    "replace_activations",
    "response_peak",
    "restore",
    "se_attention",
    "se_scale",
    "set_backend",
    "xcorr",
    "xcorr_depthwise",
]

if load_error is None:
    from fastops import nn, optim
    from fastops._accelerate import accelerate, acceleration_report, restore
    from fastops._backends import backends, set_backend
    from fastops.nn.replace_activations import replace_activations
    from fastops.ops.adaptive import adaptive_relu, adaptive_sigmoid, adaptive_tanh
    from fastops.ops.affine_mish import affine_mish, batch_norm_mish
    from fastops.ops.bias_activation import bias_activation
    from fastops.ops.box_loss import (
        ciou_loss,
        diou_loss,
        eiou_loss,
        focal_eiou_loss,
        focal_l1_loss,
        giou_loss,
        iou_loss,
    )
    from fastops.ops.box_peak import box_peak
    from fastops.ops.centralize import centralize_gradients_
    from fastops.ops.crop import crop_and_resize
    from fastops.ops.logistic_loss import balanced_logistic_loss
    from fastops.ops.mish import mish, mish_
    from fastops.ops.mish_max_pool2d import mish_max_pool2d
    from fastops.ops.relu_max_pool2d import relu_max_pool2d
    from fastops.ops.response import response_peak
    from fastops.ops.se import se_attention, se_scale
    from fastops.ops.xcorr import xcorr, xcorr_depthwise
elif not TYPE_CHECKING:  # with __getattr__, a type checker would accept every name

    def __getattr__(name: str):
        if name in __all__:
            raise ImportError(f"fastops.{name}: {missing_message()}")
        raise AttributeError(f"module 'fastops' has no attribute {name!r}")
