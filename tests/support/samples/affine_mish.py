"""Samples of affine_mish and batch_norm_mish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed


def _affine(*shape: int, layout: Callable = contiguous, parameters: Callable = contiguous) -> Sample:
    c = shape[1]
    return lambda draw: (
        draw(*shape, layout=layout, std=2.0),
        draw(c, layout=parameters, mean=1.0),
        draw(c, layout=parameters),
    )


def _batch_norm(
    *shape: int, layout: Callable = contiguous, parameters: Callable = contiguous, weight=True, bias=True
) -> Sample:
    c = shape[1]

    def make(draw: Draw) -> tuple:
        x, w, b = draw(*shape, layout=layout), draw(c, layout=parameters, mean=1.0), draw(c, layout=parameters)
        return x, w if weight else None, b if bias else None

    return make


def _train(function: Callable) -> Callable:
    """The batch norm of training without running statistics."""
    return lambda x, weight, bias: function(x, None, None, weight, bias, training=True, eps=EPS)


EPS = 1e-3


@dataclass(frozen=True)
class _BatchNorm(Op):
    def backward_args(self, grad: Tensor, inputs: tuple) -> tuple:
        _, stats = self.schema_op()(*(t.detach() if isinstance(t, torch.Tensor) else t for t in inputs), EPS)
        return grad, inputs[0], stats, *inputs[1:]


_SHAPES = {
    "no_pixel_dims": (5, 7),
    "one_pixel": (3, 70, 1, 1),
    "three_dims": (2, 17, 7),
    "four_dims": (2, 5, 3, 7),
    "five_dims": (2, 3, 2, 3, 5),
    "one_channel": (3, 1, 5, 5),
    "block_plus_1": (1, 3, 513),
    "odd_blocks": (2, 2, 17, 59),
    "many_channels": (2, 530, 3, 3),
    "pieces": (1, 2, 40, 1000),
    "threads": (3, 70, 17, 31),
    "no_batch": (0, 3, 2, 2),
    "no_channels": (2, 0, 2, 2),
    "no_pixels": (2, 3, 0, 4),
}
_LAID_OUT = {
    "channels_last": ((2, 33, 3, 5), {"layout": channels_last}),
    "channels_last_few": ((2, 3, 31, 17), {"layout": channels_last}),
    "channels_last_pieces": ((2, 96, 31, 29), {"layout": channels_last}),
    "channels_last_wide": ((2, 700, 3, 3), {"layout": channels_last}),
    "channels_last_3d": ((2, 5, 2, 3, 3), {"layout": channels_last}),
    "transposed": ((2, 17, 3, 5), {"layout": transposed}),
    "sliced": ((2, 5, 3, 4), {"layout": sliced, "parameters": sliced}),
    "offset": ((2, 33, 9), {"layout": offset, "parameters": offset}),
    "offset_channels_last": (
        (2, 16, 3, 3),
        {"layout": lambda t: offset(t).as_strided(t.shape, channels_last(t).stride())},
    ),
    "expanded": ((3, 4, 5), {"layout": expanded}),
}


def _samples(make: Callable[..., Sample]) -> dict[str, Sample]:
    plain = {name: make(*shape) for name, shape in _SHAPES.items()}
    return plain | {name: make(*shape, **layouts) for name, (shape, layouts) in _LAID_OUT.items()}


_CORE = ("four_dims", "no_pixel_dims", "no_batch", "no_pixels", "channels_last", "transposed", "sliced")

ROWS = (
    Op(
        name="affine_mish",
        op=fastops.affine_mish,
        reference=reference.affine_mish,
        memory_bound_kernels=("map_rows_kernel", "map_pixels_kernel", "channel_rows_kernel", "channel_pixels_kernel"),
        samples=_samples(_affine),
        differentiable=(0, 1, 2),
        backward_arity=3,
        pointwise=False,  # a sum, in which terms cancel
        autocast="keep",
        core=_CORE,
        small=("no_pixel_dims", "three_dims", "channels_last", "sliced"),
        vmap_dims=((0, 0, 0), (0, None, None), (None, 0, 0), (2, None, 1)),
    ),
    _BatchNorm(
        name="batch_norm_mish",
        op=_train(fastops.batch_norm_mish),
        reference=_train(reference.batch_norm_mish),
        samples=_samples(_batch_norm)
        | {
            "no_weight": _batch_norm(3, 5, 4, weight=False),
            "no_bias": _batch_norm(3, 5, 4, bias=False),
            "no_parameters": _batch_norm(3, 5, 4, weight=False, bias=False),
        },
        differentiable=(0, 1, 2),
        backward_arity=3,
        pointwise=False,
        autocast="keep",
        core=(*_CORE, "no_weight", "no_bias", "no_parameters"),
        small=("no_pixel_dims", "three_dims", "channels_last", "sliced", "no_weight", "no_bias"),
        schema_args=lambda inputs: (*inputs, EPS),
        saves_only_inputs=False,
    ),
)
