"""Samples of se_scale and se_attention."""

from __future__ import annotations

from collections.abc import Callable

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _scale(*shape: int, layout: Callable = contiguous, logits: Callable = contiguous) -> Sample:
    return lambda draw: (draw(*shape, layout=layout), draw(*shape[:2], layout=logits, std=2.0))


def _attention(
    *shape: int,
    hidden: int = 3,
    layout: Callable = contiguous,
    weights: Callable = contiguous,
    b1: bool = True,
    b2: bool = True,
) -> Sample:
    c = shape[1]

    def make(draw: Draw) -> tuple:
        return (
            draw(*shape, layout=layout),
            draw(hidden, c, layout=weights, std=max(c, 1) ** -0.5, mean=0.0),
            draw(hidden) if b1 else None,
            draw(c, hidden, layout=weights, std=max(hidden, 1) ** -0.5, mean=0.0),
            draw(c) if b2 else None,
        )

    return make


ROWS = (
    Op(
        name="se_scale",
        op=fastops.se_scale,
        reference=reference.se_scale,
        samples={
            "no_pixel_dims": _scale(3, 5),
            "one": _scale(1, 1, 1, 1),
            "one_pixel": _scale(2, 70, 1, 1),
            "three_dims": _scale(2, 17, 7),
            "four_dims": _scale(2, 5, 3, 7),
            "five_dims": _scale(2, 3, 2, 3, 5),
            "block_plus_1": _scale(1, 3, 513),
            "odd_blocks": _scale(2, 2, 17, 59),
            "many_channels": _scale(2, 130, 3, 3),
            "threads": _scale(3, 70, 17, 31),
            "threads_channels_last": _scale(3, 70, 17, 31, layout=channels_last),
            "channels_last": _scale(2, 33, 3, 5, layout=channels_last),
            "channels_last_3d": _scale(2, 5, 2, 3, 3, layout=channels_last),
            "transposed": _scale(2, 17, 3, 5, layout=transposed, logits=transposed),
            "sliced": _scale(2, 5, 3, 4, layout=sliced, logits=sliced),
            "offset": _scale(2, 33, 9, layout=offset, logits=offset),
            "expanded": _scale(3, 4, 5, layout=expanded, logits=expanded),
            "no_batch": _scale(0, 3, 2, 2),
            "no_channels": _scale(2, 0, 2, 2),
            "no_pixels": _scale(2, 3, 0, 4),
        },
        differentiable=(0, 1),
        backward_arity=2,
        pointwise=True,
        autocast="promote",
        core=("four_dims", "no_pixel_dims", "no_pixels", "channels_last", "transposed", "sliced"),
        small=("no_pixel_dims", "three_dims", "channels_last", "sliced"),
        vmap_dims=((0, 0), (0, None), (None, 0), (2, 1)),
        memory_bound_kernels=("scale_rows_kernel", "scale_pixels_kernel", "pass_rows_kernel", "pass_pixels_kernel"),
    ),
    Op(
        name="se_attention",
        op=fastops.se_attention,
        reference=reference.se_attention,
        samples={
            "one": _attention(1, 1, 1, 1, hidden=1),
            "one_pixel": _attention(2, 70, 1, 1, hidden=5),
            "three_dims": _attention(2, 17, 7, hidden=4),
            "four_dims": _attention(2, 5, 3, 7),
            "five_dims": _attention(2, 3, 2, 3, 5, hidden=2),
            "no_b1": _attention(2, 5, 4, b1=False),
            "no_b2": _attention(2, 5, 4, b2=False),
            "no_biases": _attention(2, 5, 4, b1=False, b2=False),
            "hidden_wider": _attention(1, 3, 2, 2, hidden=70),
            "block_plus_1": _attention(1, 3, 513),
            "odd_blocks": _attention(2, 2, 17, 59),
            "many_channels": _attention(2, 150, 3, 2, hidden=20),
            "threads": _attention(3, 70, 17, 31, hidden=17),
            "threads_channels_last": _attention(3, 70, 17, 31, hidden=17, layout=channels_last),
            "channels_last": _attention(2, 33, 3, 5, layout=channels_last),
            "channels_last_3d": _attention(2, 5, 2, 3, 3, layout=channels_last),
            "transposed": _attention(2, 17, 3, 5, layout=transposed, weights=transposed),
            "sliced": _attention(2, 5, 3, 4, layout=sliced, weights=sliced),
            "offset": _attention(2, 33, 9, layout=offset, weights=offset),
            "expanded": _attention(3, 4, 5, layout=expanded),
            "no_batch": _attention(0, 3, 2, 2),
            "no_channels": _attention(2, 0, 2, 2),
            "no_hidden": _attention(2, 3, 2, 2, hidden=0),
        },
        differentiable=(0, 1, 2, 3, 4),
        backward_arity=5,
        pointwise=False,
        autocast="lower",
        core=("four_dims", "no_biases", "no_batch", "channels_last", "transposed", "sliced"),
        small=("four_dims", "no_b1", "no_b2", "sliced"),
    ),
)
