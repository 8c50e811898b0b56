"""mkdocs hook: equations become MathML when the site is built, so that no script has to be fetched to show them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from latex2mathml.exceptions import NoAvailableTokensError
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves of $...$ and $$...$$.
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, *, page: Any, **kwargs: Any) -> str:
    def to_mathml(match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip().replace(r"\arg", r"\operatorname{arg}")  # latex2mathml has no \arg
        try:
            mathml = convert(latex, display="block" if match[1] == "div" else "inline")
        except (NoAvailableTokensError, IndexError, ValueError) as error:
            raise PluginError(f"{page.file.src_path}: {latex!r} must be LaTeX, got {type(error).__name__}") from error
        if left := re.search(r"<m[io]>(&amp;|&|\\[A-Za-z]+)</m[io]>", mathml):
            raise PluginError(f"{page.file.src_path}: {latex!r} must be LaTeX that has MathML, got {left[1]}")
        return mathml

    return _EQUATION.sub(to_mathml, content)
