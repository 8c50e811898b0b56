"""`tracker demo`: everything at once, on a video made here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker.arguments import input_errors, make_folder
from tracker.commands.options import Quiet


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", "--output-dir", help="Folder for the results; made where it is missing.")
    ] = Path("demo"),
    frames: Annotated[int, typer.Option(min=2, help="Length of the video in frames.")] = 300,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Length of the video in seconds of 30 frames.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the video.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short video, and a few frames to compare.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a synthetic video, track it with the weights of the package, and compare with reference PyTorch.

    Needs no download. Writes video.mp4, tracked.mp4, overlap.png and boxes.txt.

    \b
    Examples:
      tracker demo
      tracker demo --output results --seconds 5 --seed 3
    """
    # Imported here: the other commands start without them.
    from rich.console import Console

    from tracker.demo import FPS, run_demo

    if seconds is not None:
        frames = max(2, round(seconds * FPS))
    with input_errors():
        make_folder(output, "--output")
    run_demo(output, frames=frames, seed=seed, quick=quick, console=Console(quiet=quiet))
