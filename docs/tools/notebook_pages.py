"""mkdocs hook: docs/notebooks/*.ipynb become pages, with the outputs that are kept in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def on_files(files: Files, *, config: Any, **kwargs: Any) -> Files:
    for path in sorted(Path(config.docs_dir).glob("notebooks/*.ipynb")):
        resources = {"output_files_dir": path.stem, "unique_key": path.stem}
        text, resources = MarkdownExporter().from_filename(str(path), resources)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, data in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files
