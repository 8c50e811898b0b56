"""The README's Python that needs no video runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_ops_example_runs():
    example = next(block for block in _blocks("python") if "video.mp4" not in block)
    scope: dict = {}
    exec(compile(example, str(README), "exec"), scope)
    assert scope["scores"].shape == (8, 1, 17, 17)
    assert scope["x"].grad.isfinite().all() and scope["x"].grad.any()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^tracker (\w+)", README.read_text(), re.MULTILINE))))
def test_commands_exist(command, capsys):
    assert main([command, "--help"]) == 0
    assert "Examples" in capsys.readouterr().out


def test_no_placeholder_is_left():
    assert "{{" not in README.read_text()
