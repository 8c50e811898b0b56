"""Balanced logistic loss of score maps: public function, fake kernels, gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._checks import check, check_floating, check_same_device, check_same_dtype, dtype_name
from fastops.ops._register import reference_vjp, register_autocast
from fastops.ops._transforms import in_transform

_loss = torch.ops.fastops.balanced_logistic_loss.default
_loss_backward = torch.ops.fastops.balanced_logistic_loss_backward.default


def balanced_logistic_loss(
    responses: Tensor,
    radius: float = 16.0,
    stride: float = 8.0,
    reduction: str = "mean",
    centers: Tensor | None = None,
) -> Tensor:
    r"""Logistic loss of score maps, in which positives and negatives each have half of the weight of a map.

    $$
    L(v) = \sum_u w_u \ln(1 + e^{-y_u v_u}), \quad
    y_u = \begin{cases} +1 & k \lVert u - c \rVert \le R \\ -1 & \text{else} \end{cases}, \quad
    w_u = \frac{0.5}{\lvert \{u' : y_{u'} = y_u\} \rvert}
    $$

    Args:
        responses: score maps v, [..., H, W] (SiamFC: [N, 1, 17, 17]); float32, float64, float16 or bfloat16 (half types
            compute in float32).
        radius: R, in pixels. Cells up to this distance from the centre are positives.
        stride: k, pixels per cell of the map.
        reduction: over the maps: "none" gives the loss of each map, [...]; "mean" and "sum" give a scalar.
        centers: c, float32 [N, 2] for N maps, in their order: row and column of the target in cells, counted from 0.
            The default is the middle ((H - 1) / 2, (W - 1) / 2). It gets no gradient.

    Returns:
        The loss, in the dtype of `responses`. For no maps the mean is NaN and the sum 0.

    Raises:
        RuntimeError: `balanced_logistic_loss: <argument> must ...` for other shapes, dtypes, devices and reductions,
            and for a radius that leaves no positive or no negative cell around the middle. The host does not read
            `centers`: with them, a label without cells adds nothing. The loss of a target off the map is half of the
            mean over its negatives.

    The kernel computes labels and weights from the cell's position, so neither needs a tensor. No response overflows,
    and the gradient of an infinite response is exact. Only `responses` is saved, and the backward pass recomputes the
    rest in one pass. Under `torch.autocast` responses are cast to float32, as for torch's own losses.

    Source: Bertinetto et al., "Fully-Convolutional Siamese Networks for Object Tracking", 2016, eq. 3-5; Zhang and
    Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 2-4, with w in place of
    1 / |D|.

    Examples:

        >>> import torch, fastops
        >>> fastops.balanced_logistic_loss(torch.zeros(8, 1, 17, 17))  # ln 2
        tensor(0.6931)
        >>> where = torch.tensor([[8.0, 8.0], [2.5, 11.0]])
        >>> fastops.balanced_logistic_loss(torch.zeros(2, 1, 17, 17), reduction="none", centers=where).shape
        torch.Size([2, 1])
    """
    if in_transform():
        return reference.balanced_logistic_loss(responses, radius, stride, reduction, centers)
    return _loss(responses, radius, stride, reduction, centers)


# ---- fake kernels and checks ---------------------------------------------------------------------------------


def _check(
    op: str, responses: Tensor, radius: float, stride: float, reduction: str, centers: Tensor | None
) -> tuple[int, ...]:
    """The shape of the loss."""
    check_floating(op, "responses", responses)
    shape = responses.shape
    check(
        len(shape) >= 2 and shape[-2] > 0 and shape[-1] > 0,
        f"{op}: responses must have shape [..., H, W] with H and W at least 1, got {list(shape)}",
    )
    check(math.isfinite(radius) and radius >= 0, f"{op}: radius must be finite and at least 0, got {radius:g}")
    check(math.isfinite(stride) and stride > 0, f"{op}: stride must be finite and above 0, got {stride:g}")
    limit = (radius / stride) * (radius / stride)
    check(reduction in ("none", "mean", "sum"), f"{op}: reduction must be none, mean or sum, got {reduction}")
    *leading, height, width = shape
    if centers is not None:
        maps = math.prod(leading)
        got = dtype_name(centers.dtype)
        check(centers.dtype == torch.float32, f"{op}: centers must have dtype float32, got {got}")
        check_same_device(op, "centers", centers, "responses", responses)
        check(
            list(centers.shape) == [maps, 2],
            f"{op}: centers must have shape [N, 2] = [{maps}, 2], got {list(centers.shape)}",
        )
    else:
        # The distances from the middle to the nearest and to the farthest cell, in half cells.
        nearest, farthest = (height + 1) % 2 + (width + 1) % 2, (height - 1) ** 2 + (width - 1) ** 2
        check(
            nearest <= 4 * limit and 4 * limit < farthest,
            f"{op}: radius must leave positives and negatives on a map of {height} x {width}, got {radius:g}",
        )
    return tuple(leading) if reduction == "none" else ()


def _check_forward(
    responses: Tensor, radius: float, stride: float, reduction: str, centers: Tensor | None
) -> tuple[int, ...]:
    return _check("balanced_logistic_loss", responses, radius, stride, reduction, centers)


def _check_backward(
    grad: Tensor, responses: Tensor, radius: float, stride: float, reduction: str, centers: Tensor | None
) -> None:
    op = "balanced_logistic_loss_backward"
    shape = _check(op, responses, radius, stride, reduction, centers)
    check_same_dtype(op, "grad", grad, "responses", responses)
    check_same_device(op, "grad", grad, "responses", responses)
    check(tuple(grad.shape) == shape, f"{op}: grad must have the shape of the loss, got {list(grad.shape)}")


#: The checks of csrc/common/logistic_loss.h, by schema.
CHECKS = {"balanced_logistic_loss": _check_forward, "balanced_logistic_loss_backward": _check_backward}


@torch.library.register_fake("fastops::balanced_logistic_loss")
def _(responses, radius, stride, reduction, centers):
    return responses.new_empty(CHECKS["balanced_logistic_loss"](responses, radius, stride, reduction, centers))


@torch.library.register_fake("fastops::balanced_logistic_loss_backward")
def _(grad, responses, radius, stride, reduction, centers):
    CHECKS["balanced_logistic_loss_backward"](grad, responses, radius, stride, reduction, centers)
    return torch.empty_like(responses, memory_format=torch.contiguous_format)


# ---- gradient, autocast, vmap --------------------------------------------------------------------------------


def _setup_context(ctx, inputs, output) -> None:
    responses, *ctx.settings, centers = inputs
    ctx.save_for_backward(responses, centers)


def _backward(ctx, grad):
    responses, centers = ctx.saved_tensors
    inputs = (responses, *ctx.settings, centers)
    if torch.is_grad_enabled():
        return reference_vjp(reference.balanced_logistic_loss, inputs, grad)
    return _loss_backward(grad, *inputs), None, None, None, None


torch.library.register_autograd("fastops::balanced_logistic_loss", _backward, setup_context=_setup_context)
register_autocast("balanced_logistic_loss", "float32")


@torch.library.register_vmap("fastops::balanced_logistic_loss")
def _(info, in_dims, responses, radius, stride, reduction, centers):
    if in_dims[0] is None:
        responses = responses.expand(info.batch_size, *responses.shape)
    else:
        responses = responses.movedim(in_dims[0], 0)
    if centers is not None:
        per_item = centers.expand(info.batch_size, -1, -1) if in_dims[4] is None else centers.movedim(in_dims[4], 0)
        centers = per_item.flatten(0, 1)
    losses = _loss(responses, radius, stride, "none", centers)  # [B, ...]
    if reduction != "none":
        losses = losses.flatten(1) if losses.dim() > 1 else losses[:, None]
        losses = losses.mean(1) if reduction == "mean" else losses.sum(1)
    return losses, 0
