"""Samples of mish_max_pool2d."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _pool(
    *shape: int,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (2, 2),
    padding: tuple[int, int] = (0, 0),
    layout: Callable = contiguous,
    mean: float = -0.5,  # with Mish's minimum at -1.19, about as many windows have their largest Mish at either end
) -> Sample:
    return lambda draw: (draw(*shape, layout=layout, std=2.0, mean=mean), list(kernel), list(stride), list(padding))


def _repeated(layout: Callable[[Tensor], Tensor]) -> Sample:
    """Many equal values, most on the falling side: the first position of a window must have the gradient."""

    def make(draw: Draw) -> tuple:
        values = torch.tensor([-4.0, -3.0, -2.0, 0.5], dtype=draw.dtype, device=draw.device)
        at = torch.randint(0, 4, (2, 5, 9, 11), generator=draw.generator).to(draw.device)
        return layout(values[at.clamp(max=2) if draw.generator.initial_seed() % 2 else at]), [3, 3], [2, 2], [0, 0]

    return make


ROWS = (
    Op(
        name="mish_max_pool2d",
        op=fastops.mish_max_pool2d,
        reference=reference.mish_max_pool2d,
        memory_bound_kernels=("mish_max_pool2d_kernel", "mish_max_pool2d_winners_kernel"),
        samples={
            "one": _pool(1, 1, 1, 1, kernel=(1, 1), stride=(1, 1)),
            "one_window": _pool(2, 3, 3, 3),
            "three_dims": _pool(3, 7, 9),
            "four_dims": _pool(2, 5, 7, 9),
            "falling": _pool(2, 5, 7, 9, mean=-4.0),
            "rows_left_over": _pool(1, 2, 8, 12),
            "pairs": _pool(2, 3, 9, 8, kernel=(2, 4), stride=(3, 1), padding=(1, 2)),
            "padding": _pool(2, 3, 6, 7, padding=(1, 1)),
            "padding_channels_last": _pool(2, 17, 6, 7, padding=(1, 1), layout=channels_last),
            "only_padding_left_over": _pool(1, 2, 1, 1, kernel=(2, 2), stride=(2, 2), padding=(1, 1)),
            "two_by_two": _pool(2, 3, 10, 37, kernel=(2, 2)),
            "overlapping": _pool(1, 3, 9, 40, kernel=(5, 5), stride=(1, 1)),
            "overlapping_channels_last": _pool(1, 3, 9, 8, kernel=(5, 5), stride=(1, 1), layout=channels_last),
            "apart": _pool(1, 3, 11, 23, kernel=(2, 2), stride=(4, 5)),
            "apart_channels_last": _pool(1, 3, 11, 23, kernel=(2, 2), stride=(4, 5), layout=channels_last),
            "whole": _pool(2, 3, 5, 19, kernel=(5, 19), stride=(1, 1)),
            "bands": _pool(1, 2, 300, 130),
            "bands_channels_last": _pool(1, 70, 31, 37, layout=channels_last),
            "threads": _pool(3, 13, 41, 43),
            "threads_channels_last": _pool(3, 96, 17, 19, layout=channels_last),
            "channels_last": _pool(2, 33, 5, 7, layout=channels_last),
            "channels_last_one_window": _pool(2, 16, 3, 3, layout=channels_last),
            "transposed": _pool(2, 3, 5, 7, layout=transposed),
            "sliced": _pool(2, 3, 5, 7, layout=sliced),
            "offset": _pool(1, 3, 5, 21, layout=offset),
            "offset_channels_last": _pool(
                2, 16, 5, 5, layout=lambda t: offset(t).as_strided(t.shape, channels_last(t).stride())
            ),
            "expanded": _pool(3, 4, 5, 6, layout=expanded),
            "repeated": _repeated(contiguous),
            "repeated_channels_last": _repeated(channels_last),
            "no_batch": _pool(0, 3, 4, 4),
            "no_channels": _pool(2, 0, 4, 4),
        },
        differentiable=(0,),
        backward_arity=4,
        pointwise=False,  # beside Mish's zero as above
        autocast="keep",
        core=("four_dims", "three_dims", "padding", "no_batch", "channels_last", "transposed", "sliced", "repeated"),
        small=("four_dims", "three_dims", "padding", "channels_last", "sliced"),
        vmap_dims=((0, None, None, None), (2, None, None, None)),
    ),
)
