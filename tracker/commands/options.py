"""Options that several commands have: the same names, the same words of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def choices(text: str) -> dict[str, Any]:
    """What an option shows in the help, and offers to the shell, for a text such as "relu|mish"."""
    return {"metavar": text, "autocompletion": lambda: text.split("|")}


Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|NAME",
        help="SiamFC weights, .pth or .safetensors, or those of the package: siamfc-box (the default), "
        "siamfc-mish-se or siamfc-relu. Width and attention come from the file. The activation is "
        "ReLU where the file does not name it, as no .pth file does.",
    ),
]
Activation = Annotated[
    str | None,
    typer.Option(
        **choices("relu|mish|arelu|asigmoid|atanh"),
        help="What the weights were trained with, in place of what they tell.",
    ),
]
Box = Annotated[
    str | None, typer.Option(metavar="X,Y,W,H", help="Target in the first frame: pixels, 0-based left top corner.")
]
Device = Annotated[
    str | None, typer.Option(**choices("cpu|cuda|cuda:N"), help="Where the network runs: a GPU where there is one.")
]
Dtype = Annotated[
    str,
    typer.Option(
        **choices("float32|bfloat16|float16|int8|auto"),
        help="Type of the network's numbers; int8 needs weights measured for it (tracker quantize) and the CPU; auto "
        "measures once which is the fastest here.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only, and what --json asks for.")]
