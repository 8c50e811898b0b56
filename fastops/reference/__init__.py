"""The ops of fastops in plain PyTorch, straight from their definitions: what tests, benchmarks and docs compare with.

Each function has the signature of its namesake in `fastops`, runs on any device and floating dtype, and can be
differentiated any number of times. Half types are computed in float32 and rounded once, at the end.
"""

from .affine_mish import affine_mish, batch_norm_mish
from .mish import mish, mish_
from .mish_max_pool2d import mish_max_pool2d
from .se import se_attention, se_scale
from .xcorr import xcorr, xcorr_depthwise

__all__ = [
    "affine_mish",
    "batch_norm_mish",
    "mish",
    "mish_",
    "mish_max_pool2d",
    "se_attention",
    "se_scale",
    "xcorr",
    "xcorr_depthwise",
]
