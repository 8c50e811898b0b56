"""`tracker prepare`: writes the crops of data sets to one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import Interrupted, input_errors
from tracker.commands.options import Json, Quiet
from tracker.commands.output import counted, print_json, progress_bar

SHOWN_LINES = 20  # lines about skipped data that are printed


def prepare(
    dataset: Annotated[list[str], typer.Option(metavar="LAYOUT:ROOT[:SPLIT]", help="Data set to crop. Repeatable.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The archive; its name is FILE.part until it is complete.")
    ],
    crop_size: Annotated[
        int, typer.Option(min=255, help="Side of the crops. Pixels beyond 255 are the margin for shifts and stretches.")
    ] = 287,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of the JPEGs.")] = 90,
    every: Annotated[int, typer.Option(min=1, help="Use only every n-th frame.")] = 1,
    min_side: Annotated[float, typer.Option(min=1, help="Skip targets with a side below this, in pixels.")] = 8.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; one per CPU by default.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip data that is malformed, missing or unreadable, and list it.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the crops of data sets to one file, which training reads.

    The layouts are got10k, otb, vot, lasot, trackingnet, imagenet-vid and folder. After an interruption the same
    command continues after the last complete crop. If the archive is complete, it verifies the checksums.

    \b
    Examples:
      tracker prepare --dataset got10k:/data/got10k:train --output got10k.crops
      tracker prepare --dataset otb:/data/OTB --dataset lasot:/data/LaSOT:train --output all.crops --every 5 --skip-bad
    """
    # Imported here so that other commands start quickly.
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
                print(f"stopped; the same command continues with {output}.part", file=sys.stderr)
            raise Interrupted from None
    skipped += made.skipped
    size = output.stat().st_size
    if as_json:
        numbers = {"crops": made.crops, "sequences": len(sequences), "bytes": size}
        print_json({"output": output, **numbers, "skipped": skipped})
    if as_json or quiet:
        return
    for line in skipped[:SHOWN_LINES]:
        print(f"skipped {line}")
    if len(skipped) > SHOWN_LINES:
        print(f"skipped {len(skipped) - SHOWN_LINES} more")
    print(f"{output}: {counted(made.crops, 'crop')} of {counted(len(sequences), 'sequence')}, {size / 1e6:.1f} MB")
