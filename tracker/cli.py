"""The `tracker` command: the list of its commands, and their exit codes."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import FrameType
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

LARGEST = 2**63 - 1
MAX_DIGITS = 40  # Python itself refuses to read more than 4300

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
    # In newer versions of click `no_args_is_help` would raise the whole help as a usage error.
    if context.invoked_subcommand is None:
        print(context.get_help())


# The help shows this order and these words.
for _function, _short in (
    (track, "Track a target through a video, camera or folder."),
    (demo, "Make a video, track it, compare speeds."),
    (prepare, "Write the crops of data sets to one file."),
    (train, "Train a network."),
    (evaluate, "Score the tracker on a benchmark."),
    (tune, "Search for the best settings of the tracker."),
    (bench, "Measure the speed of this machine: stock PyTorch against fused."),
    (quantize, "Prepare a network for 8-bit integers."),
    (export, "Write the network as ONNX or torch.export."),
    (serve, "Open a page to track in the browser."),
    (experiment, "Run an experiment of the papers."),
    (info, "Print versions, devices, builds."),
):
    app.command("eval" if _function is evaluate else None, short_help=_short)(_function)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    | code | meaning |
    |---|---|
    | 0 | success |
    | 1 | training failed, or the reader of the output closed the pipe |
    | 2 | bad usage, bad input or an output that cannot be written; one line on stderr says which |
    | 130, 143, 129 | ended by Ctrl-C, SIGTERM, SIGHUP; finished work is kept |
    """
    # OpenCV and FFmpeg print every codec that they try. The command prints its own errors.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    arguments = sys.argv[1:] if arguments is None else arguments
    with _like_ctrl_c() as caught:
        code = _run(arguments)
    code = _flush(code)
    return 128 + caught[0] if caught and code == INTERRUPTED else code


def _run(arguments: list[str]) -> int:
    try:
        _check_arguments(arguments)
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
    if code == INTERRUPTED and not {"-q", "--quiet"} & set(arguments):
        print("stopped", file=sys.stderr)
    return code


def _check_arguments(arguments: list[str]) -> None:
    """Refuse what no argument of any command can be.

    An empty one, as an unset variable of the shell leaves it, would name the current folder where a path is meant. A
    whole number beyond 64 bits does not fit the counters of torch, NumPy and the interpreter.
    """
    for before, text in pairwise(["", *arguments]):
        option, _, value = text.rpartition("=")
        name = option or (before if before.startswith("-") else "an argument")
        if not value:
            raise CommandError(f"{name} must not be empty")
        numbers = value.split(",") if re.fullmatch(r"-?\d+(,-?\d+)*", value, re.ASCII) else []
        if any(len(number) > MAX_DIGITS or abs(int(number)) > LARGEST for number in numbers):
            raise CommandError(f"{name} must have whole numbers of at most {LARGEST}, got {value[:40]!r}")


@contextmanager
def _like_ctrl_c() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end the command like Ctrl-C. Yield the list of received signals.

    A signal that is ignored, for example by nohup, stays ignored.
    """
    caught: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    taken = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield caught
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _flush(code: int) -> int:
    """Flush the output. If that fails, a successful command gets another exit code."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes again at exit and would report the error again.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has read enough
            return code or 1
        return code or _report(f"an output cannot be written: {error.strerror}", 2)
    return code


def _mistake(error: Exception) -> str | None:
    """One line for the user, or None if the error is a bug of the program."""
    # Usage errors come from click or, in some versions of typer, from typer's own copy of it.
    if hasattr(error, "format_message"):
        return error.format_message()
    # Imported here so that --help needs no OpenCV. Code that raised these errors has imported them already.
    from tracker.io.draw import VideoError
    from tracker.io.files import DISK_ERRORS
    from tracker.io.sources import SourceError

    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{error.filename or 'an output'} cannot be written: {error.strerror}"
    return str(error) if isinstance(error, (CommandError, SourceError, VideoError)) else None


def _report(message: str, code: int) -> int:
    print_error(message)
    return code
