"""`tracker prepare`: data sets become one file of crops."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import Interrupted, input_errors
from tracker.commands.options import Json, Quiet
from tracker.commands.output import print_json, progress_bar

MOST_LINES = 20  # of what was skipped, on the terminal


def prepare(
    dataset: Annotated[
        list[str], typer.Option(metavar="LAYOUT:ROOT[:SPLIT]", help="What to take; may be given more than once.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive; FILE.part until it is whole.")],
    crop_size: Annotated[
        int, typer.Option(min=255, help="Sides of the crops; beyond 255 they leave room to shift and stretch.")
    ] = 287,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of the JPEGs.")] = 90,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th frame only.")] = 1,
    min_side: Annotated[float, typer.Option(min=1, help="Leave out targets with a shorter side, in pixels.")] = 8.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one per CPU by default.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out what is malformed, missing or unreadable, and list it.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut the crops of data sets once, into one file that training reads.

    Layouts are got10k, otb, vot, lasot, trackingnet, imagenet-vid and folder, as their authors have them. Killed at any
    time, the same command goes on behind the last whole crop; on a whole archive it compares the checksums.

    \b
    Examples:
      tracker prepare --dataset got10k:/data/got10k:train --output got10k.crops
      tracker prepare --dataset otb:/data/OTB --dataset lasot:/data/LaSOT:train --output all.crops --every 5 --skip-bad
    """
    # Imported here: the other commands start without them.
    from tracker.data.datasets import open_place
    from tracker.data.prepare import prepare_archive
    from tracker.io.draw import check_writable

    skipped: list[str] = []
    with input_errors():
        check_writable(output, "--output")
        sequences = []
        for place in dataset:
            with input_errors(f"--dataset {place}: "):
                sequences += open_place(place, skip_bad=skip_bad, skipped=skipped)
        try:
            with progress_bar(quiet) as bar:
                task = bar.add_task("crops")
                made = prepare_archive(
                    sequences,
                    output,
                    crop_size=crop_size,
                    quality=quality,
                    every=every,
                    min_side=min_side,
                    workers=workers or os.cpu_count() or 1,
                    skip_bad=skip_bad,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
        except KeyboardInterrupt:
            if not quiet:
                print(f"stopped; the same command goes on with {output}.part", file=sys.stderr)
            raise Interrupted from None
    skipped += made.skipped
    size = output.stat().st_size
    if as_json:
        numbers = {"crops": made.crops, "sequences": len(sequences), "bytes": size}
        print_json({"output": output, **numbers, "skipped": skipped})
    if as_json or quiet:
        return
    for line in skipped[:MOST_LINES]:
        print(f"skipped {line}")
    if len(skipped) > MOST_LINES:
        print(f"skipped {len(skipped) - MOST_LINES} more")
    print(f"{output}: {made.crops} crops of {len(sequences)} sequences, {size / 1e6:.1f} MB")
