"""What pip knows of this package: its version, and what to install for the parts that not everybody needs."""

from __future__ import annotations

import re
import shlex
from importlib import metadata

NAME = "siamfc-fastops"


def installed_version() -> str:
    """The version, and whether it is that of sources which are not installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        from fastops import __version__

        return f"{__version__} (not installed)"


def install_hint(extra: str) -> str:
    """The command that installs what an extra of the package asks for; it works wherever pip does, sources or not.

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
