"""Shared by the tests of the commands: a small video, small weights, and how a command ends."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import torch

from tracker.cli import main
from tracker.data.synthetic import SyntheticVideo
from tracker.io.draw import write_boxes
from tracker.network.checkpoint import save_state
from tracker.network.model import SiamFC

VIDEO = SyntheticVideo(0, 12, (160, 120), occlusions=0)
BOX = ",".join(f"{value:.2f}" for value in VIDEO.boxes[0])


def make_weights(folder: Path) -> str:
    """Weights of a network with an eighth of the channels."""
    path = folder / "net.safetensors"
    torch.manual_seed(0)
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), path)
    return str(path)


def make_sequence(root: Path) -> Path:
    """An OTB-style sequence folder of the synthetic video."""
    folder = root / "Synthetic"
    (folder / "img").mkdir(parents=True)
    for index, image in enumerate(VIDEO.images(), start=1):
        cv2.imwrite(str(folder / "img" / f"{index:04d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_boxes(folder / "groundtruth_rect.txt", VIDEO.boxes)
    return folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def assert_one_line(result: tuple[int, str, str], match: str) -> None:
    """A mistake of the user: exit code 2, nothing on stdout, one line on stderr."""
    code, out, err = result
    assert code == 2 and out == ""
    assert err.startswith("tracker: error: ") and err.count("\n") == 1
    assert re.search(match, err), err
