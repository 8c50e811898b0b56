"""The one table of the op tests: op -> how to call it, its reference, its samples.

A new op gets every family of test_ops.py by a row in OPS, a new kernel of a listed op by running the rows' samples.
Nothing here needs pytest, so that kernels built by other means can be checked against the same table.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from tests.support import samples
from tests.support.op_table import Op

_families = sorted(module.name for module in pkgutil.iter_modules(samples.__path__))
OPS: dict[str, Op] = {
    row.name: row for family in _families for row in importlib.import_module(f"{samples.__name__}.{family}").ROWS
}


def cases(which: str = "samples") -> Iterator[tuple[Op, str]]:
    """(row, sample) for all samples, or only the "core" or "small" ones."""
    for row in OPS.values():
        for sample in getattr(row, which):
            yield row, sample
