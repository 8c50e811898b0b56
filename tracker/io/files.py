"""Files that are whole or not there."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_DESCRIPTOR = re.compile(r"/dev/(?:std(in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)")


def is_stream(path: Path) -> bool:
    """Whether what is written to `path` goes to a device, a pipe or an open file, and nothing is to be replaced."""
    return bool(_DESCRIPTOR.fullmatch(str(path))) or (path.exists() and not path.is_file() and not path.is_dir())


def behind_link(path: Path) -> Path:
    """What a symbolic link points to, to be written in place of the link; any other path as it is."""
    return path.resolve() if path.is_symlink() else path


def _open_stream(path: Path) -> BinaryIO:
    if not (found := _DESCRIPTOR.fullmatch(str(path))):
        return path.open("wb")
    name, *numbers = found.groups()
    descriptor = ("in", "out", "err").index(name) if name else int(next(filter(None, numbers)))
    sys.stdout.flush()  # what was printed before comes before
    return os.fdopen(os.dup(descriptor), "wb")  # at the place where it is: opened by its name a file would begin anew


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when all went well; missing folders are made.

    Of a link, what it points to is replaced; a device, a pipe or an open file (/dev/stdout) gets the bytes at the end.

    Example:
        >>> with replacing(Path("notes.txt")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("all or nothing")
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / f"new{path.suffix}"
            yield temporary
            with temporary.open("rb") as new, _open_stream(path) as stream:
                shutil.copyfileobj(new, stream)
        return
    path = behind_link(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or, after a crash at any time, as it was before: on the disk, then renamed."""
    path = behind_link(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the name, too, must survive a loss of power
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
