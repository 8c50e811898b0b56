"""The examples in the docstrings of the tracker run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.support.paths import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "tracker").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if name.startswith("tracker.integrations."):
        pytest.importorskip(name, reason="needs the extra toolkits", exc_type=ImportError)
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0
