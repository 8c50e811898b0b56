"""The one table of the op tests: op -> how to call it, its reference, its samples.

A new op gets every family of test_ops.py by a row in OPS, a new kernel of a listed op by running the rows' samples.
Nothing here needs pytest, so that kernels built by other means can be checked against the same table.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.op_table import Op
from tests.support.samples import adaptive, affine_mish, box_loss, logistic_loss, mish, mish_max_pool2d, se, xcorr

OPS: dict[str, Op] = {
    row.name: row
    for stem in (adaptive, affine_mish, box_loss, logistic_loss, mish, mish_max_pool2d, se, xcorr)
    for row in stem.ROWS
}


def cases(which: str = "samples") -> Iterator[tuple[Op, str]]:
    """(row, sample) for all samples, or only the "core" or "small" ones."""
    for row in OPS.values():
        for sample in getattr(row, which):
            yield row, sample
