"""The documentation builds without a warning and needs no network, and its examples run: pages and notebooks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import blocks, declared_options, make_files, marks, options, run_block
from tests.support.paths import ROOT
from tracker.cli import main

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
BLOCKS = {page: blocks(page, "python", "bash", "console", "toml") for page in PAGES}

MARKS = {
    "not run: CI installs before it runs the tests": 1,
    "not run: it needs GOT-10k, OTB and VOT2018, and days on a GPU": 1,
    "not run: it needs COCO, and weeks on a GPU": 1,
    "run smaller: takes hours": 3,
}

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- the site --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for package in ("material", "mkdocstrings_handlers", "latex2mathml", "nbconvert", "matplotlib"):
        pytest.importorskip(package, reason=f"the documentation needs {package}: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=dict(os.environ, NO_MKDOCS_2_WARNING="1"), capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    assert "WARNING" not in run.stderr and "ERROR" not in run.stderr, run.stderr[-4000:]
    return folder


def test_site_is_whole(site):
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in (*PAGES, *NOTEBOOKS)}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}
    assert not (site / "tools").exists()


def test_site_needs_no_network(site):
    fetched = (
        r"""(?:<script[^>]*\ssrc|<img[^>]*\ssrc|<link[^>]*rel="?(?:stylesheet|preload|icon)"?[^>]*href)="?https?:"""
    )
    for path in site.rglob("*.html"):
        assert not re.search(fetched, path.read_text(encoding="utf-8")), path.name
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\"?https?:|@import", path.read_text(encoding="utf-8")), path.name


def test_equations_are_mathml(site):
    text = (site / "ops.html").read_text(encoding="utf-8")
    ops = re.findall(r"^::: fastops", (DOCS / "ops.md").read_text(), re.MULTILINE)
    assert text.count('display="block"') >= len(ops) - 3  # mish_ and others refer to another op's
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "arithmatex" not in text and ".. math" not in text and ":func:" not in text, path.name


def test_tables_are_those_of_the_results(site):
    sys.path.insert(0, str(DOCS / "tools"))
    try:
        from results import last_rows
    finally:
        sys.path.pop(0)
    text = (site / "ops.html").read_text(encoding="utf-8")
    row = next(row for row in last_rows("ops", ["mish"])[0] if float(row["fastops_us"]) > 1000)
    assert f"{float(row['fastops_us']):,.1f}" in text and row["commit"] in text
    assert "<!-- speed" not in text and "::: fastops" not in text
    with pytest.raises(ValueError, match="last_rows: benchmark must be one that results has, got 'nothing'"):
        last_rows("nothing")
    with pytest.raises(ValueError, match="last_rows: ops must be measured, got no_op not in "):
        last_rows("ops", ["no_op"])


def test_files_of_the_map_exist():
    """Every path that docs/map.md names is there; `<op>` stands for mish."""
    named = re.findall(r"`((?:[\w<>*-]+/)+[\w<>.*-]*)", (DOCS / "map.md").read_text(encoding="utf-8"))
    found = [any(any(root.glob(path.replace("<op>", "mish"))) for root in (ROOT, ROOT / "tracker")) for path in named]
    assert len(named) > 30 and [path for path, there in zip(named, found, strict=True) if not there] == []


# ---- the pages' examples ---------------------------------------------------------------------------------------


SLOW = {"index", "papers", "tracking", "training"}  # pages and notebooks that train or track for more than a moment


def _params(paths: list[Path]) -> list:
    return [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in paths]


EXAMPLES = [page for page in PAGES if any(block.runs for block in BLOCKS[page])]


@pytest.mark.parametrize("page", _params(EXAMPLES))
def test_examples_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "page"}
    for block in BLOCKS[page]:
        if block.runs:
            run_block(page, block, scope, monkeypatch)
    shown = capsys.readouterr().out
    for printed in blocks(page, "text"):
        assert printed.code.rstrip() in shown


def test_blocks_that_are_not_run_as_they_are_are_counted():
    assert marks(block for page in PAGES for block in BLOCKS[page]) == MARKS


def test_no_block_escapes():
    """Every fence is of a language that is run or is plain text, and a mark stands right before one.

    "cpp" and "py" are files that `tests.support.new_op` writes, which tests/ops/test_new_op.py compiles and runs.
    """
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        known = ("python", "bash", "console", "toml", "ini", "text", "cpp", "py")
        assert text.count("\n```") == 2 * len(blocks(page, *known)), page.name
        assert len(re.findall("<!-- (?:not run|run smaller):", text)) == marks(BLOCKS[page]).total(), page.name


OPTIONS = options(block for page in PAGES for block in BLOCKS[page] if block.language in ("bash", "console"))


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_options_of_the_pages_exist(command, capsys):
    assert main([command, "--help"]) == 0
    assert declared_options(capsys.readouterr().out) >= OPTIONS[command]


# ---- the notebooks ---------------------------------------------------------------------------------------------


def shown_by(cell) -> list[str]:
    """The text that a cell shows; pictures and the kernel's stderr are not compared."""
    texts = [output.get("text") or output.get("data", {}).get("text/plain") for output in cell.outputs]
    return [text for text, output in zip(texts, cell.outputs, strict=True) if text and "image/png" not in
            output.get("data", {}) and output.get("name") != "stderr"]  # fmt: skip


@pytest.mark.parametrize("path", _params(NOTEBOOKS))
def test_notebook_runs_and_shows_what_is_kept_in_it(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient: pip install '.[docs]'")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel: pip install '.[docs]'")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, 4)
    kept = [shown_by(cell) for cell in notebook.cells if cell.cell_type == "code"]
    shutil.copy(path, tmp_path)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert [shown_by(cell) for cell in notebook.cells if cell.cell_type == "code"] == kept
    assert str(ROOT) not in path.read_text(encoding="utf-8")
