"""Extension of griffe: the docstrings' equations, references, tables and examples, as Markdown has them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_MATH = re.compile(r"^( *)\.\. math::[ ]?(.*(?:\n(?:\1 +.*|[ ]*(?=\n\1 +)))*)", re.MULTILINE)
_REFERENCE = re.compile(r":(?:func|class|mod|meth):`~?([\w.]+)`")
_TABLE = re.compile(r"^( *)(=+(?: +=+)+)\n((?:.*\n)+?)\1\2\n((?:.*\n)+?)\1\2$", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)Example::?$", re.MULTILINE)
_RETURNS = re.compile(r"^( *)(Returns:\n +)", re.MULTILINE)


def _math(match: re.Match[str]) -> str:
    indent, lines = match[1], [line.strip() for line in match[2].splitlines()]
    latex = "\n".join(indent + line for line in lines if line)
    if re.search(r"(?<!\\)&=|&\\leftarrow", latex):  # aligned lines, which Sphinx wraps by itself
        latex = f"{indent}\\begin{{align*}}\n{latex}\n{indent}\\end{{align*}}"
    return f"{indent}$$\n{latex}\n{indent}$$\n"


def _home(path: str) -> str:
    """Where an object at `path` is public, and with it those that its docstring names without a dot."""
    homes = ("fastops.nn", "fastops.optim", "fastops.ops.winograd")
    return next((home for home in homes if path.startswith(f"{home}.")), "fastops")


def _table(match: re.Match[str]) -> str:
    """A simple table of reStructuredText; a row whose first cell is empty goes on with the row before."""
    indent, rule = match[1], match[2]
    starts = [column.start() for column in re.finditer("=+", rule)]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    for line in (match[3] + match[4]).splitlines():
        cells = [line[len(indent) :][a:b].strip().replace("|", r"\|") for a, b in zip(starts, ends, strict=True)]
        if rows and not cells[0]:
            rows[-1] = [f"{before} {cell}".strip() for before, cell in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    rows.insert(1, ["---"] * len(starts))
    return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)


def to_markdown(docstring: str, home: str = "fastops") -> str:
    """The docstring with Markdown for what it has of reStructuredText; its sections stay as Google has them.

    Names without a dot that it refers to are in the module `home`.
    """

    def reference(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`][{name if '.' in name else f'{home}.{name}'}]"

    text = _MATH.sub(_math, docstring)
    text = _TABLE.sub(_table, text)  # before what changes the widths of its columns
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = _REFERENCE.sub(reference, text)
    text = _EXAMPLE.sub(r"\1Examples:", text)
    return _RETURNS.sub(r"\1\2: ", text)  # the type before the colon is the signature's; what follows is all text


class MarkdownDocstrings(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value, _home(obj.path))
