"""Files that are complete or absent: every output is written under a temporary name, checked and then renamed."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DESCRIPTOR = re.compile(r"/dev/(?:std(in|out|err)|fd/(\d+))|/proc/self/fd/(\d+)")
# A file that is being written: ".", the start of its later name, "~", the process, "-", a count, the suffix.
_UNFINISHED = re.compile(r"\..+~\d+-\d+(\.[^.]*)?")
_count = itertools.count()
# Errors that a user can fix: no space, a quota, a size limit, a read-only or broken disk.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a pipe or an open file, so that writing to it replaces nothing."""
    return bool(_DESCRIPTOR.fullmatch(str(path))) or (path.exists() and not path.is_file() and not path.is_dir())


def behind_link(path: Path) -> Path:
    """The target of a symbolic link, which is written instead of the link. Other paths are returned unchanged."""
    return path.resolve() if path.is_symlink() else path


class Replacement:
    """A temporary file in the folder of `path`, which `commit` renames to `path`.

    An existing file stays as it is until then. Missing folders are created. The leftovers of killed runs are removed:
    a living run has a lock on its temporary file.

    Args:
        path: the file to create or replace. For a symbolic link it is the link's target.

    Attributes:
        temporary: the file to write to. It has the suffix of `path`.

    Raises:
        OSError: if the folder or the file cannot be created. The error names `path`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     new = Replacement(Path(folder, "notes.txt"))
        ...     _ = new.temporary.write_text("all or nothing")
        ...     new.commit()
        ...     [path.name for path in Path(folder).iterdir()]
        ['notes.txt']
    """

    def __init__(self, path: Path) -> None:
        self.path = behind_link(path)
        with naming(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.path.parent)
            name = f".{self.path.stem[:60]}~{os.getpid()}-{next(_count)}{self.path.suffix}"
            self.temporary = self.path.with_name(name)
            self._lock = _locked(self.temporary)

    def commit(self, check: Callable[[Path], None] = lambda temporary: None) -> None:
        """Put the file on the disk, check it and rename it. If one of these fails, remove it.

        Args:
            check: raises an error if the file is not correct.

        Raises:
            OSError: if the disk is full or fails. The error names `path`.
        """
        try:
            with naming(self.path):
                synchronize(self.temporary)
                check(self.temporary)
                os.replace(self.temporary, self.path)
        finally:
            self.discard()
        with suppress(OSError):  # some file systems cannot do this for a folder; the file itself is whole
            synchronize(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file. Does nothing after `commit`."""
        lock, self._lock = self._lock, None
        if lock is not None:
            self.temporary.unlink(missing_ok=True)
            os.close(lock)


@contextmanager
def replacing(path: Path, check: Callable[[Path], None] = lambda temporary: None) -> Iterator[Path]:
    """A temporary name in the folder of `path`. Its file replaces `path` if the block ends without an error.

    A device, a pipe or an open file (/dev/stdout) gets the bytes at the end.

    Args:
        path: the file to create or replace; see `Replacement`.
        check: raises an error if the file is not correct. The old file then stays.

    Raises:
        OSError: if the disk is full or fails. The error names `path`.

    Example:
        >>> with replacing(Path("notes.txt")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("all or nothing")
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / f"new{path.suffix}"
            yield temporary
            check(temporary)
            with naming(path), temporary.open("rb") as new, _open_stream(path) as stream:
                shutil.copyfileobj(new, stream)
        return
    new = Replacement(path)
    try:
        with naming(path):
            yield new.temporary
        new.commit(check)
    finally:
        new.discard()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file. After a crash at any time it is complete or as it was before.

    Raises:
        OSError: if the disk is full or fails. The error names `path`.
    """

    def check(temporary: Path) -> None:
        if temporary.stat().st_size != len(data):
            raise OSError(errno.EIO, f"file must hold {len(data)} bytes, got {temporary.stat().st_size}")

    with replacing(path, check) as temporary:
        temporary.write_bytes(data)


def why_not_whole(path: Path) -> OSError | None:
    """The system's error for writing one more block to `path`, or None if that is possible.

    OpenCV and FFmpeg do not report why they could not write.
    """
    try:
        with path.open("ab") as file:
            file.write(bytes(1 << 16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def sweep(folder: Path) -> None:
    """Remove the temporary files in `folder` that no living process is writing."""
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(folder) if _UNFINISHED.fullmatch(entry.name)]
        for name in names:
            with suppress(OSError):
                _remove_unlocked(folder / name)


def _remove_unlocked(path: Path) -> None:
    """Remove `path`. Raise BlockingIOError if a process has its lock."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        if lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Make an empty file, locked until the descriptor is closed."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            lock(descriptor)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except (FileNotFoundError, BlockingIOError):  # another process removes it between the two calls
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock a file. False if the system or the file system has no locks, BlockingIOError if another process has it."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def synchronize(path: Path) -> None:
    """Flush a file or folder to the disk. A full disk may cause an error only here."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a system error that names no file or a temporary file name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or type(error) not in _NAMED:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


# Only the system's own errors: a subclass from elsewhere has its own message.
_NAMED = (OSError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)


def _open_stream(path: Path) -> BinaryIO:
    if not (found := _DESCRIPTOR.fullmatch(str(path))):
        return path.open("wb")
    name, *numbers = found.groups()
    descriptor = ("in", "out", "err").index(name) if name else int(next(filter(None, numbers)))
    sys.stdout.flush()  # earlier output must come first
    # A copy of the descriptor continues at its position. A file opened by its name would start again.
    return os.fdopen(os.dup(descriptor), "wb")
