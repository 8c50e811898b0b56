"""`tracker track`: one target through a video, camera or folder of images."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer

from tracker.arguments import (
    INTERRUPTED,
    CommandError,
    check_device,
    check_outputs,
    check_weights,
    find_sequence,
    input_errors,
    parse_box,
    parse_dtype,
    pick_box,
)
from tracker.commands.options import Activation, Box, Device, Dtype, Json, Quiet, Weights, choices
from tracker.commands.output import print_json, progress_bar

SAME_TARGET = 0.5  # a --box that overlaps the true box more than this (IoU) marks the same target


def track(
    source: Annotated[
        str, typer.Argument(help="Video file, image folder, OTB sequence folder, 'glob*.png' or a camera: 0, camera:1.")
    ],
    box: Box = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated video, .mp4 or .avi.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Boxes file as OTB has it: x,y,w,h per line, 1-based (one more than --box counts)."),
    ] = None,
    target: Annotated[
        int | None, typer.Option(min=1, help="Which target of an OTB sequence folder, 1 is the first.")
    ] = None,
    weights: Weights = None,
    activation: Activation = None,
    device: Device = None,
    dtype: Dtype = "float32",
    backend: Annotated[
        str, typer.Option(**choices("fastops|eager"), help="fastops (fused) or eager (plain PyTorch).")
    ] = "fastops",
    as_json: Json = False,
    quiet: Quiet = False,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
) -> None:
    """Track a target through SOURCE.

    --box may be left out for an OTB sequence folder and where a display can be used to pick the target. In an OTB
    sequence folder the first ground-truth box of the --target starts the tracker, in the frame it belongs to, and the
    mean overlap is printed; a --box there starts in the same frame, and the overlap is printed if it marks that target.
    Frames are decoded ahead, and drawn and written behind, in threads of their own; a camera gives its newest frame, so
    slow tracking misses frames and does not lag behind. Ctrl-C ends the run and keeps what was tracked.

    \b
    Examples:
      tracker track video.mp4 --box 120,80,64,48 --weights siamfc.pth -o tracked.mp4
      tracker track OTB/Crossing --weights siamfc.pth --results boxes.txt
      tracker track OTB/Jogging --target 2 --weights siamfc.pth --activation relu
      tracker track camera:0 --weights siamfc.pth --max-frames 500
      tracker track "frames/*.png" --box 10,20,30,40 --weights siamfc.pth --json --quiet
    """
    # Imported here: the other commands, and the completion of the shell, start without them.
    import numpy as np

    from tracker.background import WriteBehind
    from tracker.data.otb import list_targets
    from tracker.data.sources import SourceError, open_images, open_source
    from tracker.draw import VideoWriter, annotate, write_boxes
    from tracker.eval.metrics import iou
    from tracker.run import Run, print_summary
    from tracker.tracker import Tracker

    start = None if box is None else parse_box(box)
    check_device(device)
    number_type = parse_dtype(dtype, backend)
    weights = check_weights(weights)
    with ExitStack() as stack:
        with input_errors():
            sequence = find_sequence(source, target)
            inputs = [Path(source), weights, *(list_targets(source) if sequence else ())]
            check_outputs({"--output": output, "--results": results}, inputs)
            frames = stack.enter_context(open_images(sequence.frames, source) if sequence else open_source(source))
            truth = sequence.boxes if sequence else np.empty((0, 4))
            tracker = Tracker.from_pretrained(
                weights, device=device, dtype=number_type, backend=backend, activation=activation
            )
            first = next(frames)
            if start is None:
                start = truth[0] if len(truth) else pick_box(first)
            elif len(truth) and iou(start, truth[0]) <= SAME_TARGET:
                truth = truth[:0]
            tracker.init(first, start)
            video = stack.enter_context(VideoWriter(output, frames.size, frames.fps)) if output else None
        count = min((n for n in (frames.frame_count, max_frames) if n is not None), default=None)
        progress = stack.enter_context(progress_bar(quiet))
        task = progress.add_task("tracking", total=count)
        run = Run()
        writing = (
            WriteBehind(lambda image, **labels: video.write(annotate(image, **labels))) if video else nullcontext()
        )
        began = time.perf_counter()
        # Ctrl-C stops the tracking, but not the writing of what was tracked; a second one stops that too.
        with run.may_stop(), writing as write, run.may_stop():
            for image in islice(chain([first], frames), max_frames):
                run.step(tracker, image, start)
                if write is not None:
                    write(image, **run.labels(truth))
                progress.advance(task)
        run.total = time.perf_counter() - began
    if results is not None:
        with input_errors():
            write_boxes(results, run.boxes)
    summary = {
        "source": frames.name,
        **run.summary(truth),
        "output": str(output) if output else None,
        "results": str(results) if results else None,
    }
    if as_json:
        print_json(summary)
    elif not quiet:
        print_summary(summary)
    if isinstance(run.stopped, SourceError):
        raise CommandError(f"{run.stopped} (the {len(run.boxes)} frames before it are kept)")
    if run.stopped is not None:
        raise typer.Exit(INTERRUPTED)
