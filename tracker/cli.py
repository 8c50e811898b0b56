"""The `tracker` command: a line per command, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tracker.commands.bench import bench
from tracker.commands.checks import INTERRUPTED, CommandError, Interrupted
from tracker.commands.demo import demo
from tracker.commands.eval import evaluate
from tracker.commands.experiment import experiment
from tracker.commands.export import export
from tracker.commands.info import info
from tracker.commands.output import print_error
from tracker.commands.prepare import prepare
from tracker.commands.quantize import quantize
from tracker.commands.serve import serve
from tracker.commands.track import track
from tracker.commands.train import train
from tracker.commands.tune import tune
from tracker.installed import NAME, installed_version

app = typer.Typer(
    help="Track targets through videos with SiamFC made of fused PyTorch ops; train, evaluate and measure it.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"{NAME} {installed_version()}")
        raise typer.Exit
    # Not `no_args_is_help`: newer versions of click raise the whole help as a usage error.
    if context.invoked_subcommand is None:
        print(context.get_help())


# In the order, and the words, that the help shows.
for _function, _short in (
    (track, "Track a target through a video, camera or folder."),
    (demo, "Everything at once, on a video made here."),
    (prepare, "Cut the crops of data sets into one file."),
    (train, "Train a network."),
    (evaluate, "Score the tracker on a benchmark."),
    (tune, "Search the best settings of the tracker."),
    (bench, "Measure this machine: stock PyTorch against fused."),
    (quantize, "Measure a network for 8-bit integers."),
    (export, "Write the network as ONNX or torch.export."),
    (serve, "Open a page to track in the browser."),
    (experiment, "Run an experiment of the papers."),
    (info, "Print versions, devices, builds."),
):
    app.command("eval" if _function is evaluate else None, short_help=_short)(_function)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0, 1 for training that failed, 2 for bad usage or input (each with one line on stderr), 130 for Ctrl-C.
    """
    # OpenCV and FFmpeg report every codec they try; the command reports what matters itself.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    try:
        code = app(args=arguments, prog_name="tracker", standalone_mode=False) or 0
    except Interrupted:
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except FloatingPointError as error:
        return _report(str(error), 1)
    except Exception as error:
        message = _mistake(error)
        if message is None:
            raise
        return _report(message, 2)
    if code == INTERRUPTED and not {"-q", "--quiet"} & set(sys.argv[1:] if arguments is None else arguments):
        print("stopped", file=sys.stderr)
    return code


def _mistake(error: Exception) -> str | None:
    """What the user did wrong, or None where the error is not the user's."""
    # Usage errors come from click or from typer's own copy of it, as typer's version has it.
    if hasattr(error, "format_message"):
        return error.format_message()
    # Imported here: whoever raised them has loaded them, and help comes without OpenCV.
    from tracker.io.draw import VideoError
    from tracker.io.sources import SourceError

    return str(error) if isinstance(error, (CommandError, SourceError, VideoError)) else None


def _report(message: str, code: int) -> int:
    print_error(message)
    return code
