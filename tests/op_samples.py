"""The one table of the op tests: op -> how to call it, its reference, its samples.

A new op gets every family of test_ops.py by a row in OPS, a new kernel of a listed op by running the rows' samples.
Nothing here needs pytest, so that kernels built by other means can be checked against the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastops
from fastops import reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# ---- layouts -------------------------------------------------------------------------------------------------


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)


def transposed(t: Tensor) -> Tensor:
    """Dense, with the last two dimensions swapped in memory."""
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


def sliced(t: Tensor) -> Tensor:
    """Every second element of a storage twice as large."""
    return torch.stack((t, torch.full_like(t, 7.0)), -1)[..., 0]


def offset(t: Tensor) -> Tensor:
    """Contiguous, but starting one element into its storage: no address is aligned to more than an element."""
    return torch.cat((t.new_full((1,), 7.0), t.flatten()))[1:].view(t.shape)


def expanded(t: Tensor) -> Tensor:
    """The first item of the batch repeated with stride 0."""
    return t[:1].expand(t.shape)


# ---- samples -------------------------------------------------------------------------------------------------


class Draw:
    """Draws the tensors of a sample one after the other from one seed: rounded to the dtype, then laid out."""

    def __init__(self, dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, *shape: int, layout: Callable[[Tensor], Tensor] = contiguous, std: float = 1.0, mean: float = 0.25
    ) -> Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * std + mean
        return layout(values.to(self.device, self.dtype))


Sample = Callable[[Draw], tuple[Any, ...]]


def _mish(*shape: int, layout: Callable = contiguous) -> Sample:
    return lambda draw: (draw(*shape, layout=layout, std=3.0),)


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


# ---- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """A row of the table. `name` is the schema's, that of its backward is `<name>_backward`."""

    name: str
    op: Callable
    reference: Callable
    samples: dict[str, Sample]
    #: Positions of the inputs with a gradient.
    differentiable: tuple[int, ...]
    #: The backward op takes the gradient and this many of the inputs ...
    backward_arity: int
    #: ... and returns the gradients of these.
    backward_returns: tuple[int, ...]
    #: Each value of the result is judged by its own size; else, being a sum, by the largest of the result.
    pointwise: bool
    #: Under autocast: "keep" the dtype, "promote" to the widest, or "lower" to the autocast dtype.
    autocast: str
    #: Samples for the slow families: one of each kind of layout.
    core: tuple[str, ...]
    #: Samples for numerical differentiation.
    small: tuple[str, ...]
    #: in_dims to vmap the `core[0]` sample with; () where the op has no rule of its own.
    vmap_dims: tuple[tuple[int | None, ...], ...] = ()

    def make(self, sample: str, dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0) -> tuple:
        return self.samples[sample](Draw(dtype, device, seed))

    def backward_op(self) -> Callable:
        return getattr(torch.ops.fastops, f"{self.name}_backward").default

    def backward_args(self, grad: Tensor, inputs: tuple) -> tuple:
        return grad, *inputs[: self.backward_arity]

    def leaves(self, inputs: tuple) -> list[Tensor]:
        """The inputs present that have a gradient."""
        return [inputs[i] for i in self.differentiable if inputs[i] is not None]


OPS: dict[str, Op] = {
    row.name: row
    for row in (
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
            backward_returns=(0,),
            pointwise=True,
            autocast="keep",
            core=("odd", "0d", "empty_batch", "channels_last", "transposed", "sliced", "expanded"),
            small=("0d", "odd", "channels_last", "sliced"),
            vmap_dims=((0,), (1,), (-1,)),
        ),
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
            backward_returns=(0, 1),
            pointwise=True,
            autocast="promote",
            core=("four_dims", "no_pixel_dims", "no_pixels", "channels_last", "transposed", "sliced"),
            small=("no_pixel_dims", "three_dims", "channels_last", "sliced"),
            vmap_dims=((0, 0), (0, None), (None, 0), (2, 1)),
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
            backward_returns=(0, 1, 2, 3, 4),
            pointwise=False,
            autocast="lower",
            core=("four_dims", "no_biases", "no_batch", "channels_last", "transposed", "sliced"),
            small=("four_dims", "no_b1", "no_b2", "sliced"),
        ),
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
            backward_returns=(0, 1),
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
            backward_returns=(0, 1),
            pointwise=False,
            autocast="lower",
            core=("pairs", "one_template", "one_search", "no_batch", "channels_last", "transposed", "sliced"),
            small=("one_pair", "templates_with_searches", "searches_with_templates"),
            vmap_dims=((0, 0), (1, None), (None, -1)),
        ),
    )
}


def cases(which: str = "samples") -> Iterator[tuple[Op, str]]:
    """(row, sample) for all samples, or only the "core" or "small" ones."""
    for row in OPS.values():
        for sample in getattr(row, which):
            yield row, sample


# ---- what to expect ------------------------------------------------------------------------------------------

# Of the relative L2 error: three times the largest measured over the table and the instruction sets; the half types are
# rounded once, by half a step at most.
L2_TOLERANCE = {torch.float64: 1e-14, torch.float32: 4e-6, torch.float16: 2**-11 + 1e-6, torch.bfloat16: 2**-8 + 1e-6}
# Of a value, beside the rounding of the result: the error of opmath, relative to the value (or the largest one).
OPMATH_TOLERANCE = {torch.float64: 1e-14, torch.float32: 4e-6, torch.float16: 4e-6, torch.bfloat16: 4e-6}


def assert_accurate(actual: Tensor, expected: Tensor, pointwise: bool, what: str = "result") -> None:
    """`actual` against the float64 `expected`: relative L2 error, and every value within rounding of the right one."""
    assert expected.dtype == torch.float64
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    if expected.numel() == 0:
        return
    info = torch.finfo(actual.dtype)
    error = (actual.double() - expected).abs()
    relative = float(error.norm() / expected.norm()) if expected.any() else float(error.norm())
    assert relative <= L2_TOLERANCE[actual.dtype], f"{what}: relative L2 error {relative:.2e}"
    size = expected.abs() if pointwise else expected.abs().max()
    allowed = info.eps / 2 * expected.abs() + OPMATH_TOLERANCE[actual.dtype] * size + info.smallest_normal * info.eps
    worst = float((error / allowed).max())
    assert worst <= 1, f"{what}: a value is off by {worst:.2f} times what is allowed"


def wide(row: Op, inputs: tuple) -> tuple:
    """The inputs as float64 leaves that require grad."""
    leaves = {i: inputs[i].detach().double().requires_grad_() for i in row.differentiable if inputs[i] is not None}
    return tuple(leaves.get(i, value) for i, value in enumerate(inputs))


def expected_gradients(row: Op, inputs: tuple, grad: Tensor) -> list[Tensor]:
    """Autograd of the float64 reference, one gradient for each of `row.leaves(inputs)`."""
    inputs = wide(row, inputs)
    return list(torch.autograd.grad(row.reference(*inputs), row.leaves(inputs), grad.double()))


def requiring_grad(row: Op, inputs: tuple, positions: tuple[int, ...] | None = None) -> tuple:
    """Leaves in the layout of the inputs, requiring grad at `positions` (default: all differentiable ones)."""
    positions = row.differentiable if positions is None else positions
    return tuple(
        t.detach().requires_grad_(i in positions) if isinstance(t, Tensor) else t for i, t in enumerate(inputs)
    )


def upstream(result: Tensor, layout: Callable[[Tensor], Tensor] = contiguous, seed: int = 1) -> Tensor:
    """A gradient for `result`."""
    return Draw(result.dtype, result.device, seed)(*result.shape, layout=layout, mean=0.5)
