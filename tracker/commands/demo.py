"""`tracker demo`: makes a video, tracks it, compares speeds and plots the overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import CommandError, input_errors, make_folder
from tracker.commands.options import Json, Quiet
from tracker.commands.output import print_json


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", "--output-dir", help="Folder for the results; created if missing.")
    ] = Path("demo"),
    frames: Annotated[
        int | None, typer.Option(min=2, help="Length of the video in frames; 300 by default, 90 with --quick.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Length in seconds, at 30 frames per second.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the video.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short video, and a few frames to compare.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a synthetic video, track it with the weights of the package, and compare with reference PyTorch.

    Needs no download. Writes video.mp4, tracked.mp4 and boxes.txt, and overlap.png if matplotlib is installed.

    \b
    Examples:
      tracker demo
      tracker demo --output results --seconds 5 --seed 3
      tracker demo --quick --json > demo.json
    """
    # Imported here so that other commands start quickly.
    from rich.console import Console

    from tracker.commands.run_demo import FPS, run_demo

    if seconds is not None and frames is not None:
        raise CommandError("--seconds must come without --frames")
    if seconds is not None:
        frames = max(2, round(seconds * FPS))
    made = not output.exists()
    with input_errors():
        make_folder(output, "--output")
    try:
        summary = run_demo(output, frames=frames, seed=seed, quick=quick, console=Console(quiet=quiet or as_json))
    except KeyboardInterrupt:
        if made and not any(output.iterdir()):
            output.rmdir()
        raise
    if as_json:
        print_json(summary)
