"""Checks before a command starts. Every mistake is reported in one line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tracker.network.pretrained import PRETRAINED, find_weights

# NumPy, OpenCV and torch are imported where they are used, so that help and shell completion start quickly.
if TYPE_CHECKING:
    import numpy as np
    import torch

    from tracker.data.sequence import Sequence

INTERRUPTED = 130  # the exit code that a shell reports after Ctrl-C


class CommandError(Exception):
    """Bad usage or bad input: one line for stderr, exit code 2."""


class Interrupted(Exception):
    """Ctrl-C ended a command, which has already printed what it kept."""


@contextmanager
def input_errors(what: str = "") -> Iterator[None]:
    """Turn the errors of opening and checking an input into one line. Other errors keep their traceback.

    Args:
        what: start of the line, if the error does not name the argument.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror is not None:  # without Python's [Errno 2]
            message = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        raise CommandError(f"{what}{message}") from error


def parse_box(text: str) -> np.ndarray:
    """Return x, y, w, h of a --box."""
    import numpy as np

    from tracker.data.annotations import LARGEST

    try:
        box = np.array([float(part) for part in text.split(",")])
    except ValueError:
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise CommandError(f"--box must be four numbers x,y,w,h with w and h above 0, got {text!r}")
    if max(abs(box)) > LARGEST:
        raise CommandError(f"--box must have numbers up to {LARGEST:,.0f} pixels, got {text!r}")
    return box


def parse_dtype(name: str, backend: str) -> torch.dtype | str:
    """Return the type of a --dtype, or "auto"."""
    import torch

    names = ("float32", "bfloat16", "float16", "int8", "auto")
    if name not in names:
        raise CommandError(f"--dtype must be {', '.join(names[:-1])} or {names[-1]}, got {name!r}")
    if name in ("auto", "int8") and backend != "fastops":
        raise CommandError(f"--dtype {name} must go with --backend fastops, got {backend!r}")
    return name if name == "auto" else getattr(torch, name)


def check_weights(path: Path | None) -> Path:
    """Return the file of --weights: the given one, or one of the package."""
    found = find_weights(path)
    if not found.is_file():
        raise CommandError(f"--weights must be an existing file, {', '.join(PRETRAINED)}, got {str(path)!r}")
    from tracker.network.checkpoint import load_state

    with input_errors("--weights: "):  # read here, where the option is known; they are read again for use
        load_state(found)
    return found


def check_device(name: str | None) -> None:
    """Raise an error for a --device that is unknown or not in this machine."""
    import torch

    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CommandError(f"--device must be one of this machine's {torch.cuda.device_count()} GPUs, got {name!r}")


def check_outputs(outputs: dict[str, Path | None], inputs: list[Path]) -> None:
    """Raise an error for outputs that cannot be written, or that would replace an input or each other."""
    from tracker.io.draw import check_writable
    from tracker.io.files import is_stream

    taken = list(inputs)
    for option, path in outputs.items():
        if path is None:
            continue
        try:
            path.resolve()
        except (OSError, RuntimeError):
            raise CommandError(f"{option} must be a file, got {str(path)!r}, a link that leads to itself") from None
        for other in taken:
            linked = path.exists() and other.exists() and path.samefile(other)
            if linked or path.resolve() == other.resolve():
                raise CommandError(f"{option} must be a file of its own, got {str(path)!r}, which is {str(other)!r}")
        if str(path) == "-":
            raise CommandError(f"{option} must be a file, got '-': /dev/stdout is the standard output")
        if option == "--output" and is_stream(path):
            raise CommandError(f"{option} must be a file, got the device or pipe {str(path)!r}")
        check_writable(path, option)
        taken.append(path)


def make_folder(path: Path, option: str) -> None:
    """Make the folder for results if it is missing. Raise an error if it cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"{option} must be a folder, or be made one, got {str(path)!r} ({error.strerror})"
        ) from error
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise CommandError(
            f"{option} must be a folder that can be written, got {str(path)!r} ({error.strerror})"
        ) from error


def is_sequence(source: str) -> bool:
    """Whether `source` is the folder of an OTB sequence. Its files are not read."""
    from tracker.data.otb import list_targets

    try:
        return bool(list_targets(source))
    except FileNotFoundError:
        return False


def find_sequence(source: str, target: int | None, quiet: bool = True) -> Sequence | None:
    """Load the OTB sequence in the folder `source`, or return None; notes about it are printed unless `quiet`."""
    from tracker.commands.output import print_note
    from tracker.data.annotations import Problems
    from tracker.data.otb import load_sequence

    if not is_sequence(source):
        if target is not None:
            raise CommandError(f"--target must be left out: {source!r} is no OTB sequence folder")
        return None
    problems = Problems()
    sequence = load_sequence(source, target or 1, problems=problems)
    for line in () if quiet else problems.lines:
        print_note(line)
    return sequence


def has_display() -> bool:
    """Whether a display exists: without one, some builds of OpenCV abort the process."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def pick_box(image: np.ndarray) -> np.ndarray:
    """Let the user drag a box around the target in a window."""
    import cv2
    import numpy as np

    if not has_display():
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
