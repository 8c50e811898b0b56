"""Samples of mish."""

from __future__ import annotations

from op_table import pointwise_op

import fastops
from fastops import reference

ROWS = (pointwise_op(fastops.mish, reference.mish, memory_bound_kernels=("mish_kernel", "mish_backward_kernel")),)
