"""The table of the op tests: for each op its call, its reference implementation and its samples.

A row in OPS gives a new op all tests of test_ops.py. A new kernel of a listed op is tested by the samples of its row.
Nothing here needs pytest, so kernels that are built in other ways can be tested with the same table.
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
