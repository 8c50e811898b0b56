"""The installed version of this package, and the commands that install its extras."""

from __future__ import annotations

import re
import shlex
from importlib import metadata

NAME = "siamfc-fastops"


def installed_version() -> str:
    """The version, with a mark if the sources are used without an installation."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        from fastops import __version__

        return f"{__version__} (not installed)"


def install_hint(extra: str) -> str:
    """The command that installs the requirements of an extra. It works with and without the source folder.

    Example:
        >>> install_hint("plot")
        'pip install "matplotlib>=3.7"'
    """
    try:
        requirements = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        requirements = []
    asked = re.compile(rf"\s*;.*\bextra == ['\"]{re.escape(extra)}['\"]")
    names = [asked.sub("", line) for line in requirements if asked.search(line)]
    return "pip install " + (" ".join(map(_quoted, names)) if names else f'".[{extra}]" in the source folder')


def _quoted(name: str) -> str:
    return name if shlex.quote(name) == name else f'"{name}"'
