"""Samples of the box losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed

EPS = 1e-7


def boxes(draw: Draw, *shape: int, fmt: str = "xyxy", layout: Callable = contiguous) -> Tensor:
    """Boxes [*shape, 4] with sides of 0.5 and more about the origin."""
    values = draw(*shape, 4).double()
    first, sides = values[..., :2], values[..., 2:].abs() + 0.5
    return layout(torch.cat((first, first + sides if fmt == "xyxy" else sides), -1).to(draw.dtype))


def _pair(*shape: int, fmt: str = "xyxy", layout: Callable = contiguous) -> Callable:
    return lambda draw: tuple(boxes(draw, *shape, fmt=fmt, layout=layout) for _ in range(2))


def _against(*preds: tuple[float, float, float, float]) -> Callable:
    """These boxes against [0, 0, 4, 2]; numbers that every dtype holds."""

    def make(draw: Draw) -> tuple[Tensor, Tensor]:
        pred = torch.tensor(preds, device=draw.device, dtype=draw.dtype)
        return pred, pred.new_tensor((0.0, 0.0, 4.0, 2.0)).repeat(len(preds), 1)

    return make


#: name -> (how to draw pred and target, format, reduction)
_CASES = {
    "each": (_pair(7), "xyxy", "none"),
    "mean": (_pair(33), "xyxy", "mean"),
    "sum": (_pair(5), "xyxy", "sum"),
    "one": (_pair(1), "xyxy", "mean"),
    "one_0d": (_pair(), "xyxy", "none"),
    "xywh": (_pair(9, fmt="xywh"), "xywh", "none"),
    "xywh_mean": (_pair(40, fmt="xywh"), "xywh", "mean"),
    "cxcywh": (_pair(3, 5, fmt="cxcywh"), "cxcywh", "none"),
    "cxcywh_sum": (_pair(20, fmt="cxcywh"), "cxcywh", "sum"),
    "two_blocks": (_pair(129), "xyxy", "none"),
    "pieces": (_pair(3, 4099), "xyxy", "sum"),
    "pieces_each": (_pair(2, 4099), "xyxy", "none"),
    "no_boxes": (_pair(0), "xyxy", "none"),
    "mean_of_none": (_pair(2, 0), "xyxy", "mean"),
    "channels_last": (_pair(2, 3, 5, layout=channels_last), "xyxy", "none"),
    "transposed": (_pair(3, 7, layout=transposed), "xyxy", "none"),
    "sliced": (_pair(4, 5, layout=sliced), "xyxy", "none"),
    "sliced_mean": (_pair(4, 5, fmt="xywh", layout=sliced), "xywh", "mean"),
    "offset": (_pair(3, 7, layout=offset), "xyxy", "none"),
    "expanded": (_pair(3, 7, layout=expanded), "xyxy", "none"),
    "same": (_against((0, 0, 4, 2)), "xyxy", "none"),
    "nested": (_against((1, 0.5, 2, 1), (-1, -1, 5, 3)), "xyxy", "none"),
    "apart": (_against((5, 0, 7, 1), (-3, -4, -2, -1), (1, 4, 2, 8)), "xyxy", "none"),
    "edges_coincide": (
        _against((0, 0, 3, 2), (0, 0, 5, 2), (1, 0, 4, 3), (0, 0.5, 4, 1), (4, 0, 6, 1)),
        "xyxy",
        "none",
    ),
}
_CORE = ("each", "mean", "no_boxes", "channels_last", "transposed", "sliced_mean", "cxcywh")
#: What tests a formula. Layouts, sizes and reductions are the same code for every kind: EIoU alone has all of _CASES.
_FORMULA_CASES = (
    *("each", "mean", "two_blocks", "xywh", "cxcywh", "no_boxes", "same", "nested", "apart", "edges_coincide"),
)
_FORMULA_CORE = ("each", "mean", "cxcywh")


#: name -> the same, then gamma and detach_weight
_FOCAL_CASES = {name: (*_CASES[name], 0.5, True) for name in (*_FORMULA_CASES, "pieces", "sliced_mean")} | {
    "power": (_pair(40), "xyxy", "none", 0.7, True),
    "power_mean": (_pair(40, fmt="xywh"), "xywh", "mean", 1.5, True),
    "gamma_0": (_pair(9), "xyxy", "none", 0.0, True),
    "weighted": (_pair(33), "xyxy", "weighted", 0.5, True),
    "weighted_power": (_pair(40, fmt="cxcywh"), "cxcywh", "weighted", 2.0, True),
    "weighted_pieces": (_pair(3, 4099), "xyxy", "weighted", 0.5, True),
    "weighted_none": (_pair(0), "xyxy", "weighted", 0.5, True),
    "weighted_apart": (_against((5, 0, 7, 1), (-3, -4, -2, -1)), "xyxy", "weighted", 0.5, True),
    "live": (_pair(17), "xyxy", "none", 0.5, False),
    "live_mean": (_pair(17, fmt="cxcywh"), "cxcywh", "mean", 0.7, False),
    "live_weighted": (_pair(9), "xyxy", "weighted", 0.5, False),
    "live_weighted_pieces": (_pair(3, 4099), "xyxy", "weighted", 0.5, False),
    "live_edges_coincide": (*_CASES["edges_coincide"], 0.5, False),
    "live_gamma_2": (_pair(9, fmt="xywh"), "xywh", "none", 2.0, False),
}


def _row(kind: str) -> Op:
    cases = _CASES if kind == "eiou" else {name: _CASES[name] for name in _FORMULA_CASES}
    return Op(
        name=f"{kind}_loss",
        op=getattr(fastops, f"{kind}_loss"),
        reference=getattr(reference, f"{kind}_loss"),
        samples={
            name: lambda draw, make=make, settings=settings: (*make(draw), *settings)
            for name, (make, *settings) in cases.items()
        },
        differentiable=(0, 1),
        backward_arity=None,
        pointwise=True,
        autocast="float32",
        core=_CORE if kind == "eiou" else _FORMULA_CORE,
        # Not of ciou: numerical differentiation does not know that alpha is a constant.
        small=() if kind == "ciou" else ("each", "mean", "xywh", "cxcywh", "nested"),
        vmap_dims=((0, 0, None, None), (1, None, None, None), (None, -1, None, None)),
        schema_name="box_loss",
        scale_schema="box_loss_backward_scale",
        schema_args=lambda inputs: (*inputs[:2], kind, *inputs[2:], 0.0, True, EPS, True, True),
    )


_FOCAL_EIOU = Op(
    name="focal_eiou_loss",
    op=fastops.focal_eiou_loss,
    reference=reference.focal_eiou_loss,
    memory_bound_kernels=("box_loss_scale_kernel",),  # a box of a half type is but 8 bytes in box_loss_kernel
    samples={
        name: lambda draw, make=make, fmt=fmt, reduction=reduction, gamma=gamma, detach=detach: (
            *make(draw), gamma, fmt, reduction, detach
        )
        for name, (make, fmt, reduction, gamma, detach) in _FOCAL_CASES.items()
    },  # fmt: skip
    differentiable=(0, 1),
    backward_arity=None,
    pointwise=True,
    autocast="float32",
    core=(*_FORMULA_CORE, "weighted", "live_weighted", "power"),
    small=("gamma_0", "live", "live_mean", "live_weighted", "live_gamma_2"),  # as for ciou
    vmap_dims=((0, 0, None, None, None, None), (1, None, None, None, None, None)),
    schema_name="box_loss",
    scale_schema="box_loss_backward_scale",
    schema_args=lambda inputs: (
        *(*inputs[:2], "focal_eiou", *inputs[3:5], inputs[2], inputs[5], EPS, True, True),
    ),
)  # fmt: skip


def _weighted(op: Callable) -> Callable:
    """The op with the weights of the boxes as its third tensor."""
    return lambda pred, target, weight, *settings: op(pred, target, *settings, weight=weight)


def _weights(*shape: int) -> Callable:
    return lambda draw: draw(*shape).abs() + 0.125


#: name -> how to draw pred and target, the weights, format, reduction
_WEIGHTED_CASES = {
    "each": (_pair(7), _weights(7), "xyxy", "none"),
    "mean": (_pair(33), _weights(33), "xyxy", "mean"),
    "sum": (_pair(20, fmt="cxcywh"), _weights(20), "cxcywh", "sum"),
    "pieces": (_pair(8, 4099), _weights(8, 4099), "xyxy", "sum"),
    "broadcast": (_pair(3, 5), _weights(5), "xyxy", "mean"),
    "broadcast_sum": (_pair(3, 5, fmt="xywh"), _weights(3, 1), "xywh", "sum"),
    "one_weight": (_pair(9), _weights(), "xyxy", "sum"),
    "no_boxes": (_pair(0), _weights(0), "xyxy", "mean"),
    "edges_coincide": (_CASES["edges_coincide"][0], _weights(5), "xyxy", "none"),
}
_FOCAL_WEIGHTED_CASES = {name: (*case, 0.5, True) for name, case in _WEIGHTED_CASES.items()} | {
    "weighted": (_pair(33), _weights(33), "xyxy", "weighted", 0.5, True),
    "weighted_power": (_pair(40, fmt="cxcywh"), _weights(40), "cxcywh", "weighted", 2.0, True),
    "weighted_pieces": (_pair(8, 4099), _weights(4099), "xyxy", "weighted", 0.5, True),
    "weighted_apart": (_against((5, 0, 7, 1), (-3, -4, -2, -1)), _weights(2), "xyxy", "weighted", 0.5, True),
    "live_mean": (_pair(17, fmt="cxcywh"), _weights(17), "cxcywh", "mean", 0.7, False),
    "live_weighted": (_pair(9), _weights(9), "xyxy", "weighted", 0.5, False),
}


def _weighted_row(row: Op, samples: dict[str, Sample], core: tuple[str, ...], small: tuple[str, ...]) -> Op:
    return replace(
        row,
        name=f"weighted_{row.name}",
        op=_weighted(row.op),
        reference=_weighted(row.reference),
        samples=samples,
        differentiable=(0, 1, 2),
        core=core,
        small=small,
        vmap_dims=((0, 0, 0, None, None), (0, 0, None, None, None), (None, None, 0, None, None)),
        schema_args=lambda inputs: row.schema_args((*inputs[:2], *inputs[3:])),
        around_schema=True,
    )


_WEIGHTED = _weighted_row(
    _row("eiou"),
    {
        name: lambda draw, make=make, weights=weights, settings=settings: (*make(draw), weights(draw), *settings)
        for name, (make, weights, *settings) in _WEIGHTED_CASES.items()
    },
    core=("each", "mean", "broadcast", "one_weight", "no_boxes"),
    small=("each", "mean", "broadcast", "broadcast_sum"),
)
_WEIGHTED_FOCAL = _weighted_row(
    _FOCAL_EIOU,
    {
        name: lambda draw, make=make, weights=weights, fmt=fmt, reduction=reduction, gamma=gamma, detach=detach: (
            *make(draw), weights(draw), gamma, fmt, reduction, detach
        )
        for name, (make, weights, fmt, reduction, gamma, detach) in _FOCAL_WEIGHTED_CASES.items()
    },
    core=("each", "mean", "weighted"),
    small=("live_mean", "live_weighted"),
)  # fmt: skip


def _values(*shape: int, layout: Callable = contiguous, beta: float = 0.8, reduction: str = "none") -> Sample:
    return lambda draw: (draw(*shape, layout=layout), draw(*shape, layout=layout), beta, reduction)


_FOCAL_L1 = Op(
    name="focal_l1_loss",
    op=fastops.focal_l1_loss,
    reference=reference.focal_l1_loss,
    memory_bound_kernels=("focal_l1_kernel", "focal_l1_backward_kernel"),
    samples={
        "each": _values(3, 7),
        "mean": _values(5, 9, reduction="mean"),
        "sum": _values(5, 9, reduction="sum"),
        "0d": _values(),
        "beta_1": _values(40, beta=1.0),
        "beta_least": _values(40, beta=math.exp(-1), reduction="mean"),
        "two_blocks": _values(513),
        "pieces": _values(3, 4099, reduction="mean"),
        "pieces_each": _values(3, 4099),
        "empty": _values(0, 4),
        "mean_of_none": _values(0, reduction="mean"),
        "channels_last": _values(2, 3, 5, 4, layout=channels_last),
        "transposed": _values(3, 7, layout=transposed),
        "transposed_mean": _values(3, 7, layout=transposed, reduction="mean"),
        "sliced": _values(4, 5, layout=sliced),
        "offset": _values(3, 7, layout=offset),
        "expanded": _values(3, 7, layout=expanded),
    },
    differentiable=(0, 1),
    backward_arity=4,
    pointwise=True,
    autocast="float32",
    core=("each", "mean", "0d", "empty", "channels_last", "transposed_mean", "sliced"),
    small=("each", "mean", "beta_least", "sliced"),
    vmap_dims=((0, 0, None, None), (1, None, None, None), (None, -1, None, None)),
)

ROWS = (
    *(_row(kind) for kind in ("iou", "giou", "diou", "ciou", "eiou")),
    _FOCAL_EIOU,
    _WEIGHTED,
    _WEIGHTED_FOCAL,
    _FOCAL_L1,
)
