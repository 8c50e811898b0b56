"""The `tracker` command: help, what all commands have in common, completion, pipes, Ctrl-C, `tracker info`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

import tracker.network.export as export
from tests.support.commands import make_sequence, make_weights, run
from tests.support.paths import ROOT
from tracker.cli import main
from tracker.commands.output import print_json
from tracker.experiments import box_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def help_of(capsys, name: str) -> str:
    code, out, err = run(capsys, name, "--help")
    assert (code, err) == (0, "")
    return out


@pytest.fixture
def commands(capsys) -> list[str]:
    out = run(capsys, "--help")[1]
    return re.findall(r"^  (\w+) ", out[out.index("Commands:") :], re.MULTILINE)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_without_a_command(capsys, commands, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: tracker")
    assert {"track", "demo", "prepare", "train", "bench", "export", "experiment", "info"} <= set(commands)


def test_every_command_shows_examples_and_names_its_options_alike(capsys, commands):
    seen: dict[str, str] = {}
    for name in commands:
        out = help_of(capsys, name)
        assert f"Examples:\n    tracker {name}" in out, name
        declared = out[out.index("\nOptions:") :]
        for short, long, metavar in re.findall(r"^  (?:(-\w), )?(--[a-z-]+)(?: ([^\s<]\S*))?", declared, re.MULTILINE):
            assert seen.setdefault(long, short) == short, f"{name} {long}"
            if long == "--json":
                assert metavar == "", name
    assert (seen["--output"], seen["--quiet"], seen["--json"], seen["--weights"]) == ("-o", "-q", "", "")


def test_module_and_help_show_examples():
    child = subprocess.run(
        [sys.executable, "-m", "tracker", "track", "--help"],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0 and child.stderr == ""
    assert "tracker track video.mp4 --box 120,80,64,48" in child.stdout and "1-based" in child.stdout


def test_help_mistakes_and_completion_come_without_torch():
    """Whoever presses Tab waits for what this imports."""
    program = (
        "import sys\n"
        "from tracker.cli import main\n"
        "assert main(['--help']) == 0 and main(['track', '--help']) == 0 and main(['track', '--bx', '1']) == 2\n"
        "print([name for name in ('torch', 'cv2', 'numpy', 'rich') if name in sys.modules])\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert child.returncode == 0 and child.stderr.startswith("tracker: error: No such option: --bx")
    assert child.stdout.splitlines()[-1] == "[]"


def test_info_names_versions_and_build(capsys):
    code, out, _ = run(capsys, "info")
    assert code == 0
    for text in ("siamfc-fastops", torch.__version__, cv2.__version__, "cuda devices", "fastops cpu_library"):
        assert text in out
    code, out, err = run(capsys, "info", "--json")
    rows = json.loads(out)
    assert (code, err, rows["torch"], rows["opencv"]) == (0, "", torch.__version__, cv2.__version__)
    assert rows["cpu_threads"] == torch.get_num_threads() and rows["fastops_cpu_library"] == "loaded"


def test_json_has_no_numbers_that_json_has_not(capsys):
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": Path("x")}, "e": (1, None)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": {"d": "x"}, "e": [1, None]}


# ---- the shell's completion --------------------------------------------------------------------------------------

# How the script of each shell asks the command what may stand in the place of the last word.
ASK = {
    "bash": lambda words: {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": words},
    "fish": lambda words: {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


def complete(capsys, monkeypatch, shell: str, words: str) -> str:
    for name, value in {"_TRACKER_COMPLETE": f"complete_{shell}", **ASK[shell](words)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ASK)
def test_completion_offers_commands_options_and_values(capsys, monkeypatch, shell):
    def offered(words: str) -> set[str]:
        return set(re.findall(r"[\w-]+", complete(capsys, monkeypatch, shell, words)))

    assert {"track", "train"} <= offered("tracker tr") and not {"demo", "export"} & offered("tracker tr")
    assert {"--box", "--backend"} <= offered("tracker track --b") and "--weights" not in offered("tracker track --b")
    assert {"float32", "float16"} <= offered("tracker bench --dtype f") and "auto" not in offered(
        "tracker bench --dtype f"
    )
    assert "activations" in offered("tracker experiment a")


@pytest.mark.parametrize("shell", ASK)
def test_show_completion_prints_the_script(capsys, monkeypatch, shell):
    shellingham = pytest.importorskip("shellingham")
    monkeypatch.setattr(shellingham, "detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    with pytest.raises(SystemExit) as end:
        main(["--show-completion"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and f"_TRACKER_COMPLETE=complete_{shell}" in out


def test_bash_completes(tmp_path):
    """The script as bash runs it."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    command = tmp_path / "tracker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tracker "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(tracker --show-completion)"\n'
        "COMP_WORDS=(tracker exp)\nCOMP_CWORD=1\n_tracker_completion tracker\n"
        'echo "${COMPREPLY[@]}"; complete -p tracker\n'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    child = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert child.stdout.splitlines()[0].split() == ["export", "experiment"], child.stderr
    assert "-F _tracker_completion tracker" in child.stdout


# ---- pipes, terminals and Ctrl-C ---------------------------------------------------------------------------------


def test_results_in_a_pipe_progress_on_a_terminal(tmp_path, capsys):
    """A bar where stderr is a terminal; JSON alone where stdout is a pipe; and no trace of either in the other."""
    pty = pytest.importorskip("pty")
    arguments = ["track", make_sequence(tmp_path), "--weights", make_weights(tmp_path), "--backend", "eager", "--json"]
    arguments += ["--max-frames", 3]
    code, out, err = run(capsys, *arguments)  # both are pipes
    assert (code, err) == (0, "") and json.loads(out)["frames"] == 3 and out.count("\n") == 1
    terminal, end = pty.openpty()
    try:
        child = subprocess.run(
            [sys.executable, "-m", "tracker", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=end, cwd=ROOT, timeout=120, env=os.environ | {"TERM": "xterm"},
        )  # fmt: skip
        shown = os.read(terminal, 65536).decode(errors="replace")
    finally:
        os.close(end)
        os.close(terminal)
    assert child.returncode == 0 and json.loads(child.stdout)["frames"] == 3
    assert "tracking" in shown and "\x1b[" in shown


def test_ctrl_c_leaves_no_half_of_an_export(tmp_path, capsys, monkeypatch):
    """Of its two files either both are there or none."""

    def interrupted(program, branch, path):
        path.write_bytes(b"half")
        if branch == "search":
            raise KeyboardInterrupt

    monkeypatch.setattr(export, "export_branches", lambda _: {"exemplar": None, "search": None})
    monkeypatch.setattr(export, "_write_torch", interrupted)
    arguments = ["export", "--format", "torch", "--weights", make_weights(tmp_path), "-o", tmp_path / "net.pt2"]
    assert run(capsys, *arguments) == (130, "", "stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    monkeypatch.setattr(export, "_write_torch", lambda program, branch, path: path.write_bytes(b"whole"))
    code, out, err = run(capsys, *arguments, "--json")
    files = {branch: str(tmp_path / f"net.{branch}.pt2") for branch in ("exemplar", "search")}
    assert (code, err) == (0, "") and json.loads(out) == {"format": "torch", **files}
    assert run(capsys, *arguments, "--quiet") == (0, "", "")


def test_ctrl_c_leaves_the_rows_of_an_experiment(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        if len(scored) == 3:
            raise KeyboardInterrupt
        scored.append(0.5)
        return {"pair_iou": 0.5, "video_iou": 0.25, "aspect_error": 1.0}

    scored: list[float] = []
    monkeypatch.setattr(box_loss, "evaluate", interrupted)
    monkeypatch.setattr(box_loss, "train_one", lambda *_, **__: None)
    arguments = ["experiment", "box-loss", "--quick", "-o", tmp_path / "results"]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (130, "") and "stopped; the same command continues with" in out
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["box-loss_runs.jsonl"]
    assert len((tmp_path / "results/box-loss_runs.jsonl").read_text().splitlines()) == 1 + 3
    code, out, err = run(capsys, *arguments, "--tables")
    assert (code, err) == (0, "") and "Focal-EIoU" not in out and "GIoU" in out


def test_prepare_and_train_end_with_one_line_of_json(tmp_path, capsys):
    archive, folder = tmp_path / "all.crops", tmp_path / "run"
    make_sequence(tmp_path / "otb")
    code, out, err = run(capsys, "prepare", "--dataset", f"otb:{tmp_path / 'otb'}", "-o", archive, "--json")
    expected = {"output": str(archive), "crops": 12, "sequences": 1, "bytes": archive.stat().st_size, "skipped": []}
    assert (code, err) == (0, "") and json.loads(out) == expected
    settings = ("steps=1", "batch_size=2", "model.width=0.125", "data.synthetic=8", "data.workers=0")
    options = [word for setting in (*settings, "validation.every=0") for word in ("--set", setting)]
    code, out, err = run(capsys, "train", *options, "-o", folder, "--json", "--quiet")
    result = json.loads(out)
    assert (code, err) == (0, "") and result.pop("loss") > 0
    weights = {"best": None, "model": str(folder / "model.safetensors")}
    assert result == {"output": str(folder), "step": 1, "steps": 1, "best_auc": None, **weights}
