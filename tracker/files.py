"""Files that are whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when all went well; missing folders are made.

    Example:
        >>> with replacing(Path("notes.txt")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("all or nothing")
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe takes what is written to it
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / f"new{path.suffix}"
            with (Path(folder) / f"new{path.suffix}").open("rb") as new, path.open("wb") as device:
                shutil.copyfileobj(new, device)
        return
    if path.is_symlink():  # what it points to is replaced, not the link
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
