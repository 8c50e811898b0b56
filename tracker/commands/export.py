"""`tracker export`: the network as ONNX graphs or torch.export packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import check_outputs, check_weights, input_errors
from tracker.commands.options import Activation, Json, Quiet, Weights, choices
from tracker.commands.output import print_json


def export(
    format: Annotated[str, typer.Option(**choices("onnx|torch"), help="ONNX graphs or torch.export packages.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="FILE.onnx or FILE.pt2; two files are written, see below.")
    ],
    weights: Weights = None,
    activation: Activation = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the network for programs without this package, with stock operations and folded batch norms, in float32.

    \b
    Two files, for --output siamfc.onnx:
      siamfc.exemplar.onnx   crop [1,3,127,127] -> template [1,C,6,6]
      siamfc.search.onnx     template, searches [S,3,255,255] -> scores [S,1,17,17], any S

    Crops are RGB, 0 to 255. The template is an input of the search branch, so one file serves every target. Packages
    of --format torch load with torch.export.load, without fastops; --format onnx needs the packages of
    pip install '.[export]' in its sources, and its graphs run in ONNX Runtime 1.18 or later.

    \b
    Examples:
      tracker export --format onnx --weights siamfc.pth --output siamfc.onnx
      tracker export --format torch --weights siamfc-relu --output siamfc.pt2
    """
    # Imported here: the other commands start without them.
    from tracker.network.checkpoint import load_model
    from tracker.network.export import branch_paths, export_model

    weights = check_weights(weights)
    with input_errors():
        for path in branch_paths(output, format).values():  # before the weights are read
            check_outputs({"--output": path}, [weights])
        model = load_model(weights, activation=activation, ops="reference")
        files = export_model(model, output, format)
    if as_json:
        print_json({"format": format, **files})
    elif not quiet:
        for branch, path in files.items():
            print(f"{branch:14}{path}")
