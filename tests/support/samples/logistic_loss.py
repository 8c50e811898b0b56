"""Samples of balanced_logistic_loss."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _maps(
    *shape: int,
    layout: Callable = contiguous,
    radius: float = 16.0,
    stride: float = 8.0,
    reduction: str = "mean",
    centers: Callable | None = None,
) -> Sample:
    def make(draw: Draw) -> tuple:
        responses = draw(*shape, layout=layout, std=3.0)
        if centers is None:
            return responses, radius, stride, reduction, None
        middle = draw(prod(shape[:-2]), 2, std=shape[-1] / 4, mean=shape[-1] / 2).float()
        return responses, radius, stride, reduction, centers(middle)

    return make


ROWS = (
    Op(
        name="balanced_logistic_loss",
        op=fastops.balanced_logistic_loss,
        reference=reference.balanced_logistic_loss,
        memory_bound_kernels=("balanced_logistic_loss_kernel", "balanced_logistic_loss_backward_kernel"),
        samples={
            "siamfc": _maps(8, 1, 17, 17),
            "siamfc_none": _maps(8, 1, 17, 17, reduction="none"),
            "siamfc_sum": _maps(8, 1, 17, 17, reduction="sum"),
            "one_map": _maps(5, 4, radius=9.0),
            "three_dims": _maps(3, 6, 9, reduction="none"),
            "five_dims": _maps(2, 3, 2, 5, 7, radius=8.0, reduction="none"),
            "one_positive": _maps(3, 1, 5, 5, radius=0.0),
            "two_negatives": _maps(2, 1, 3, radius=7.9),
            "one_row": _maps(4, 1, 33, reduction="none"),
            "one_column": _maps(4, 33, 1),
            "all_but_corners": _maps(2, 5, 7, radius=3.5, stride=1.0, reduction="none"),
            "fractional_stride": _maps(3, 1, 19, 21, radius=5.3, stride=1.7),
            "block_plus_1": _maps(2, 27, 19),
            "wide": _maps(2, 3, 1037, radius=300.0, stride=1.0),
            "large": _maps(3, 1, 255, 255),
            "large_none": _maps(3, 1, 255, 255, radius=64.0, reduction="none"),
            "threads": _maps(150, 1, 17, 17),
            "channels_last": _maps(2, 3, 9, 11, layout=channels_last, reduction="none"),
            "transposed": _maps(2, 3, 9, 11, layout=transposed),
            "sliced": _maps(2, 9, 11, layout=sliced, reduction="none"),
            "offset": _maps(2, 3, 33, 35, layout=offset, reduction="none"),
            "offset_large": _maps(2, 1, 97, 99, layout=offset),
            "expanded": _maps(3, 1, 9, 11, layout=expanded),
            "no_maps": _maps(0, 1, 17, 17, reduction="none"),
            "sum_of_no_maps": _maps(2, 0, 17, 17, reduction="sum"),
            "centers": _maps(5, 1, 17, 17, centers=contiguous),
            "centers_none": _maps(4, 9, 11, centers=contiguous, reduction="none"),
            "centers_large": _maps(2, 1, 255, 129, centers=contiguous, reduction="sum"),
            "centers_transposed": _maps(2, 3, 9, 11, centers=transposed, reduction="none"),
        },
        differentiable=(0,),
        backward_arity=5,
        pointwise=True,
        autocast="float32",
        core=(
            *("siamfc_none", "siamfc_sum", "one_map", "centers", "centers_transposed"),
            *("no_maps", "channels_last", "transposed", "sliced"),
        ),
        small=("one_map", "one_positive", "three_dims", "centers_none", "sliced"),
        vmap_dims=((0, None, None, None, None), (2, None, None, None, None)),
    ),
)
