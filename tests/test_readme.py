"""The README's Python that needs no video runs as it stands, and its commands exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import blocks, declared_options, options

from tracker.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"


EXAMPLES = [block.code for block in blocks(README, "python") if "video.mp4" not in block.code]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(example, capsys):
    scope: dict = {}
    exec(compile(example, str(README), "exec"), scope)
    if "scores" in scope:
        assert scope["scores"].shape == (8, 1, 17, 17)
        assert scope["x"].grad.isfinite().all() and scope["x"].grad.any()
    if "losses" in scope:
        assert scope["losses"].shape == (2,) and scope["pred"].grad.any(1).all()
    if "accelerate" in example:
        assert "accelerate: 2 changed, 0 left alone" in capsys.readouterr().out


OPTIONS = options(blocks(README, "bash"))


def test_commands_are_found():
    assert {"track", "demo", "train", "eval", "serve", "bench"} <= OPTIONS.keys()
    assert {"--box", "--results"} <= OPTIONS["track"]


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_commands_exist(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples" in shown
    assert declared_options(shown) >= OPTIONS[command]


def test_no_placeholder_is_left():
    assert "{{" not in README.read_text()
