"""Code blocks of Markdown files, as the tests of the README and of the documentation take them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?:^<!-- not run: (.+?) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; `not_run` is the reason of a comment `<!-- not run: ... -->` in the line before it."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks(path: Path, *languages: str) -> list[Block]:
    """The blocks of a file in these languages, in their order."""
    text = path.read_text(encoding="utf-8")
    found = (
        Block(match[2], match[3], text.count("\n", 0, match.start(3)) + 1, match[1]) for match in _BLOCK.finditer(text)
    )
    return [block for block in found if block.language in languages]


def commands(block: Block) -> list[list[str]]:
    """The words of each command line, comments left out."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def options(found: Iterable[Block]) -> dict[str, set[str]]:
    """The options that command lines give to each command of `tracker`."""
    given: dict[str, set[str]] = {}
    for words in (words for block in found for words in commands(block)):
        if words[0] == "tracker":
            given.setdefault(words[1], set()).update(word.split("=")[0] for word in words if word.startswith("-"))
    return given


def declared_options(help_text: str) -> set[str]:
    """The options that a command's --help declares: not those of its examples, which are there whether they exist."""
    declared = help_text[help_text.index("\nOptions:") :]
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", declared))
