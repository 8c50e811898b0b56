"""Samples of xcorr and xcorr_depthwise."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import fastops
from fastops import reference
from tests.support.op_table import Draw, Op, Sample, channels_last, contiguous, expanded, offset, sliced, transposed

_PAIRINGS = {
    # name: shape of the templates, shape of the searches, their layouts where not contiguous
    "pairs": ((2, 3, 2, 3), (2, 3, 5, 4)),
    "one_pair": ((1, 2, 3, 2), (1, 2, 4, 5)),
    "one_template": ((1, 5, 3, 3), (4, 5, 7, 6)),
    "templates_with_searches": ((2, 4, 2, 2), (6, 4, 4, 5)),
    "one_search": ((4, 5, 3, 3), (1, 5, 6, 7)),
    "searches_with_templates": ((6, 3, 2, 2), (2, 3, 3, 4)),
    "lanes_plus_1": ((1, 17, 2, 2), (2, 17, 5, 6)),
    "lanes_2_plus_1": ((1, 33, 3, 1), (1, 33, 4, 3)),
    "many_packs": ((1, 150, 2, 3), (2, 150, 4, 5)),
    "siamfc": ((1, 64, 6, 6), (3, 64, 22, 22)),
    "template_is_search": ((2, 19, 4, 3), (2, 19, 4, 3)),
    "one_tap": ((2, 6, 1, 1), (2, 6, 3, 5)),
    "wide_rows": ((1, 4, 2, 3), (1, 4, 3, 39)),
    "wide_template": ((1, 3, 2, 15), (1, 3, 3, 29)),
    "tall": ((1, 2, 13, 1), (1, 2, 30, 2)),
    "one_value": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "no_batch": ((0, 3, 2, 2), (0, 3, 4, 5)),
    "no_channels": ((2, 0, 2, 2), (2, 0, 3, 4)),
    "channels_last": ((2, 35, 2, 3), (4, 35, 4, 5), channels_last, channels_last),
    "only_x_channels_last": ((2, 20, 3, 2), (2, 20, 5, 4), contiguous, channels_last),
    "only_z_channels_last": ((3, 9, 2, 2), (3, 9, 4, 3), channels_last, contiguous),
    "transposed": ((2, 7, 3, 2), (2, 7, 5, 4), transposed, transposed),
    "sliced": ((1, 18, 2, 2), (3, 18, 5, 3), sliced, sliced),
    "offset": ((1, 16, 2, 3), (1, 16, 9, 8), offset, offset),
    "expanded": ((3, 5, 2, 2), (3, 5, 4, 4), expanded, expanded),
}


def _pair(name: str) -> Callable[[Draw], tuple[Tensor, Tensor]]:
    z, x, *layouts = _PAIRINGS[name]
    of_z, of_x = layouts or (contiguous, contiguous)
    return lambda draw: (draw(*z, layout=of_z), draw(*x, layout=of_x))


def _xcorr(name: str, scale: float = 0.37, bias: tuple[int, ...] | None = (1,)) -> Sample:
    pair = _pair(name)
    return lambda draw: (*pair(draw), scale, None if bias is None else draw(*bias))


ROWS = (
    Op(
        name="xcorr",
        op=fastops.xcorr,
        reference=reference.xcorr,
        samples={name: _xcorr(name) for name in _PAIRINGS}
        | {
            "no_bias": _xcorr("pairs", bias=None),
            "bias_0d": _xcorr("pairs", bias=()),
            "bias_4d": _xcorr("pairs", bias=(1, 1, 1, 1)),
            "negative_scale": _xcorr("one_template", scale=-2.5),
            "scale_0": _xcorr("pairs", scale=0.0),
        },
        differentiable=(0, 1, 3),
        backward_arity=3,
        pointwise=False,
        autocast="lower",
        core=(
            *("pairs", "one_template", "one_search", "no_bias"),
            *("no_batch", "channels_last", "transposed", "sliced"),
        ),
        small=("one_pair", "templates_with_searches", "searches_with_templates", "bias_0d"),
        vmap_dims=((0, 0, None, 0), (1, None, None, None), (None, -1, None, 0)),
    ),
    Op(
        name="xcorr_depthwise",
        op=fastops.xcorr_depthwise,
        reference=reference.xcorr_depthwise,
        samples={name: _pair(name) for name in _PAIRINGS},
        differentiable=(0, 1),
        backward_arity=2,
        pointwise=False,
        autocast="lower",
        core=("pairs", "one_template", "one_search", "no_batch", "channels_last", "transposed", "sliced"),
        small=("one_pair", "templates_with_searches", "searches_with_templates"),
        vmap_dims=((0, 0), (1, None), (None, -1)),
    ),
)
