"""Code blocks of Markdown files, for the tests of the README and of the documentation."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from tests.support.paths import ROOT
from tracker import SiamFC
from tracker.cli import main
from tracker.data.synthetic import SyntheticVideo
from tracker.io.draw import VideoWriter, write_boxes
from tracker.training.config import load_config

_BLOCK = re.compile(r"(?:^<!-- (not run|run smaller): (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Settings added to a training run that would otherwise take hours.
SMALL = (
    "steps=2", "batch_size=4", "model.width=0.125", "data.workers=0", "data.synthetic=8", "validation.every=0",
    "validation.synthetic=0",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block. A comment `<!-- MARK: REASON -->` before it sets mark ("not run" or "run smaller") and reason."""

    language: str
    code: str
    line: int
    mark: str | None
    reason: str | None

    @property
    def runs(self) -> bool:
        return self.mark != "not run"


def blocks(path: Path, *languages: str) -> list[Block]:
    """The blocks of a file in these languages, in order."""
    text = path.read_text(encoding="utf-8")
    found = (
        Block(match[3], match[4], text.count("\n", 0, match.start(4)) + 1, match[1], match[2])
        for match in _BLOCK.finditer(text)
    )
    return [block for block in found if block.language in languages]


def marks(found: Iterable[Block]) -> Counter[str]:
    """The number of blocks for each mark and reason; the tests state this number."""
    return Counter(f"{block.mark}: {block.reason}" for block in found if block.mark)


def commands(block: Block) -> list[list[str]]:
    """The words of each command line, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def options(found: Iterable[Block]) -> dict[str, set[str]]:
    """The options that command lines give to each command of `tracker`."""
    given: dict[str, set[str]] = {}
    for words in (words for block in found for words in commands(block)):
        if words[0] == "tracker" and len(words) > 1:
            given.setdefault(words[1], set()).update(word.split("=")[0] for word in words if word.startswith("-"))
    return given


def declared_options(help_text: str) -> set[str]:
    """The options that a command's --help declares. Those in its examples are left out, because they may not exist."""
    declared = help_text[help_text.index("\nOptions:") :]
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", declared))


# ---- running them ----------------------------------------------------------------------------------------------


def make_files(folder: Path) -> None:
    """Make the files that the pages assume: a video, its frames, weights, data sets, results, photographs."""
    video = SyntheticVideo(1, 8, (320, 240), occlusions=0)
    with VideoWriter(folder / "video.mp4", video.size, 30) as writer:
        for image in video.images():
            writer.write(image)
    got10k = "got10k/train/GOT-10k_Train_000001", "got10k/train/GOT-10k_Train_000002", "got10k/val/GOT-10k_Val_000001"
    otb = "Crossing", "OTB/Crossing", "OTB2015/Crossing"
    lasot, test = "LaSOT/car/car-1", "got10k/test/GOT-10k_Test_000001"
    for name in ("frames", *(f"{place}/img" for place in (*otb, lasot)), *got10k, test):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(video.images(), 1):
            suffix = "jpg" if name.startswith("got10k") else "png"
            cv2.imwrite(str(folder / name / f"{i:08d}.{suffix}"), np.ascontiguousarray(image[..., ::-1]))
    for name in otb:
        write_boxes(folder / name / "groundtruth_rect.txt", video.boxes)
    for flag in ("full_occlusion", "out_of_view"):
        (folder / lasot / f"{flag}.txt").write_text(",".join("0" * len(video)) + "\n")
    (folder / "LaSOT/testing_set.txt").write_text("car-1\n")
    for place in (f"{lasot}/groundtruth.txt", "mine/car-1.txt", "theirs/car-1.txt"):
        (folder / place).parent.mkdir(exist_ok=True)
        write_boxes(folder / place, video.boxes)
    write_boxes(folder / test / "groundtruth.txt", video.boxes[:1])  # the authors publish no more than this
    (folder / test).parent.joinpath("list.txt").write_text(f"{Path(test).name}\n")
    for name, channels in (("photos", 3), ("cutouts", 4)):
        (folder / name).mkdir()
        picture = np.random.default_rng(channels).integers(0, 256, (64, 64, channels), np.uint8)
        picture[:, 40:, 3:] = 0
        cv2.imwrite(str(folder / name / "one.png"), picture)
    for name in got10k:
        write_boxes(folder / name / "groundtruth.txt", video.boxes)
        (folder / name / "absence.label").write_text("0\n" * len(video))
        (folder / name).parent.joinpath("list.txt").open("a").write(f"{Path(name).name}\n")
    torch.manual_seed(0)
    torch.save(SiamFC(width=0.125).state_dict(), folder / "siamfc.pth")


def smaller(words: list[str]) -> list[str]:
    """The same command, reduced: two steps, a narrow network, two processes."""
    if words[0] == "torchrun":
        assert words[1] == "--nproc-per-node" and words[3:5] == ["-m", "tracker"], words
        return [*words[:2], "2", *words[3:5], *smaller(["tracker", *words[5:]])[1:]]
    if words[1] == "train" and "--resume" not in words:  # which takes the settings of the run
        return [*words, *(part for setting in SMALL for part in ("--set", setting))]
    return [*words, "--quick"] if words[1] == "experiment" and "--quick" not in words else words


def run_command(words: list[str], monkeypatch) -> None:
    """Run one command line, in this process if possible: `tracker ...` or `python -m MODULE ...`."""
    if words[0] == "torchrun":
        _run_apart(["-m", "torch.distributed.run", "--standalone", *words[1:]])
    elif words[:2] == ["tracker", "serve"]:
        _serve(words)
    elif words[0] == "tracker":
        assert main(words[1:]) == 0, words
    else:
        assert words[:2] == ["python", "-m"], words
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            try:
                runpy.run_module(words[2], run_name="__main__")
            except SystemExit as end:
                assert not end.code, words


def _run_apart(arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def _serve(words: list[str]) -> None:
    """Request the page, then send Ctrl-C. The port is a free one: another test may use the default."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    port = [] if "--port" in words else ["--port", "0"]
    command = [sys.executable, "-m", *words, "--no-open", *port]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[0]
            with urllib.request.urlopen(address, timeout=60) as page:
                assert page.status == 200 and b"<title>" in page.read()
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0


def run_block(page: Path, block: Block, scope: dict, monkeypatch) -> None:
    if block.language == "python":
        code = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
        exec(compile(code, str(page), "exec"), scope)
    elif block.language == "toml":
        name = Path(re.match(r"# (\w+\.toml)\n", block.code)[1])  # settings begin with the name of their file
        name.write_text(block.code)
        load_config(name)
    else:
        for words in commands(block):
            run_command(smaller(words) if block.mark == "run smaller" else words, monkeypatch)
