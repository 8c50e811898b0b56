"""The cases of benchmarks.ops: each op with its inputs, its sizes, and the PyTorch code that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import fastops


@dataclass(frozen=True)
class Case:
    op: str
    size: str
    inputs: Callable[..., tuple[Tensor, ...]]
    eager: Callable[..., Tensor]
    fused: Callable[..., Tensor]
    family: str
    #: Values that must be read and written, in units of the first input; 0 for ops that are not memory-bound.
    forward_values: float
    backward_values: float
    channels_last: bool = False
    #: Positions of the inputs that get a gradient; None means all. Without any, only the forward pass is timed.
    differentiable: tuple[int, ...] | None = None
    #: Further arguments of the Triton kernel; None if it is not timed.
    triton_args: tuple | None = ()


# ---- the PyTorch code that the ops replace ---------------------------------------------------------------------


def per_channel(t: Tensor) -> Tensor:
    return t[:, None, None]


def per_channel_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, *parameters: function(x, *map(per_channel, parameters))


def eager_affine_mish(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.mish(x * per_channel(weight) + per_channel(bias))


def eager_batch_norm_mish(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.mish(F.batch_norm(x, None, None, weight, bias, training=True))


def eager_mish_max_pool2d(x: Tensor) -> Tensor:
    return F.max_pool2d(F.mish(x), 3, 2)


def eager_bias_mish(x: Tensor, bias: Tensor) -> Tensor:
    return F.mish(x + per_channel(bias))


def eager_bias_mish_max_pool2d(x: Tensor, bias: Tensor) -> Tensor:
    return F.max_pool2d(F.mish(x + per_channel(bias)), 3, 2)


def bias_mish(x: Tensor, bias: Tensor) -> Tensor:
    return fastops.bias_activation(x, bias, "mish")


def bias_mish_max_pool2d(x: Tensor, bias: Tensor) -> Tensor:
    return fastops.bias_activation(x, bias, "mish", 3, 2)


def eager_se_attention(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """Squeeze-and-excitation, as in common libraries."""
    gate = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    return x * gate[:, :, None, None]


def eager_se_scale(x: Tensor, logits: Tensor) -> Tensor:
    return x * logits.sigmoid()[:, :, None, None]


def eager_xcorr(z: Tensor, x: Tensor) -> Tensor:
    """Grouped convolution, as in PyTorch SiamFC trackers. One template needs no groups."""
    n, c, h, w = z.shape
    if n == 1:
        return F.conv2d(x, z) * 0.001
    s = x.shape[0] // n
    grouped = x.unflatten(0, (n, s)).transpose(0, 1).flatten(1, 2)
    return F.conv2d(grouped, z, groups=n).transpose(0, 1).flatten(0, 1).unsqueeze(1) * 0.001


def eager_xcorr_depthwise(z: Tensor, x: Tensor) -> Tensor:
    n, c = z.shape[:2]
    out = F.conv2d(x.flatten(0, 1).unsqueeze(0), z.flatten(0, 1).unsqueeze(1), groups=n * c)
    return out.unflatten(1, (n, c)).squeeze(0)


def eager_adaptive_sigmoid(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return b * torch.sigmoid(a * x + c) + d


def eager_adaptive_tanh(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return b * torch.tanh(a * x + c) + d


def eager_adaptive_relu(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.maximum(a * x + c, b * x + d)


def eager_iou_and_eiou(pred: Tensor, target: Tensor, eps: float = 1e-7) -> tuple[Tensor, Tensor]:
    size, target_size = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    overlap = (torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])).clamp(min=0)
    intersection = overlap.prod(1)
    iou = intersection / (size.prod(1) + target_size.prod(1) - intersection + eps)
    enclosing = torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])
    centres = (pred[:, :2] + pred[:, 2:] - target[:, :2] - target[:, 2:]).square().sum(1) / 4
    distance = centres / (enclosing.square().sum(1) + eps)
    sides = ((size - target_size).square() / (enclosing.square() + eps)).sum(1)
    return iou, 1 - iou + distance + sides


def eager_eiou_loss(pred: Tensor, target: Tensor) -> Tensor:
    return eager_iou_and_eiou(pred, target)[1].mean()


def eager_focal_eiou_loss(pred: Tensor, target: Tensor) -> Tensor:
    iou, eiou = eager_iou_and_eiou(pred, target)
    return (iou.detach().sqrt() * eiou).mean()


def eager_focal_l1_loss(pred: Tensor, target: Tensor, beta: float = 0.8) -> Tensor:
    alpha = torch.e * beta
    x = (pred - target).abs()
    near = -alpha * x.square() * (2 * torch.log(beta * x.clamp(min=1e-30)) - 1) / 4
    log_beta = torch.log(torch.tensor(beta, dtype=torch.float64)).item()
    return torch.where(x <= 1, near, -alpha * log_beta * x + (2 * alpha * log_beta + alpha) / 4).mean()


def eager_logistic_loss(responses: Tensor) -> Tensor:
    """The loss with labels and weights that are made once, as in a training loop."""
    labels, weights = _logistic_labels(responses.shape[-1], responses.dtype, responses.device)
    losses = F.binary_cross_entropy_with_logits(responses, labels.expand_as(responses), weights, reduction="none")
    return losses.sum((1, 2, 3)).mean()


_labels: dict[tuple, tuple[Tensor, Tensor]] = {}


@torch.inference_mode(False)  # because runs with gradients use it too
def _logistic_labels(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    if (size, dtype, device) not in _labels:
        axis = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
        positive = 8 * torch.hypot(axis[:, None], axis[None, :]) <= 16
        count = int(positive.sum())
        weights = torch.where(positive, 0.5 / count, 0.5 / (size * size - count))
        _labels[size, dtype, device] = positive.to(dtype), weights.to(dtype)
    return _labels[size, dtype, device]


def eager_box_peak(scores: Tensor, ltrb: Tensor, state: Tensor) -> Tensor:
    return fastops.reference.box_peak(scores, ltrb, state.clone(), unit=32.0)


# ---- inputs ----------------------------------------------------------------------------------------------------


def randn(*sizes: tuple[int, ...]) -> Callable[..., tuple[Tensor, ...]]:
    return lambda **options: tuple(torch.randn(s, **options) for s in sizes)


def boxes(n: int) -> Callable[..., tuple[Tensor, ...]]:
    """Predictions around their targets; most of them overlap."""

    def make(**options) -> tuple[Tensor, Tensor]:
        corner, size = torch.rand(n, 2, **options), 0.1 + torch.rand(n, 2, **options)
        target = torch.cat((corner, corner + size), 1)
        shift = 0.2 * size * torch.randn(n, 2, **options)
        pred_size = size * (0.2 * torch.randn(n, 2, **options)).exp()
        return torch.cat((corner + shift, corner + shift + pred_size), 1), target

    return make


def box_head_outputs(k: int) -> Callable[..., tuple[Tensor, ...]]:
    """Maps of k targets and their state, in the middle of a large image."""

    def make(**options) -> tuple[Tensor, Tensor, Tensor]:
        #       cx   cy   w   h    x      own  misses min  max_w max_h  image
        state = [500, 400, 60, 80, 277.0, 4.0, 0, 4.0, 2000, 1600, 1000, 800]
        scores, ltrb = torch.randn((k, 1, 17, 17), **options), torch.randn((k, 4, 17, 17), **options)
        return scores, ltrb, torch.tensor(state, **options).repeat(k, 1)

    return make


# ---- the table -------------------------------------------------------------------------------------------------


def _activations() -> list[Case]:
    cases = [
        Case("mish", size, randn((n,)), F.mish, fastops.mish, "mish", 2, 3)
        for size, n in (("1e3", 1_000), ("1e5", 100_000), ("1e6", 1_000_000), ("1.6e7", 16_000_000))
    ]
    for op, eager, fused in (
        ("adaptive_sigmoid", eager_adaptive_sigmoid, fastops.adaptive_sigmoid),
        ("adaptive_tanh", eager_adaptive_tanh, fastops.adaptive_tanh),
        ("adaptive_relu", eager_adaptive_relu, fastops.adaptive_relu),
    ):
        cases.append(Case(op, "1e6", randn((1_000_000,), *[(1,)] * 4), eager, fused, "adaptive", 2, 3))
        by_channel = randn((8, 128, 32, 32), *[(128,)] * 4)
        cases.append(Case(op, "8x128x32x32, per channel", by_channel, per_channel_of(eager), fused, "adaptive", 2, 3))

    def batch_norm_mish(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fastops.batch_norm_mish(x, None, None, weight, bias, training=True)

    size, shapes = "3x96x123x123", ((3, 96, 123, 123), (96,), (96,))  # after SiamFC's first convolution
    pool = ("mish_max_pool2d", (1.25, 2.25), {"triton_args": ((3, 3), (2, 2), (0, 0))})
    for op, inputs, eager, fused, family, values, options in (
        ("affine_mish", shapes, eager_affine_mish, fastops.affine_mish, "affine_mish", (2, 3), {}),
        (
            "batch_norm_mish",
            shapes,
            eager_batch_norm_mish,
            batch_norm_mish,
            "affine_mish",
            (3, 5),
            {"triton_args": None},
        ),
        ("mish_max_pool2d", shapes[:1], eager_mish_max_pool2d, fastops.mish_max_pool2d, *pool),
    ):
        for channels_last in (False, True):
            case = Case(op, size, randn(*inputs), eager, fused, family, *values, channels_last, **options)
            cases.append(case)
    return cases + _after_a_convolution(size, *shapes[:2])


def _after_a_convolution(size: str, *shapes: tuple[int, ...]) -> list[Case]:
    options = {"channels_last": True, "differentiable": ()}
    whole = ("bias_activation", 2, 0)
    pooled = ("bias_activation", 1.25, 0)
    return [
        Case("bias_activation", size, randn(*shapes), eager_bias_mish, bias_mish, *whole,
             triton_args=("mish", (1, 1), (1, 1), False), **options),
        Case("bias_activation pooled", size, randn(*shapes), eager_bias_mish_max_pool2d, bias_mish_max_pool2d, *pooled,
             triton_args=None, **options),
    ]  # fmt: skip


def _losses() -> list[Case]:
    cases = []
    of_pred = {"differentiable": (0,), "triton_args": None}
    for size, n in (("1e3 boxes", 1_000), ("1e5 boxes", 100_000)):
        for op, eager, fused in (
            ("eiou_loss", eager_eiou_loss, fastops.eiou_loss),
            ("focal_eiou_loss", eager_focal_eiou_loss, fastops.focal_eiou_loss),
        ):
            cases.append(Case(op, size, boxes(n), eager, fused, "box_loss", 2, 1, **of_pred))
    inputs = randn((100_000, 4), (100_000, 4))
    functions = eager_focal_l1_loss, fastops.focal_l1_loss
    cases.append(Case("focal_l1_loss", "1e5x4", inputs, *functions, "box_loss", 2, 3, **of_pred))
    for shape in ((8, 1, 17, 17), (64, 1, 17, 17), (64, 1, 255, 255)):
        op, size, triton_args = "balanced_logistic_loss", "x".join(map(str, shape)), (16.0, 8.0, "mean", None)
        functions = eager_logistic_loss, fastops.balanced_logistic_loss
        cases.append(Case(op, size, randn(shape), *functions, "logistic_loss", 1, 2, triton_args=triton_args))
    return cases


def _attention() -> list[Case]:
    cases = []
    for n in (1, 8, 32):
        size = (n, 256, 22, 22)
        inputs = randn(size, (16, 256), (16,), (256, 16), (256,))
        case = ("se_attention", f"{n}x256x22x22", inputs, eager_se_attention, fastops.se_attention, "se", 3, 4)
        cases.append(Case(*case))
        if n == 8:
            cases.append(Case(*case, channels_last=True))
            scale = ("se_scale", f"{n}x256x22x22", randn(size, (n, 256)), eager_se_scale, fastops.se_scale, "se", 2, 3)
            cases.append(Case(*scale))
    return cases


def _xcorr(z: Tensor, x: Tensor) -> Tensor:
    return fastops.xcorr(z, x, 0.001)


def _correlations() -> list[Case]:
    cases = []
    for nz, nx in ((1, 1), (1, 3), (8, 8), (8, 24)):
        inputs = randn((nz, 256, 6, 6), (nx, 256, 22, 22))
        case = ("xcorr", f"{nz}:{nx}x256, 6x6 on 22x22", inputs, eager_xcorr, _xcorr, "xcorr", 0, 0)
        cases.append(Case(*case, triton_args=(0.001,)))
        if nz != 1 or nx == 3:
            cases.append(Case(*case, channels_last=True, triton_args=(0.001,)))
    inputs = randn((8, 256, 6, 6), (8, 256, 22, 22))
    depthwise = (eager_xcorr_depthwise, fastops.xcorr_depthwise)
    cases.append(Case("xcorr_depthwise", "8:8x256, 6x6 on 22x22", inputs, *depthwise, "xcorr", 0, 0))
    return cases


def _tracking() -> list[Case]:
    def box_peak(scores: Tensor, ltrb: Tensor, state: Tensor) -> Tensor:
        return fastops.box_peak(scores, ltrb, state.float().clone(), unit=32.0)

    return [
        Case("box_peak", f"{k}x17x17", box_head_outputs(k), eager_box_peak, box_peak, "box_peak", 0, 0,
             channels_last=True, differentiable=(), triton_args=None)
        for k in (1, 64)
    ]  # fmt: skip


def _large() -> list[Case]:
    """Tensors of 256 MB in float32 and 128 MB in 16 bits, at least twice as large as the largest cache of a GPU."""
    cases = [Case("mish", "6.7e7", randn((2**26,)), F.mish, fastops.mish, "mish", 2, 3)]
    for op, eager, fused in (
        ("adaptive_sigmoid", eager_adaptive_sigmoid, fastops.adaptive_sigmoid),
        ("adaptive_tanh", eager_adaptive_tanh, fastops.adaptive_tanh),
        ("adaptive_relu", eager_adaptive_relu, fastops.adaptive_relu),
    ):
        cases.append(Case(op, "6.7e7", randn((2**26,), *[(1,)] * 4), eager, fused, "adaptive", 2, 3))
    size, shape = "64x256x64x64", (64, 256, 64, 64)

    def batch_norm_mish(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fastops.batch_norm_mish(x, None, None, weight, bias, training=True)

    pool = ("mish_max_pool2d", (1.25, 2.25), {"triton_args": ((3, 3), (2, 2), (0, 0))})
    layers = ((256,), (256,))
    attention = ((16, 256), (16,), (256, 16), (256,))
    for op, inputs, eager, fused, family, values, options in (
        ("affine_mish", (shape, *layers), eager_affine_mish, fastops.affine_mish, "affine_mish", (2, 3), {}),
        (
            "batch_norm_mish",
            (shape, *layers),
            eager_batch_norm_mish,
            batch_norm_mish,
            "affine_mish",
            (3, 5),
            {"triton_args": None},
        ),
        ("mish_max_pool2d", (shape,), eager_mish_max_pool2d, fastops.mish_max_pool2d, *pool),
        ("se_scale", (shape, (64, 256)), eager_se_scale, fastops.se_scale, "se", (2, 3), {}),
        ("se_attention", (shape, *attention), eager_se_attention, fastops.se_attention, "se", (3, 4), {}),
    ):
        for channels_last in (False, True):
            cases.append(Case(op, size, randn(*inputs), eager, fused, family, *values, channels_last, **options))
    cases += _after_a_convolution(size, shape, layers[0])
    inputs = randn((192, 256, 6, 6), (192, 256, 22, 22))
    cases.append(
        Case(
            "xcorr", "192:192x256, 6x6 on 22x22", inputs, eager_xcorr, _xcorr, "xcorr", 0, 0, True, triton_args=(0.001,)
        )
    )
    return cases


def cases(large: bool = False) -> list[Case]:
    return _large() if large else [*_activations(), *_losses(), *_attention(), *_correlations(), *_tracking()]
