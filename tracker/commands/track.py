"""`tracker track`: one target through a video, camera or folder of images."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracker.commands.checks import (
    CommandError,
    Interrupted,
    check_device,
    check_outputs,
    check_weights,
    find_sequence,
    has_display,
    input_errors,
    is_sequence,
    parse_box,
    parse_dtype,
    pick_box,
)
from tracker.commands.options import Activation, Device, Dtype, Json, Quiet, Weights, choices
from tracker.commands.output import counted, print_error, print_json, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tracker.tracker import Tracker

SAME_TARGET = 0.5  # IoU above which a --box marks the same target as the true box


def track(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Video file, image folder, OTB sequence folder, 'glob*.png' or a camera: 0, camera:1.",
        ),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Target in the first frame, in pixels; X,Y is its top left corner, 0-based. "
            "Once per SOURCE, in their order.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            readable=False,
            help="Annotated video, .mp4, .avi or .webm; a folder for several SOURCEs.",
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            readable=False,  # it is written
            help="Boxes file in OTB's format: x,y,w,h per line, 1-based (--box is 0-based). A folder for several "
            "SOURCEs. /dev/stdout prints the boxes; add --quiet to print nothing else.",
        ),
    ] = None,
    target: Annotated[int | None, typer.Option(min=1, help="Target of an OTB sequence folder; 1 is the first.")] = None,
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
    """Track a target through each SOURCE.

    --box is optional for an OTB sequence folder, and if a display can show a window to select the target. In an OTB
    sequence folder the tracker starts with the first ground-truth box of the --target, in the frame of that box. A
    --box starts in the same frame. If the box marks that target, the mean overlap is printed; frames without the target
    do not count. Threads decode frames in advance and write results. A camera gives its newest frame: slow tracking
    skips frames and does not lag behind. Ctrl-C, SIGTERM and SIGHUP end the run and keep the results up to then.

    Several SOURCEs are tracked one after the other. All must exist and have a target. A SOURCE that cannot be read is
    reported, and the others continue. Processes started by torchrun divide the SOURCEs.

    \b
    Examples:
      tracker track video.mp4 --box 120,80,64,48 -o tracked.mp4
      tracker track OTB/Crossing --weights siamfc.pth --results boxes.txt
      tracker track OTB/Jogging --target 2 --weights siamfc.pth --activation relu
      tracker track camera:0 --max-frames 500
      tracker track "frames/*.png" --box 10,20,30,40 --json --quiet
      torchrun --nproc-per-node 4 -m tracker track OTB/* --results boxes/
    """
    # Imported here so that other commands and shell completion start quickly.
    from tracker.distributed import World
    from tracker.io.draw import VideoError
    from tracker.io.sources import SourceError
    from tracker.tracker import Tracker

    jobs = _jobs(sources, box or [], output, results, target)
    check_device(device)
    number_type = parse_dtype(dtype, backend)
    found = check_weights(weights)
    with input_errors():
        world = World.of_environment()

    @cache  # made when the first source is known to be valid
    def make_tracker() -> Tracker:
        chosen = device or (str(world.device()) if world.size > 1 else None)
        return Tracker.from_pretrained(found, device=chosen, dtype=number_type, backend=backend, activation=activation)

    def run(job: Job) -> None:
        summary, stopped = _track_one(job, make_tracker, found, quiet, max_frames)
        if isinstance(stopped, KeyboardInterrupt) and not quiet:
            kept = "which is kept" if summary["frames"] == 1 else "which are kept"
            print(f"stopped after {counted(summary['frames'], 'frame')}, {kept}", file=sys.stderr)
        if as_json:
            print_json(summary)
        elif not quiet:
            _print_summary(summary, len(jobs) > 1)
        if isinstance(stopped, SourceError):
            kept = "frame before it is" if summary["frames"] == 1 else f"{summary['frames']} frames before it are"
            raise CommandError(f"{stopped} (the {kept} kept)")
        if stopped is not None:
            raise Interrupted

    if len(jobs) == 1:
        if world.is_first:
            run(jobs[0])
        return
    mine, failed = world.share(jobs), 0
    for job in mine:
        try:
            run(job)
        except (CommandError, SourceError, VideoError) as error:
            print_error(f"{job.source}: {error}")
            failed += 1
    if failed:
        raise CommandError(f"SOURCE: {failed} of {len(mine)} could not be tracked to their end")


@dataclass(frozen=True)
class Job:
    """One source, its box, and its output files."""

    source: str
    start: np.ndarray | None
    output: Path | None
    results: Path | None
    target: int | None = None


def _jobs(
    sources: list[str], boxes: list[str], output: Path | None, results: Path | None, target: int | None
) -> list[Job]:
    """One job per source. The outputs of several sources are named after them, in folders."""
    if boxes and len(boxes) != len(sources):
        raise CommandError(f"--box must be given once per SOURCE, {len(sources)} times, or never, got {len(boxes)}")
    starts = [parse_box(text) for text in boxes] or [None] * len(sources)
    if len(sources) == 1:
        return [Job(sources[0], starts[0], output, results, target)]
    if target is not None:
        raise CommandError(f"--target must come with a single SOURCE, got {len(sources)}")
    for source, start in zip(sources, starts, strict=True):
        _check_source(source, start)
    names = [
        Path(source).resolve().stem if Path(source).is_file() else Path(source).resolve().name for source in sources
    ]
    if (output or results) and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CommandError(f"SOURCE: names must differ because the outputs are named after them, got {twice!r} twice")
    for option, folder in (("--output", output), ("--results", results)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise CommandError(f"{option} must be a folder for several SOURCEs, got the file {str(folder)!r}")
        if folder is not None and not folder.exists() and folder.suffix in (".mp4", ".avi", ".webm", ".txt"):
            raise CommandError(
                f"{option} must be a folder for several SOURCEs, got {str(folder)!r}, the name of a file"
            )
        if folder is not None:
            with input_errors():
                folder.mkdir(parents=True, exist_ok=True)
    return [
        Job(source, start, output and output / f"{name}.mp4", results and results / f"{name}.txt")
        for source, start, name in zip(sources, starts, names, strict=True)
    ]


def _check_source(source: str, start: np.ndarray | None) -> None:
    """Raise an error for a source that would certainly fail, before the first of several is tracked."""
    from tracker.io.sources import is_path

    if not is_path(source):
        return
    if not Path(source).exists():
        raise CommandError(f"SOURCE must be an existing file or folder, a pattern or a camera, got {source!r}")
    if start is None and not has_display() and not is_sequence(source):
        raise CommandError(f"--box must be given for {source!r}: it has no ground truth, and there is no display")


def _track_one(
    job: Job, make_tracker: Callable[[], Tracker], weights: Path, quiet: bool, max_frames: int | None
) -> tuple[dict[str, Any], BaseException | None]:
    """Track one source until it ends or something stops it. Write its outputs in either case."""
    import numpy as np

    from tracker.data.otb import list_targets
    from tracker.eval.metrics import iou
    from tracker.eval.run import Run
    from tracker.io.background import WriteBehind
    from tracker.io.draw import CODECS, VideoWriter, annotate, write_boxes
    from tracker.io.sources import open_images, open_source

    source, start, output, results = job.source, job.start, job.output, job.results
    with ExitStack() as stack:
        with input_errors():
            sequence = find_sequence(source, job.target, quiet)
            inputs = [Path(source), weights, *(list_targets(source) if sequence else ())]
            check_outputs({"--output": output, "--results": results}, inputs)
            if output is not None and output.suffix.lower() not in CODECS:
                raise CommandError(f"--output must end in .mp4, .avi or .webm, got {str(output)!r}")
            frames = stack.enter_context(open_images(sequence.frames, source) if sequence else open_source(source))
            truth = sequence.seen_boxes if sequence else np.empty((0, 4))
            run = Run(start=sequence.start if sequence else 0)
            tracker = make_tracker()
            first = next(frames)
            if start is None:
                start = truth[run.start] if sequence else pick_box(first)
            elif sequence and iou(start, truth[run.start]) <= SAME_TARGET:
                truth = truth[:0]
            tracker.init(sequence.image(run.start) if run.start else first, start)
            video = None
            if output is not None:
                video = VideoWriter(output, frames.size, frames.fps, pixel_aspect=frames.pixel_aspect)
                stack.callback(video.abort)
        count = min((n for n in (frames.frame_count, max_frames) if n is not None), default=None)
        progress = stack.enter_context(progress_bar(quiet))
        task = progress.add_task("tracking", total=count)
        began = time.perf_counter()

        def record(image: np.ndarray | None, **labels: Any) -> None:
            if image is not None:
                video.write(annotate(image, **labels))
            else:  # closed in this thread because signals interrupt the main thread only
                run.keep(video.frames)  # Ctrl-C may have come between a box and its frame
                run.total = time.perf_counter() - began
                video.close()

        # Ctrl-C stops the tracking. What was tracked is still written; a second Ctrl-C stops that too.
        try:
            with run.may_stop(), WriteBehind(record) if video else nullcontext() as write:
                with run.may_stop():
                    for image in islice(chain([first], frames), max_frames):
                        run.step(tracker, image, start)
                        if write is not None:
                            write(image, **run.labels(truth))
                        progress.advance(task)
                if write is not None:
                    write(None)
        finally:  # the boxes are written even if the video cannot be
            run.total = run.total or time.perf_counter() - began
            if video is not None:
                video.abort()  # no effect on a finished video; frees the disk space of an unfinished one
            if results is not None and run.boxes:
                with input_errors("--results: "):
                    write_boxes(results, run.boxes)
    summary = {
        "source": frames.name,
        "stopped": run.stopped is not None,
        **run.summary(truth),
        "output": str(output) if output else None,
        "results": str(results) if results else None,
    }
    return summary, run.stopped


def _print_summary(summary: dict[str, Any], named: bool) -> None:
    from tracker.eval.run import print_summary

    if named:
        print(f"== {summary['source']}")
    print_summary(summary)
