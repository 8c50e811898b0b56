"""The README's code runs as it stands, except what is marked; its commands exist; its speeds are the measured ones."""

from __future__ import annotations

import re

import pytest

from tests.support.examples import blocks, declared_options, make_files, marks, options, run_block
from tests.support.paths import ROOT
from tracker.cli import main

README = ROOT / "README.md"


BLOCKS = blocks(README, "python", "bash")


@pytest.mark.slow
def test_blocks_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in BLOCKS:
        scope: dict = {"__name__": "readme"}
        run_block(README, block, scope, monkeypatch)
        shown, ran = capsys.readouterr().out, ran + 1
        if "scores" in scope:
            assert scope["scores"].shape == (8, 1, 17, 17)
            assert scope["x"].grad.isfinite().all() and scope["x"].grad.any()
        if "accelerate" in block.code:
            assert "accelerate: 2 changed, 0 left alone" in shown
    assert ran == len(BLOCKS) == 5
    assert (tmp_path / "tracked.mp4").is_file() and (tmp_path / "demo" / "overlap.png").is_file()


def test_all_blocks_run():
    assert marks(BLOCKS) == {"run smaller: take hours": 1}
    assert README.read_text(encoding="utf-8").count("\n```") == 2 * len(BLOCKS)


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


def test_tables_are_those_of_the_results(monkeypatch):
    """`python docs/tools/readme.py` writes it again after new measurements."""
    for package in ("mkdocs", "matplotlib"):
        pytest.importorskip(package, reason=f"docs/tools needs {package}: pip install '.[docs]'")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    from readme import CARD, accuracy_table, score_table, speed_table

    text = README.read_text(encoding="utf-8")
    assert speed_table() in text and accuracy_table() in text
    assert score_table() in CARD.read_text(encoding="utf-8")


def test_readme_is_short_and_its_links_lead_to_files():
    text = README.read_text(encoding="utf-8")
    assert text.count("\n") <= 150
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", text)
    assert len(links) > 15 and [link for link in links if not (ROOT / link).exists()] == []


def test_no_placeholder_is_left():
    assert "{{" not in README.read_text()
