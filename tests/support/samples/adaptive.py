"""Samples of adaptive_sigmoid, adaptive_tanh and adaptive_relu."""

from __future__ import annotations

from collections.abc import Callable

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _layer(*shape: int, parameters: tuple[int, ...] = (1,), layout: Callable = contiguous) -> Sample:
    return _adaptive(shape, parameters, layout, contiguous)


def _channels(*shape: int, layout: Callable = contiguous, parameters: Callable = contiguous) -> Sample:
    return _adaptive(shape, shape[1:2], layout, parameters)


def _adaptive(shape: tuple[int, ...], parameters: tuple[int, ...], layout: Callable, of_parameters: Callable) -> Sample:
    def make(draw: Draw) -> tuple:
        x = draw(*shape, layout=layout)
        return x, *(draw(*parameters, layout=of_parameters, std=0.3, mean=mean) for mean in (1.0, 0.7, 0.2, -0.4))

    return make


SAMPLES = {
    "layer_0d": _layer(parameters=()),
    "layer_one": _layer(1),
    "layer_odd": _layer(3, 5, 7),
    "layer_4d_parameters": _layer(2, 3, 5, parameters=(1, 1, 1, 1)),
    "layer_strip_plus_1": _layer(65),
    "layer_tasks_plus_1": _layer(2 * 16384 + 1, parameters=()),
    "layer_channels_last": _layer(2, 5, 3, 7, layout=channels_last),
    "layer_sliced": _layer(4, 33, layout=sliced),
    "layer_offset": _layer(5, 129, layout=offset),
    "layer_empty": _layer(0),
    "one_channel": _channels(3, 1, 5),
    "no_pixel_dims": _channels(7, 5),
    "many_channels_no_pixel_dims": _channels(3, 131),
    "one_pixel": _channels(2, 70, 1, 1),
    "two_pixels": _channels(3, 19, 2),
    "four_dims": _channels(2, 5, 3, 7),
    "five_dims": _channels(2, 3, 2, 3, 5),
    "odd_rows": _channels(3, 4, 17, 59),
    "long_rows": _channels(2, 2, 16385),
    "threads": _channels(3, 70, 17, 31),
    "threads_channels_last": _channels(3, 70, 17, 31, layout=channels_last),
    "channels_last": _channels(2, 33, 3, 5, layout=channels_last),
    "channels_last_3": _channels(2, 3, 9, 13, layout=channels_last),
    "channels_last_packs": _channels(2, 24, 7, 5, layout=channels_last),
    "channels_last_wide": _channels(1, 600, 2, 3, layout=channels_last),
    "channels_last_3d": _channels(2, 5, 2, 3, 3, layout=channels_last),
    "transposed": _channels(2, 17, 3, 5, layout=transposed),
    "sliced": _channels(2, 5, 3, 4, layout=sliced, parameters=sliced),
    "offset": _channels(2, 33, 9, layout=offset, parameters=offset),
    "expanded": _channels(3, 4, 5, layout=expanded),
    "no_batch": _channels(0, 3, 2, 2),
    "no_channels": _channels(2, 0, 2, 2),
    "no_pixels": _channels(2, 3, 0, 4),
}


def _row(name: str) -> Op:
    return Op(
        name=name,
        op=getattr(fastops, name),
        reference=getattr(reference, name),
        samples=SAMPLES,
        differentiable=(0, 1, 2, 3, 4),
        backward_arity=5,
        pointwise=False,  # adding d cancels
        autocast="keep",
        core=("four_dims", "layer_odd", "layer_0d", "no_batch", "channels_last", "transposed", "sliced"),
        small=("layer_0d", "layer_odd", "four_dims", "no_pixel_dims", "channels_last_3", "sliced"),
        vmap_dims=(
            (0, None, None, None, None),
            (2, None, None, None, None),
            (0, 0, 0, 0, 0),
            (None, -1, 0, None, 0),
            (1, None, 0, None, None),
        ),
        memory_bound_kernels=("adaptive_rows_kernel", "adaptive_pixels_kernel"),
    )


ROWS = tuple(_row(f"adaptive_{kind}") for kind in ("sigmoid", "tanh", "relu"))
