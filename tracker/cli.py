"""The `tracker` command: track a video, run the demonstration, tell what is installed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from tracker.data.otb import Sequence, list_targets, load_sequence
from tracker.data.sources import SourceError, open_images, open_source
from tracker.draw import VideoError, VideoWriter, annotate, check_writable, write_boxes
from tracker.eval.metrics import iou

SAME_TARGET = 0.5  # a --box that overlaps the true box more than this (IoU) marks the same target
INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C
NO_WEIGHTS = (
    "--weights must be given: no trained weights are part of this package; pass a SiamFC .pth or .safetensors file, "
    "or run `tracker demo`, which trains a small network and writes demo/weights.safetensors"
)

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


class CommandError(Exception):
    """Bad usage or bad input: one line for stderr, exit code 2."""


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn what opening and checking an input may raise into one line; other errors keep their traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error


@dataclass
class Run:
    """What tracking gave: a row per frame; `seconds` spent in `Tracker.update` for each frame after the first."""

    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    lost: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    total: float = 0.0
    stopped: BaseException | None = None  # Ctrl-C or a source that failed on the way

    def summary(self, truth: np.ndarray) -> dict[str, Any]:
        """Numbers of the run; rates and times leave out the first frame, which only starts the tracker."""
        times = np.array(self.seconds)
        rows = min(len(truth), len(self.boxes))
        timed = len(times) > 0
        return {
            "frames": len(self.boxes),
            "lost_frames": sum(self.lost),
            "fps_end_to_end": len(times) / self.total if timed else None,
            "fps_tracker": 1 / times.mean() if timed else None,
            "ms": {f"p{p}": float(np.percentile(times, p)) * 1e3 for p in (50, 95, 99)} if timed else None,
            "mean_overlap": float(iou(self.boxes[:rows], truth[:rows]).mean()) if rows else None,
        }


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
    Ctrl-C ends the run and keeps what was tracked.

    \b
    Examples:
      tracker track video.mp4 --box 120,80,64,48 --weights siamfc.pth -o tracked.mp4
      tracker track OTB/Crossing --weights siamfc.pth --results boxes.txt
      tracker track OTB/Jogging --target 2 --weights siamfc.pth --activation relu
      tracker track camera:0 --weights siamfc.pth --max-frames 500
      tracker track "frames/*.png" --box 10,20,30,40 --weights siamfc.pth --json --quiet
    """
    start = None if box is None else _parse_box(box)
    _check_device(device)
    if weights is None:
        raise CommandError(NO_WEIGHTS)
    with ExitStack() as stack:
        with _input_errors():
            sequence = _sequence(source, target)
            inputs = [Path(source), weights, *(list_targets(source) if sequence else ())]
            _check_outputs({"--output": output, "--results": results}, inputs)
            frames = stack.enter_context(open_images(sequence.frames, source) if sequence else open_source(source))
            truth = sequence.boxes if sequence else np.empty((0, 4))
            tracker = Tracker.from_pretrained(weights, device=device, backend=backend, activation=activation)
            first = next(frames)
            if start is None:
                start = truth[0] if len(truth) else _pick_box(first)
            elif len(truth) and iou(start, truth[0]) <= SAME_TARGET:
                truth = truth[:0]
            tracker.init(first, start)
            writer = stack.enter_context(VideoWriter(output, frames.size, frames.fps)) if output else None
        count = min((n for n in (frames.frame_count, max_frames) if n is not None), default=None)
        progress = stack.enter_context(_progress(quiet))
        task = progress.add_task("tracking", total=count)
        run = Run()
        began = time.perf_counter()
        try:
            for index, image in enumerate(islice(chain([first], frames), max_frames)):
                _step(run, tracker, image, start)
                if writer is not None:
                    writer.write(_annotated(run, image, index, truth))
                progress.advance(task)
        except (KeyboardInterrupt, SourceError) as error:
            run.stopped = error
        run.total = time.perf_counter() - began
    if results is not None:
        with _input_errors():
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
        _print_summary(summary)
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
    with _input_errors():
        output_dir.mkdir(parents=True, exist_ok=True)
        check_writable(output_dir / "video.mp4", "--output-dir")
    run_demo(output_dir, frames=frames, seed=seed, quick=quick, console=Console())


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


def _parse_box(text: str) -> np.ndarray:
    try:
        box = np.array([float(part) for part in text.split(",")])
    except ValueError:
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise CommandError(f"--box must be four numbers x,y,w,h with w and h above 0, got {text!r}")
    return box


def _check_device(name: str | None) -> None:
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CommandError(f"--device must be one of this machine's {torch.cuda.device_count()} GPUs, got {name!r}")


def _check_outputs(outputs: dict[str, Path | None], inputs: list[Path]) -> None:
    """Refuse outputs that cannot be written, or would replace an input or each other."""
    taken = list(inputs)
    for option, path in outputs.items():
        if path is None:
            continue
        for other in taken:
            linked = path.exists() and other.exists() and path.samefile(other)
            if linked or path.resolve() == other.resolve():
                raise CommandError(f"{option} must be a file of its own, got {str(path)!r}, which is {str(other)!r}")
        check_writable(path, option)
        taken.append(path)


def _sequence(source: str, target: int | None) -> Sequence | None:
    """The OTB sequence where `source` is the folder of one, else None."""
    try:
        list_targets(source)
    except FileNotFoundError:
        if target is not None:
            raise CommandError(f"--target must be left out: {source!r} is no OTB sequence folder") from None
        return None
    return load_sequence(source, target or 1)


def _pick_box(image: np.ndarray) -> np.ndarray:
    # Where there is no display some GUI builds of OpenCV end the whole process, so it is looked for first.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise CommandError("--box must be given: there is no display to pick the target on")
    window = "drag a box around the target, then press Enter"
    try:
        box = cv2.selectROI(window, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.destroyWindow(window)
    except (cv2.error, AttributeError):
        raise CommandError(
            "--box must be given: this OpenCV has no windows to pick the target in "
            "(pip uninstall opencv-python-headless && pip install opencv-python brings one that has)"
        ) from None
    if min(box[2:]) <= 0:
        raise CommandError("--box must be given or picked, got no selection")
    return np.array(box, np.float64)


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)


def _step(run: Run, tracker: Tracker, image: np.ndarray, start: np.ndarray) -> None:
    if not run.boxes:
        run.boxes.append(np.asarray(start, np.float64))
        run.scores.append(1.0)
        run.lost.append(False)
        return
    began = time.perf_counter()
    result = tracker.update(image)
    run.seconds.append(time.perf_counter() - began)
    run.boxes.append(result.box)
    run.scores.append(result.score)
    run.lost.append(result.lost)


def _annotated(run: Run, image: np.ndarray, index: int, truth: np.ndarray) -> np.ndarray:
    recent = run.seconds[-20:]
    return annotate(
        image,
        run.boxes[-1],
        score=run.scores[-1],
        lost=run.lost[-1],
        frame=index,
        fps=len(recent) / sum(recent) if recent else None,
        truth=truth[index] if index < len(truth) else None,
    )


def _print_summary(summary: dict[str, Any]) -> None:
    rows = {"frames": f"{summary['frames']} ({summary['lost_frames']} lost)"}
    if summary["ms"]:
        parts = "decode, track, draw, write" if summary["output"] else "decode, track"
        rows["end to end"] = f"{summary['fps_end_to_end']:.1f} fps ({parts})"
        rows["tracker only"] = f"{summary['fps_tracker']:.1f} fps"
        rows["per frame"] = "  ".join(f"{name} {ms:.1f} ms" for name, ms in summary["ms"].items())
    if summary["mean_overlap"] is not None:
        rows["mean overlap"] = f"{summary['mean_overlap']:.3f}"
    rows |= {key: summary[key] for key in ("output", "results") if summary[key]}
    for key, value in rows.items():
        print(f"{key:14}{value}")
