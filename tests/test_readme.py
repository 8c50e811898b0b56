"""The README's Python that needs no video runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tracker.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


EXAMPLES = [block for block in _blocks("python") if "video.mp4" not in block]


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


def _options_of_commands() -> dict[str, set[str]]:
    """The options that the README's command lines give to each command of `tracker`."""
    options: dict[str, set[str]] = {}
    for line in "".join(_blocks("bash")).replace("\\\n", " ").splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["tracker"]:
            options.setdefault(words[1], set()).update(word.split("=")[0] for word in words if word.startswith("-"))
    return options


OPTIONS = _options_of_commands()


def test_commands_are_found():
    assert {"track", "demo"} <= OPTIONS.keys()
    assert {"--box", "--weights"} <= OPTIONS["track"]


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_commands_exist(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples" in shown
    declared = shown[shown.index("\nOptions:") :]  # not the examples, which show options whether they exist or not
    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", declared)) >= OPTIONS[command]


def test_no_placeholder_is_left():
    assert "{{" not in README.read_text()
