"""Options that several commands share, with their names and help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def choices(text: str) -> dict[str, Any]:
    """The help text and the shell completion of an option with choices such as "relu|mish"."""
    return {"metavar": text, "autocompletion": lambda: text.split("|")}


Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|NAME",
        help="SiamFC weights, .pth or .safetensors, or those of the package: siamfc-box (the default), "
        "siamfc-box-small, siamfc-mish-se or siamfc-relu. Width and attention come from the file. The activation is "
        "ReLU if the file does not name it; .pth files never do.",
    ),
]
Activation = Annotated[
    str | None,
    typer.Option(
        **choices("relu|mish|arelu|asigmoid|atanh"),
        help="Activation of the weights, which overrides the one in the file.",
    ),
]
Box = Annotated[
    str | None,
    typer.Option(metavar="X,Y,W,H", help="Target in the first frame, in pixels; X,Y is its top left corner, 0-based."),
]
Device = Annotated[
    str | None,
    typer.Option(**choices("cpu|cuda|cuda:N"), help="Device of the network; default: a GPU if there is one."),
]
Dtype = Annotated[
    str,
    typer.Option(
        **choices("float32|bfloat16|float16|int8|auto"),
        help="Type of the network's numbers; int8 needs a CPU and weights from tracker quantize; auto "
        "measures once which type is the fastest on this machine.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors, and the result of --json.")]
