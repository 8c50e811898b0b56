"""Samples of bias_activation."""

from __future__ import annotations

from collections.abc import Callable

import fastops
from fastops import reference
from tests.support.op_table import Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _sample(
    *shape: int,
    activation: str = "mish",
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    layout: Callable = channels_last,
    parameters: Callable = contiguous,
) -> Sample:
    return lambda draw: (
        draw(*shape, layout=layout, std=2.0, mean=-0.5),
        draw(shape[1], layout=parameters),
        activation,
        list(kernel),
        list(stride),
    )


_POOL = {"kernel": (3, 3), "stride": (2, 2)}

ROWS = (
    Op(
        name="bias_activation",
        op=fastops.bias_activation,
        reference=reference.bias_activation,
        memory_bound_kernels=("bias_activation_kernel", "bias_activation_windows_kernel"),
        samples={
            "channels_last": _sample(2, 33, 3, 5),
            "channels_last_packs": _sample(2, 16, 3, 5),
            "none": _sample(2, 16, 3, 5, activation="none"),
            "relu": _sample(2, 16, 3, 5, activation="relu"),
            "contiguous": _sample(2, 5, 3, 7, layout=contiguous),
            "one_pixel": _sample(3, 72, 1, 1),
            "one_channel": _sample(3, 1, 5, 5, activation="none"),
            "many_channels": _sample(2, 2072, 2, 3),
            "pieces": _sample(2, 96, 31, 29, activation="relu"),
            "strided": _sample(2, 16, 5, 6, stride=(2, 3)),
            "pool": _sample(2, 33, 7, 9, **_POOL),
            "pool_packs": _sample(2, 16, 7, 9, **_POOL),
            "pool_none": _sample(2, 16, 7, 9, activation="none", **_POOL),
            "pool_relu": _sample(2, 24, 8, 12, activation="relu", **_POOL),
            "pool_contiguous": _sample(2, 5, 7, 9, layout=contiguous, **_POOL),
            "pool_one_window": _sample(2, 8, 3, 3, **_POOL),
            "pool_pairs": _sample(2, 3, 9, 8, activation="relu", kernel=(2, 4), stride=(3, 1)),
            "pool_threads": _sample(3, 96, 17, 19, **_POOL),
            "transposed": _sample(2, 3, 5, 7, layout=transposed),
            "sliced": _sample(2, 3, 5, 7, layout=sliced, parameters=sliced, **_POOL),
            "offset": _sample(1, 16, 3, 4, layout=offset, parameters=offset),
            "offset_channels_last": _sample(
                2, 16, 5, 5, layout=lambda t: offset(t).as_strided(t.shape, channels_last(t).stride()), **_POOL
            ),
            "offset_bias": _sample(2, 16, 5, 5, parameters=offset, **_POOL),
            "expanded": _sample(3, 4, 5, 6, layout=expanded),
            "no_batch": _sample(0, 3, 4, 4),
            "no_channels": _sample(2, 0, 4, 4, **_POOL),
        },
        differentiable=(0, 1),
        backward_arity=None,
        pointwise=True,
        autocast="keep",
        core=("contiguous", "channels_last", "pool", "no_batch", "transposed", "sliced", "pool_relu", "none"),
        small=("channels_last_packs", "pool_pairs", "pool_contiguous", "sliced"),
        vmap_dims=((0, None, None, None, None), (2, 0, None, None, None), (None, 0, None, None, None)),
        schema_args=lambda inputs: (*inputs, False),
    ),
)
