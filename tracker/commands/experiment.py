"""`tracker experiment`: what the papers claim, run again, each as one command with a table and a plot."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import CommandError, input_errors, make_folder
from tracker.commands.options import Json, Quiet, choices
from tracker.commands.output import print_json

EXPERIMENTS = {"activations": "activations", "box-loss": "box_loss", "tracking": "tracking"}


def experiment(
    name: Annotated[str, typer.Argument(**choices("|".join(EXPERIMENTS)), help="Which one.")],
    quick: Annotated[bool, typer.Option("--quick", help="All variants, hardly trained: a minute or a few.")] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; made where it is missing.")
    ] = Path("experiments"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="activations: CIFAR-10 or CIFAR-100, binary version, or train/<class>/ and test/<class>/. tracking: a "
            "folder of OTB sequences to score as well."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment of the papers from several seeds; print its table and leave it as CSV and PNG.

    \b
    activations   nine activations, five optimizers, three networks: test accuracy, speed of convergence
    box-loss      IoU, GIoU, CIoU, EIoU, Focal-EIoU in the box head: overlap on held-out synthetic videos
    tracking      ReLU, + Mish, + SE, + GC, all of them: success AUC on held-out videos

    Writes <name>.csv (mean and standard deviation over the seeds), <name>_runs.csv (a row per run) and <name>.png.
    Without --data activations runs on scikit-learn's digits: pip install '.[experiments]' in the sources.

    \b
    Examples:
      tracker experiment activations --quick
      tracker experiment activations --data cifar-10-batches-bin --output results
      tracker experiment box-loss
      tracker experiment tracking --data otb
    """
    # Imported here: the other commands start without them.
    from rich.console import Console

    if name not in EXPERIMENTS:
        raise CommandError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    if name == "box-loss" and data is not None:
        raise CommandError("--data must be left out: box-loss makes its own videos")
    module = import_module(f"tracker.experiments.{EXPERIMENTS[name]}")
    with input_errors():
        make_folder(output, "--output")
        opened = module.open_data(data)
    rows = module.run(output, Console(quiet=quiet or as_json), opened, quick=quick)
    if as_json:
        print_json({"experiment": name, "output": output, "rows": rows})
