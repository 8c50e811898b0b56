"""Writes a new pointwise op, y = f(x), with f(x) = x^2 to start from: `python -m tests.support.new_op NAME`.

The result compiles and passes the families of tests/ops/test_ops.py. What is left to do: put the formula and its
derivative into csrc/math/NAME.h, fastops/reference/NAME.py and fastops/triton/NAME.py, and describe it in
fastops/ops/NAME.py.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Path -> text of each file; NAME and Name stand for the op.
FILES = {
    "csrc/math/NAME.h": """\
// NAME: f(x) = x^2, f'(x) = 2 x.
#pragma once

#include "../common/macros.h"

namespace fastops {

struct Name {
  template <class T>
  static FASTOPS_HD T forward(T x) {
    return x * x;
  }
  template <class T>
  static FASTOPS_HD T backward(T grad, T x) {
    return grad * (T(2) * x);
  }
};

}  // namespace fastops
""",
    "csrc/simd/NAME.cpp": """\
// The CPU loops of NAME. Compiled once per instruction set: no torch header and no std header with inline functions.
#include "../math/NAME.h"
#include "pointwise.h"

FASTOPS_POINTWISE_KERNELS(NAME_kernels, Name)
""",
    "csrc/cpu/NAME.cpp": """\
// NAME on the CPU; the loops are in simd/NAME.cpp, the formula in math/NAME.h.
#include "pointwise.h"

FASTOPS_POINTWISE_CPU(NAME)
""",
    "csrc/cuda/NAME.cu": """\
// NAME on CUDA; the formula is in math/NAME.h.
#include "../math/NAME.h"
#include "pointwise.cuh"

FASTOPS_POINTWISE_CUDA(NAME, Name)
""",
    "fastops/ops/NAME.py": '''\
"""The op NAME: public function and registration."""

from __future__ import annotations

import torch
from torch import Tensor

from fastops import reference
from fastops.ops._pointwise import register_pointwise
from fastops.ops._transforms import in_transform

CHECKS = register_pointwise("NAME", reference.NAME)


def NAME(x: Tensor) -> Tensor:
    r"""Square of each value.

    $$
    f(x) = x^2
    $$

    Args:
        x: tensor of any shape and layout; float32, float64, float16 or bfloat16 (half types compute in float32).

    Returns:
        Tensor of the shape, dtype and memory layout of `x`.

    Raises:
        RuntimeError: `NAME: x must have dtype ...` for any other dtype.

    Examples:
        >>> import torch, fastops
        >>> fastops.NAME(torch.tensor([-1.0, 2.0]))
        tensor([1., 4.])
    """
    if in_transform():
        return reference.NAME(x)
    return torch.ops.fastops.NAME.default(x)
''',
    "fastops/reference/NAME.py": '''\
"""Reference implementation of NAME."""

from __future__ import annotations

import torch

from ._common import opmath, strides_of_input, with_backward


def NAME(x: torch.Tensor) -> torch.Tensor:
    """Square of each value, x^2.

    Args:
        x: tensor of any shape and floating dtype.

    Returns:
        Tensor of the shape and dtype of `x`.

    Examples:
        >>> import torch
        >>> from fastops import reference
        >>> reference.NAME(torch.tensor([-1.0, 2.0]))
        tensor([1., 4.])
    """
    return opmath(x).square().to(x.dtype)


OPS = with_backward(NAME, strides_of_input)
''',
    "fastops/triton/NAME.py": '''\
"""NAME in Triton."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 (Triton's interpreter needs it)

from ._pointwise import pointwise_ops


@triton.jit
def _forward(x):
    return x * x


@triton.jit
def _backward(grad, x):
    return grad * (2 * x)


OPS = pointwise_ops("NAME", _forward, _backward)
''',
    "tests/support/samples/NAME.py": '''\
"""The row of NAME in the op table."""

from __future__ import annotations

import fastops
from fastops import reference
from tests.support.op_table import pointwise_op

ROWS = (pointwise_op(fastops.NAME, reference.NAME),)
''',
}


def files(name: str) -> dict[str, str]:
    """Path -> text of each file of the op."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    return {
        path.replace("NAME", name): text.replace("NAME", name).replace("Name", camel) for path, text in FILES.items()
    }


def _replace_once(text: str, pattern: str, replacement: str, path: str) -> str:
    """`text` with the last match of `pattern` replaced."""
    matches = list(re.finditer(pattern, text, re.MULTILINE))
    if not matches:
        sys.exit(f"new_op: {path} must have a match of {pattern!r}, got none: make the edit by hand")
    start, end = matches[-1].span()
    return text[:start] + matches[-1].expand(replacement) + text[end:]


def edits(name: str, root: Path = ROOT) -> dict[str, str]:
    """Path -> new text of the four files that list the ops."""
    schemas = f'  m.def("{name}(Tensor x) -> Tensor");\n  m.def("{name}_backward(Tensor grad, Tensor x) -> Tensor");\n'
    patterns = {
        "csrc/library.cpp": [(r"^}$", f"\n  // {name}: f(x) = x^2\n{schemas}}}")],
        "fastops/__init__.py": [
            (r"^(    from fastops\.ops\.xcorr import .*)$", rf"    from fastops.ops.{name} import {name}\n\1"),
            (r'^    "xcorr",$', f'    "{name}",\n    "xcorr",'),
        ],
        "fastops/reference/__init__.py": [
            (r"^(from \.xcorr import .*)$", rf"from .{name} import {name}\n\1"),
            (r'^    "xcorr",$', f'    "{name}",\n    "xcorr",'),
        ],
        "docs/ops.md": [(r"^## Correlation$", f"::: fastops.{name}\n\n## Correlation")],
    }
    result = {}
    for path, changes in patterns.items():
        text = (root / path).read_text(encoding="utf-8")
        for pattern, replacement in changes:
            text = _replace_once(text, pattern, replacement, path)
        result[path] = text
    return result


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.new_op", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the op, such as square or soft_sign")
    name = parser.parse_args(arguments).name
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        parser.error(f"name must be lower-case words joined by _, got {name!r}")
    new = files(name)
    if present := [path for path in new if (root / path).exists()]:
        parser.error(f"name must be new, got {name!r}: {present[0]} is there")
    changed = edits(name, root)
    for path, text in (new | changed).items():
        (root / path).write_text(text, encoding="utf-8")
        print(f"{'wrote ' if path in new else 'edited'} {path}")
    print("now: python setup.py build_ext --inplace, ruff check --fix, and pytest tests/ops/test_ops.py -k", name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
