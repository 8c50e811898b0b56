"""The layers of both packages: no import runs upward, so none runs in a circle."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fastops
from tests.support.paths import ROOT

COMPILED = ("_host",)  # modules without a Python file
#: Folders and top-level modules from the lowest layer to the highest, one a line. What is in a line imports from the
#: lines above it, and a folder from itself.
TRACKER = (
    ("installed", "distributed", "geometry"),
    ("config", "io"),
    ("data", "network"),
    ("engines",),
    ("tracker",),
    ("batch", "eval"),
    ("training",),
    ("experiments", "serve"),
    ("commands",),
    ("integrations", "cli"),
    ("__init__", "__main__"),
)
#: The same of fastops.
FASTOPS = (
    ("_version", *COMPILED),
    ("_ext", "_channels", "_layout", "host"),
    ("reference",),
    ("triton",),
    ("ops",),
    ("_backends",),
    ("nn", "optim"),
    ("_accelerate",),
    ("__init__",),
    ("__main__",),
)
LAYERS = {"tracker": TRACKER, "fastops": FASTOPS}


class Import(NamedTuple):
    where: str  # file:line
    source: str  # the importing module, dotted
    target: str  # what is imported, dotted: a module, or a name in one


def imports(package: Path) -> Iterator[Import]:
    """All imports in the files of a package: at the top, in functions, and those for type checkers."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                yield from (Import(where, ".".join(parts), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(parts[: len(parts) - node.level]) + "." if node.level else ""
                for alias in node.names:
                    yield Import(where, ".".join(parts), f"{base}{node.module or ''}".strip(".") + f".{alias.name}")


def unit(dotted: str, package: Path) -> str:
    """The folder or top-level module that a module or name of the package belongs to."""
    first = dotted.split(".")[1] if "." in dotted else "__init__"
    if first in COMPILED:
        return first
    return first if (package / first).is_dir() or (package / f"{first}.py").exists() else "__init__"


def wrong_edges(package: Path, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """The imports that run upward or across a layer, one line each; and what no layer names."""
    height = {name: number for number, names in enumerate(layers) for name in names}
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    wrong = [f"{package.name}/{name} is in no layer" for name in sorted(there - set(height))]
    for where, source, target in imports(package):
        if target.split(".")[0] != package.name:
            continue
        low, high = unit(source, package), unit(target, package)
        if low != high and height.get(high, 0) >= height.get(low, 0):
            wrong.append(f"{where}: {low} imports {target} of {high}, which is no lower layer")
    return wrong


@pytest.mark.parametrize(
    "name",
    [
        "tracker",
        pytest.param(
            "fastops",
            marks=pytest.mark.skipif(
                (ROOT / "fastops/ops/_layout.py").exists(), reason="fastops/ops/_layout.py is below the layer of ops"
            ),
        ),
    ],
)
def test_no_import_runs_upward(name):
    assert not (wrong := wrong_edges(ROOT / name, LAYERS[name])), "\n".join(wrong)


def test_fastops_does_not_know_the_tracker():
    wrong = [f"{one.where}: {one.target}" for one in imports(ROOT / "fastops") if one.target.split(".")[0] == "tracker"]
    assert not wrong, "\n".join(wrong)


def test_the_tracker_uses_public_names_of_fastops():
    """No part of a name begins with an underscore, and what `fastops` itself exports comes from there."""
    wrong = []
    for where, _, target in imports(ROOT / "tracker"):
        package, *parts = target.split(".")
        if package == "fastops" and (
            any(part.startswith("_") and part != "__version__" for part in parts)
            or (parts[:1] == ["ops"] and parts[-1] in fastops.__all__)
        ):
            wrong.append(f"{where}: {target}")
    assert not wrong, "\n".join(wrong)


def test_wrong_edges_are_named(tmp_path):
    """The walk sees imports in functions, for type checkers, of names and of modules, absolute and relative."""
    package = tmp_path / "house"
    for path, text in {
        "__init__.py": "",
        "low/__init__.py": "",
        "low/a.py": "def f():\n    from house.high.b import g\n",
        "low/c.py": "import house.high.b\nimport sys\n",
        "low/d.py": "from ..high import b\n",
        "low/e.py": "from house import high, low\n",
        "high/__init__.py": "",
        "high/b.py": "from house.low.a import f\nfrom . import b\n",
        "stray.py": "",
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    wrong = wrong_edges(package, (("low",), ("high",), ("__init__",)))
    assert [line.split(" imports")[0].replace("\\", "/") for line in wrong] == [
        "house/stray is in no layer",
        "house/low/a.py:2: low",
        "house/low/c.py:1: low",
        "house/low/d.py:1: low",
        "house/low/e.py:1: low",
    ]


def test_stdlib_names_are_not_hidden():
    """Scripts in tests/support run with that folder on the path first: none is called like a standard module."""
    assert not {path.stem for path in (ROOT / "tests/support").glob("*.py")} & set(sys.stdlib_module_names)
