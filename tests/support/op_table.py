"""What a row of the op table is made of: layouts, draws, the row itself, and what to expect of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

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


# ---- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """A row of the table."""

    name: str
    op: Callable
    reference: Callable
    samples: dict[str, Sample]
    #: Positions of the inputs with a gradient.
    differentiable: tuple[int, ...]
    #: The op `<schema>_backward` takes the gradient and this many of the inputs; None where the forward leaves the
    #: gradients ready, or the reference implementation differentiates.
    backward_arity: int | None
    #: Each value of the result is judged by its own size; else, being a sum, by the largest of the result.
    pointwise: bool
    #: Under autocast: "keep" the dtype, "promote" to the widest, "lower" to the autocast dtype, or "float32".
    autocast: str
    #: Samples for the slow families: one of each kind of layout.
    core: tuple[str, ...]
    #: Samples for numerical differentiation.
    small: tuple[str, ...]
    #: in_dims to vmap the `core[0]` sample with; () where the op has no rule of its own.
    vmap_dims: tuple[tuple[int | None, ...], ...] = ()
    #: The CUDA kernels that memory limits: they must load 16 bytes at once.
    memory_bound_kernels: tuple[str, ...] = ()
    #: The op's name in torch.ops.fastops where it is not `name`, and its arguments for the inputs.
    schema_name: str | None = None
    schema_args: Callable[[tuple], tuple] = tuple
    #: Where the forward leaves the gradients ready: the op that scales them. With None the reference differentiates.
    scale_schema: str | None = None
    #: The op is the schema with operations of torch around it: what the schema gives is not yet its result.
    around_schema: bool = False
    #: Else also what costs the forward a pass, small beside the inputs.
    saves_only_inputs: bool = True

    @property
    def schema(self) -> str:
        return self.schema_name or self.name

    @property
    def reference_differentiates(self) -> bool:
        return self.backward_arity is None and self.scale_schema is None

    def make(self, sample: str, dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0) -> tuple:
        return self.samples[sample](Draw(dtype, device, seed))

    def schema_op(self) -> Callable:
        return getattr(torch.ops.fastops, self.schema).default

    def backward_op(self) -> Callable:
        return getattr(torch.ops.fastops, f"{self.schema}_backward").default

    def backward_args(self, grad: Tensor, inputs: tuple) -> tuple:
        return grad, *inputs[: self.backward_arity]

    def forward_and_gradients(
        self, find: Callable[[str], Callable], inputs: tuple, grad: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The result and the gradients by the code `find(schema)`; gradients in the order of the inputs."""
        result = find(self.schema)(*self.schema_args(inputs))
        first = result if isinstance(result, Tensor) else result[0]
        if self.scale_schema is not None:  # [result, divisor, gradients before the division]
            grads = find(self.scale_schema)(grad, result[1], result[2:])
        elif self.reference_differentiates:
            grads = []
        else:
            grads = find(f"{self.schema}_backward")(*self.backward_args(grad, inputs))
        return first, [grads] if isinstance(grads, Tensor) else list(grads)

    def leaves(self, inputs: tuple) -> list[Tensor]:
        """The inputs present that have a gradient."""
        return [inputs[i] for i in self.differentiable if inputs[i] is not None]


def pointwise_op(op: Callable, reference: Callable, **changes: Any) -> Op:
    """The row of an op y = f(x): samples of every layout and of sizes around the blocks of the kernels."""

    def tensor(*shape: int, layout: Callable[[Tensor], Tensor] = contiguous) -> Sample:
        return lambda draw: (draw(*shape, layout=layout, std=3.0),)

    row = Op(
        name=op.__name__,
        op=op,
        reference=reference,
        samples={
            "0d": tensor(),
            "one": tensor(1),
            "odd": tensor(3, 5, 7),
            "block_plus_1": tensor(513),
            "odd_blocks": tensor(17, 59),
            "threads": tensor(3, 16385),
            "five_dims": tensor(2, 3, 2, 3, 2),
            "empty": tensor(0),
            "empty_batch": tensor(0, 3, 4, 4),
            "empty_channels": tensor(2, 0, 5),
            "channels_last": tensor(2, 5, 3, 7, layout=channels_last),
            "channels_last_3d": tensor(2, 3, 2, 3, 5, layout=channels_last),
            "transposed": tensor(3, 5, 7, layout=transposed),
            "sliced": tensor(4, 33, layout=sliced),
            "sliced_threads": tensor(2, 20001, layout=sliced),
            "offset": tensor(5, 129, layout=offset),
            "expanded": tensor(3, 4, 5, layout=expanded),
        },
        differentiable=(0,),
        backward_arity=1,
        pointwise=True,
        autocast="keep",
        core=("odd", "0d", "empty_batch", "channels_last", "transposed", "sliced", "expanded"),
        small=("0d", "odd", "channels_last", "sliced"),
        vmap_dims=((0,), (1,), (-1,)),
    )
    return replace(row, **changes)


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
