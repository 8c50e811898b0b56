"""Code blocks of Markdown files, as the tests of the README and of the documentation take them."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from tracker import SiamFC
from tracker.cli import main
from tracker.data.synthetic import SyntheticVideo
from tracker.draw import VideoWriter, write_boxes
from tracker.train_config import load_config

_BLOCK = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` is the reason of a comment `<!-- not run: ... -->` in the line before it."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks(path: Path, *languages: str) -> list[Block]:
    """The blocks of a file in these languages, in their order."""
    text = path.read_text(encoding="utf-8")
    found = (
        Block(match[2], match[3], text.count("\n", 0, match.start(3)) + 1, match[1]) for match in _BLOCK.finditer(text)
    )
    return [block for block in found if block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """The words of each command line, comments left out."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def options(found: Iterable[Block]) -> dict[str, set[str]]:
    """The options that command lines give to each command of `tracker`."""
    given: dict[str, set[str]] = {}
    for words in (words for block in found for words in commands(block)):
        if words[0] == "tracker":
            given.setdefault(words[1], set()).update(word.split("=")[0] for word in words if word.startswith("-"))
    return given


def declared_options(help_text: str) -> set[str]:
    """The options that a command's --help declares: not those of its examples, which are there whether they exist."""
    declared = help_text[help_text.index("\nOptions:") :]
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", declared))


# ---- running them ----------------------------------------------------------------------------------------------


def make_files(folder: Path) -> None:
    """What the pages speak of as the reader's own: a video, its pictures, weights, an OTB sequence, OTB, GOT-10k."""
    video = SyntheticVideo(1, 8, (320, 240), occlusions=0)
    with VideoWriter(folder / "video.mp4", video.size, 30) as writer:
        for image in video.images():
            writer.write(image)
    got10k = "got10k/train/GOT-10k_Train_000001", "got10k/train/GOT-10k_Train_000002", "got10k/val/GOT-10k_Val_000001"
    otb = "Crossing", "OTB/Crossing", "OTB2015/Crossing"
    for name in ("frames", *(f"{place}/img" for place in otb), *got10k):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(video.images(), 1):
            suffix = "jpg" if name in got10k else "png"
            cv2.imwrite(str(folder / name / f"{i:08d}.{suffix}"), np.ascontiguousarray(image[..., ::-1]))
    for name in otb:
        write_boxes(folder / name / "groundtruth_rect.txt", video.boxes)
    for name in got10k:
        write_boxes(folder / name / "groundtruth.txt", video.boxes)
        (folder / name / "absence.label").write_text("0\n" * len(video))
        (folder / name).parent.joinpath("list.txt").open("a").write(f"{Path(name).name}\n")
    torch.manual_seed(0)
    torch.save(SiamFC(width=0.125).state_dict(), folder / "siamfc.pth")


def run_command(words: list[str], monkeypatch) -> None:
    """One command line, in this process: `tracker ...` or `python -m MODULE ...`."""
    if words[0] == "tracker":
        assert main(words[1:]) == 0, words
    else:
        assert words[:2] == ["python", "-m"], words
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            try:
                runpy.run_module(words[2], run_name="__main__")
            except SystemExit as end:
                assert not end.code, words


def run_block(page: Path, block: Block, scope: dict, monkeypatch) -> None:
    if block.language == "python":
        code = "\n" * (block.line - 1) + block.code  # so that a traceback names the line of the page
        exec(compile(code, str(page), "exec"), scope)
    elif block.language == "toml":
        Path("page.toml").write_text(block.code)
        load_config(Path("page.toml"))
    else:
        for words in commands(block):
            run_command(words, monkeypatch)
