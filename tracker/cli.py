"""The `tracker` command: the list of its commands, and their exit codes."""

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
from tracker.commands.serve import serve
from tracker.commands.track import track
from tracker.commands.train import train
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
    # `no_args_is_help` would raise the whole help as a usage error in newer versions of click.
    if context.invoked_subcommand is None:
        print(context.get_help())


# The help shows this order and these words.
for _function, _short in (
    (track, "Track a target through a video, camera or folder."),
    (demo, "Make a video, track it, compare speeds."),
    (prepare, "Cut the crops of data sets into one file."),
    (train, "Train a network."),
    (evaluate, "Score the tracker on a benchmark."),
    (bench, "Measure this machine: stock PyTorch against fused ops."),
    (export, "Write the network as ONNX or torch.export."),
    (serve, "Open a page to track in the browser."),
    (experiment, "Run an experiment of the papers."),
    (info, "Print versions, devices, builds."),
):
    app.command("eval" if _function is evaluate else None, short_help=_short)(_function)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is success, 1 a training that failed, 2 bad usage or input, 130 Ctrl-C. Codes 1 and 2 print one line on stderr.
    """
    # OpenCV and FFmpeg print every codec they try; the command prints its own errors.
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
    """The message of a user's mistake, or None for any other error."""
    # Usage errors come from click, or from typer's own copy of it, depending on typer's version.
    if hasattr(error, "format_message"):
        return error.format_message()
    # Imported here, so that --help needs no OpenCV. Code that raised these errors has loaded them already.
    from tracker.io.draw import VideoError
    from tracker.io.sources import SourceError

    return str(error) if isinstance(error, (CommandError, SourceError, VideoError)) else None


def _report(message: str, code: int) -> int:
    print_error(message)
    return code
