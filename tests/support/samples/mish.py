"""Samples of mish."""

from __future__ import annotations

import fastops
from fastops import reference
from tests.support.op_table import pointwise_op

ROWS = (pointwise_op(fastops.mish, reference.mish, memory_bound_kernels=("mish_kernel", "mish_backward_kernel")),)
