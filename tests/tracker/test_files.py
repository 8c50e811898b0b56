"""Files that are whole or not there, devices that files are written to, and what to install for an extra."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT
from tracker import installed
from tracker.cli import main
from tracker.data.synthetic import SyntheticVideo
from tracker.installed import install_hint
from tracker.io.draw import VideoWriter
from tracker.io.files import replacing


def test_a_file_is_replaced_when_all_went_well(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists() and temporary.suffix == ".txt"
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with replacing(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_a_pipe_gets_what_is_written_and_stays(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as temporary:
        temporary.write_text("through")
    reader.join(60)
    assert found == ["through"] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_boxes_go_to_the_standard_output(tmp_path):
    """/dev/stdout is a link to a device or pipe: it must be there afterwards."""
    video, weights = SyntheticVideo(0, 3, (160, 120)), "siamfc-relu"
    with VideoWriter(tmp_path / "a.avi", video.size) as writer:
        for image in video.images():
            writer.write(image)
    box = ",".join(map(str, video.boxes[0]))
    command = [sys.executable, "-m", "tracker", "track", str(tmp_path / "a.avi"), "--box", box, "--weights", weights]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "--results", "/dev/stdout", "--quiet"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 3 and run.stdout.count(",") == 9, run.stderr
    assert not Path("/dev/stdout").is_file() or Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_boxes_go_where_the_standard_output_goes(tmp_path, mode):
    """Into a file, behind what is there, and before what is printed after them."""
    (tmp_path / "all.txt").write_text("before\n")
    program = (
        "import pathlib, sys\n"
        "from tracker.io.files import replacing\n"
        "print('one')\n"
        "with replacing(pathlib.Path('/dev/stdout')) as temporary:\n"
        "    temporary.write_text('two\\n')\n"
        "print('three')\n"
    )
    with (tmp_path / "all.txt").open(mode) as out:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=out, check=True, timeout=300)
    before = "before\n" if mode == "ab" else ""
    assert (tmp_path / "all.txt").read_text() == before + "one\ntwo\nthree\n"
    assert [path.name for path in tmp_path.iterdir()] == ["all.txt"]


def test_the_target_of_a_link_becomes_the_video(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.avi").symlink_to("real/out.avi")
    video = SyntheticVideo(0, 3, (160, 120))
    with VideoWriter(tmp_path / "link.avi", video.size) as writer:
        for image in video.images():
            writer.write(image)
    assert (tmp_path / "link.avi").is_symlink() and (tmp_path / "real/out.avi").stat().st_size > 1000


@pytest.mark.parametrize("what", ["text", "object", "module"])
def test_weights_that_hold_more_than_tensors(capsys, tmp_path, what):
    """torch's own message advises to load them all the same."""
    path = tmp_path / "a.pth"
    if what == "text":
        path.write_text("hello world")
    else:
        torch.save({"a": Path("x")} if what == "object" else torch.nn.Linear(2, 2), path)
    code = main(["bench", "--weights", str(path)])
    message = f"tracker: error: --weights: path must be a file of plain weights, got {path}\n"
    assert (code, capsys.readouterr().err) == (2, message)


def test_errors_begin_with_the_argument_and_not_with_a_function():
    begins, function = [], re.compile(r"[A-Za-z_]*[a-z_][A-Za-z_]*( config)?: ")
    for path in (ROOT / "tracker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                first = text.values[0] if isinstance(text, ast.JoinedStr) else text
                if isinstance(first, ast.Constant) and function.match(str(first.value)):
                    begins.append(f"{path.name}:{node.lineno}: {first.value}")
    assert not begins


def test_a_link_to_itself_and_a_wrong_suffix_are_one_line(capsys, tmp_path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "S").mkdir()
    for name, message in (("loop.mp4", ", a link that leads to itself"), ("x.gif", "")):
        assert main(["track", str(tmp_path / "S"), "--box", "1,1,9,9", "-o", str(tmp_path / name)]) == 2
        what = "must be a file" if message else "must end in .mp4, .avi or .webm"
        assert capsys.readouterr().err == f"tracker: error: --output {what}, got '{tmp_path / name}'{message}\n"


def test_what_cannot_take_a_file_is_refused(capsys, tmp_path):
    os.mkfifo(tmp_path / "a.avi")
    with pytest.raises(OSError, match="path must be a file, got the device or pipe"):
        VideoWriter(tmp_path / "a.avi", (64, 48))
    (tmp_path / "S").mkdir()
    assert main(["track", str(tmp_path / "S"), "--box", "1,1,9,9", "--results", "-"]) == 2
    assert "--results must be a file, got '-': /dev/stdout is the standard output" in capsys.readouterr().err
    assert main(["track", str(tmp_path / "S"), "--box", "1,1,9,9", "--output", str(tmp_path / "a.avi")]) == 2
    assert "--output must be a file, got the device or pipe" in capsys.readouterr().err


def test_hints_name_what_pip_can_install(monkeypatch):
    lines = ["torch>=2.11", "matplotlib>=3.7; extra == 'plot'", 'x[y]>=1; python_version < "4" and extra == "plots"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert install_hint("plot") == 'pip install "matplotlib>=3.7"'
    assert install_hint("plots") == 'pip install "x[y]>=1"'

    def none(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(installed.metadata, "requires", none)
    assert install_hint("plot") == 'pip install ".[plot]" in the source folder'


def test_sources_that_hide_the_installed_package(tmp_path):
    """As after `pip install .`, in the folder of the sources."""
    (tmp_path / "src").mkdir()
    (tmp_path / "installed" / "fastops").mkdir(parents=True)
    (tmp_path / "installed" / "fastops" / "_cpu.so").write_bytes(b"")
    for path in (ROOT / "fastops").rglob("*.py"):
        copy = tmp_path / "src" / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    run = subprocess.run(
        [sys.executable, "-m", "fastops"],
        cwd=tmp_path / "src",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert (
        f"the sources in {tmp_path}/src/fastops hide the package installed in {tmp_path}/installed/fastops"
        in run.stderr
    )
