"""The `tracker` command: track a video, run the demonstration, export the network, tell what is installed."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack, nullcontext
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tracker import Tracker
from tracker.arguments import (
    CommandError,
    check_device,
    check_outputs,
    check_weights,
    find_sequence,
    input_errors,
    parse_box,
    pick_box,
)
from tracker.background import WriteBehind
from tracker.commands.prepare import prepare
from tracker.commands.train import train
from tracker.data.otb import list_targets
from tracker.data.sources import SourceError, open_images, open_source
from tracker.draw import VideoError, VideoWriter, annotate, check_writable, write_boxes
from tracker.eval.metrics import iou
from tracker.run import Run, print_summary

SAME_TARGET = 0.5  # a --box that overlaps the true box more than this (IoU) marks the same target
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C

app = typer.Typer(
    help="Track one target through a video with SiamFC made of fused PyTorch ops.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _without_command(context: typer.Context) -> None:
    # Not `no_args_is_help`: newer versions of click raise the whole help as a usage error.
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def track(
    source: Annotated[
        str, typer.Argument(help="Video file, image folder, OTB sequence folder, 'glob*.png' or a camera: 0, camera:1.")
    ],
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Target in the first frame: pixels, 0-based left top corner.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated video, .mp4 or .avi.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Boxes file as OTB has it: x,y,w,h per line, 1-based (one more than --box counts)."),
    ] = None,
    target: Annotated[
        int | None, typer.Option(min=1, help="Which target of an OTB sequence folder, 1 is the first.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="SiamFC weights, .pth or .safetensors. Width and attention come from the file; where it does not tell "
            "the activation, as no .pth file does, ReLU is assumed."
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="relu or mish: what the weights were trained with, in place of what they tell.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; a GPU where there is one.")] = None,
    backend: Annotated[str, typer.Option(help="fastops (fused) or eager (plain PyTorch).")] = "fastops",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
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
    start = None if box is None else parse_box(box)
    check_device(device)
    weights = check_weights(weights)
    with ExitStack() as stack:
        with input_errors():
            sequence = find_sequence(source, target)
            inputs = [Path(source), weights, *(list_targets(source) if sequence else ())]
            check_outputs({"--output": output, "--results": results}, inputs)
            frames = stack.enter_context(open_images(sequence.frames, source) if sequence else open_source(source))
            truth = sequence.boxes if sequence else np.empty((0, 4))
            tracker = Tracker.from_pretrained(weights, device=device, backend=backend, activation=activation)
            first = next(frames)
            if start is None:
                start = truth[0] if len(truth) else pick_box(first)
            elif len(truth) and iou(start, truth[0]) <= SAME_TARGET:
                truth = truth[:0]
            tracker.init(first, start)
            video = stack.enter_context(VideoWriter(output, frames.size, frames.fps)) if output else None
        count = min((n for n in (frames.frame_count, max_frames) if n is not None), default=None)
        progress = stack.enter_context(_progress(quiet))
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
        print(json.dumps(summary))
    elif not quiet:
        print_summary(summary)
    if isinstance(run.stopped, SourceError):
        raise CommandError(f"{run.stopped} (the {len(run.boxes)} frames before it are kept)")
    if run.stopped is not None:
        raise typer.Exit(INTERRUPTED)


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the results; made where it is missing.")] = Path("demo"),
    frames: Annotated[int, typer.Option(min=2, help="Length of the video in frames.")] = 300,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Length of the video in seconds of 30 frames.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the video and the training.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short video and little training.")] = False,
) -> None:
    """Make a synthetic video, train a small network for it, track, and compare with reference PyTorch.

    Needs no download. Writes video.mp4, tracked.mp4, overlap.png, boxes.txt and weights.safetensors.

    \b
    Examples:
      tracker demo
      tracker demo --output-dir /tmp/demo --seconds 5 --seed 3
    """
    from tracker.demo import FPS, run_demo

    if seconds is not None:
        frames = max(2, round(seconds * FPS))
    with input_errors():
        output_dir.mkdir(parents=True, exist_ok=True)
        check_writable(output_dir / "video.mp4", "--output-dir")
    run_demo(output_dir, frames=frames, seed=seed, quick=quick, console=Console())


@app.command()
def export(
    format: Annotated[str, typer.Option(metavar="onnx|torch", help="ONNX graphs or torch.export packages.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.onnx or FILE.pt2: stands for two files, below.")],
    weights: Annotated[Path | None, typer.Option(help="SiamFC weights, .pth or .safetensors.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="relu or mish: what the weights were trained with, in place of what they tell.")
    ] = None,
) -> None:
    """Write the network for programs without this package: stock operations, batch norm folded, float32.

    \b
    Two files, for --output siamfc.onnx:
      siamfc.exemplar.onnx   crop [1,3,127,127] -> template [1,C,6,6]
      siamfc.search.onnx     template, searches [S,3,255,255] -> scores [S,1,17,17], any S

    Crops are RGB, 0 to 255. The template is an input of the search branch, so one file serves every target. Packages
    of --format torch load with torch.export.load, without fastops; --format onnx needs the packages of
    pip install 'siamfc-fastops[export]', and its graphs run in ONNX Runtime 1.18 or later.

    \b
    Examples:
      tracker export --format onnx --weights siamfc.pth --output siamfc.onnx
      tracker export --format torch --weights demo/weights.safetensors --output siamfc.pt2
    """
    from tracker.checkpoint import load_model
    from tracker.export import branch_paths, export_model

    weights = check_weights(weights)
    with input_errors():
        for path in branch_paths(output, format).values():  # before the weights are read
            check_writable(path, "--output")
        model = load_model(weights, activation=activation, ops="reference")
        files = export_model(model, output, format)
    for branch, path in files.items():
        print(f"{branch:14}{path}")


app.command()(prepare)
app.command()(train)


@app.command()
def info() -> None:
    """Print versions, devices and what the fused ops were built with."""
    import fastops

    try:
        package = version("siamfc-fastops")
    except PackageNotFoundError:  # run from a source folder
        package = f"{fastops.__version__} (not installed)"
    rows: dict[str, Any] = {
        "siamfc-fastops": package,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "cpu threads": torch.get_num_threads(),
        "cuda devices": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
    }
    rows |= {f"fastops {key}": value for key, value in fastops.build_info().items()}
    for key, value in rows.items():
        print(f"{key:28} {value}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for bad usage or input (one line on stderr), 130 for Ctrl-C."""
    # OpenCV and FFmpeg report every codec they try; the command reports what matters itself.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return app(args=arguments, prog_name="tracker", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (CommandError, SourceError, VideoError) as error:
        return _report(str(error), 2)
    except FloatingPointError as error:
        return _report(str(error), 1)
    except Exception as error:
        # Usage errors come from click or from typer's own copy of it, as typer's version has it.
        if not hasattr(error, "format_message"):
            raise
        return _report(error.format_message(), 2)


def _report(message: str, code: int) -> int:
    print(f"tracker: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
