"""mypy accepts the README's Python as a user's code, and knows what fastops and tracker have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import blocks
from tests.support.paths import ROOT

pytest.importorskip("mypy", reason="mypy is not installed")

#: Line -> what mypy must say of it.
WRONG = {
    "fastops.no_such_op(1)": 'Module has no attribute "no_such_op"',
    'fastops.mish("x")': 'Argument 1 to "mish" has incompatible type "str"; expected "Tensor"',
    "fastops.nn.SEAttention()": "Missing positional argument",
    "y: int = fastops.mish(torch.ones(2))": "Incompatible types in assignment",
    "tracker.Tracker().no_such_method()": '"Tracker" has no attribute "no_such_method"',
}


def mypy(folder: Path) -> list[str]:
    """Of all files of the folder; errors in fastops and tracker themselves are silent, as in installed packages."""
    options = ["--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary", "--scripts-are-modules"]
    files = sorted(path.name for path in folder.glob("*.py"))
    environment = dict(os.environ, MYPYPATH=str(ROOT))
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", str(folder / "cache"), *files]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout.splitlines()


@pytest.mark.slow
def test_the_examples_and_what_is_wrong(tmp_path):
    """In one run, most of which mypy spends on torch."""
    examples = blocks(ROOT / "README.md", "python")
    assert len(examples) >= 2
    for i, block in enumerate(examples):
        (tmp_path / f"example_{i}.py").write_text(block.code)
    wrong = ["import fastops, torch, tracker", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(wrong) + "\n")
    said = mypy(tmp_path)
    assert [line for line in said if not line.startswith("wrong.py:")] == []
    for number, message in enumerate(WRONG.values(), start=2):
        assert any(line.startswith(f"wrong.py:{number}: error: ") and message in line for line in said), said


def test_both_packages_are_marked_as_typed():
    assert (ROOT / "fastops" / "py.typed").is_file() and (ROOT / "tracker" / "py.typed").is_file()
