"""Samples of mish."""

from __future__ import annotations

from collections.abc import Callable

import fastops
from fastops import reference
from tests.support.op_table import Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _mish(*shape: int, layout: Callable = contiguous) -> Sample:
    return lambda draw: (draw(*shape, layout=layout, std=3.0),)


ROWS = (
    Op(
        name="mish",
        op=fastops.mish,
        reference=reference.mish,
        samples={
            "0d": _mish(),
            "one": _mish(1),
            "odd": _mish(3, 5, 7),
            "block_plus_1": _mish(513),
            "odd_blocks": _mish(17, 59),
            "threads": _mish(3, 16385),
            "five_dims": _mish(2, 3, 2, 3, 2),
            "empty": _mish(0),
            "empty_batch": _mish(0, 3, 4, 4),
            "empty_channels": _mish(2, 0, 5),
            "channels_last": _mish(2, 5, 3, 7, layout=channels_last),
            "channels_last_3d": _mish(2, 3, 2, 3, 5, layout=channels_last),
            "transposed": _mish(3, 5, 7, layout=transposed),
            "sliced": _mish(4, 33, layout=sliced),
            "sliced_threads": _mish(2, 20001, layout=sliced),
            "offset": _mish(5, 129, layout=offset),
            "expanded": _mish(3, 4, 5, layout=expanded),
        },
        differentiable=(0,),
        backward_arity=1,
        pointwise=True,
        autocast="keep",
        core=("odd", "0d", "empty_batch", "channels_last", "transposed", "sliced", "expanded"),
        small=("0d", "odd", "channels_last", "sliced"),
        vmap_dims=((0,), (1,), (-1,)),
        memory_bound_kernels=("mish_kernel", "mish_backward_kernel"),
    ),
)
