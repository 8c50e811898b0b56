"""Shared by the Triton ops on the host: the compute type and the shape of a tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def opmath(x: torch.Tensor) -> tl.dtype:
    """The type that kernels compute in: float64 for float64, float32 for all others."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def opmath_dtype(x: torch.Tensor) -> torch.dtype:
    """The same as `opmath`, as a dtype of torch."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def tile(rows: int, columns: int, rows_fast: bool, widest: int, size: int) -> tuple[int, int]:
    """Block sizes (rows, columns), powers of two with a product up to `size`.

    The block is long in the dimension with the smallest stride: up to 64 rows if `rows_fast`, else up to `widest`
    columns.
    """
    rows, columns = (triton.next_power_of_2(max(length, 1)) for length in (rows, columns))
    if rows_fast:
        rows = min(rows, 64)
        return rows, min(columns, size // rows)
    columns = min(columns, widest)
    return min(rows, size // columns), columns


def laid_out_like(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`t` with the strides of the dense tensor `like`: `t` itself, or a copy."""
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)
