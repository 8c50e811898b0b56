"""`tracker experiment`: experiments of three papers. Each is one command that makes tables and plots."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracker.commands.checks import CommandError, Interrupted, input_errors, make_folder
from tracker.commands.options import Json, Quiet, choices
from tracker.commands.output import print_json

if TYPE_CHECKING:
    from tracker.experiments.runs import Experiment

MODULES = {
    "tracking": "tracking",
    "box-loss": "box_loss",
    "detection": "detection",
    "simulation": "simulation",
    "activations": "activations",
}


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            **choices("|".join([*MODULES, "list"])), help="Name of the experiment; `list` prints all names."
        ),
    ],
    quick: Annotated[bool, typer.Option("--quick", help="A test: all variants with very little training.")] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="The settings of the paper, as far as they are published.")
    ] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; created if missing.")] = Path(
        "experiments"
    ),
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="activations: CIFAR-10 or CIFAR-100, binary version, or train/<class>/ and test/<class>/. tracking: "
            "what to train on, an archive of tracker prepare or LAYOUT:ROOT; repeatable. detection: coco:ROOT or "
            "voc:ROOT.",
        ),
    ] = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="LAYOUT:ROOT",
            help="tracking: data to track instead of synthetic videos, such as otb:OTB2015:otb2013; repeatable.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,...", help="The seeds to run.")] = None,
    unit: Annotated[
        list[float] | None,
        typer.Option(help="simulation: side of a square target, instead of 10 and 1; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replaces a setting, such as train.steps=2000; repeatable."),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="Only report the existing rows in --output, without new runs.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment of a paper with several seeds, and compare its tables with the paper's.

    \b
    tracking      SiamFC with ReLU, + Mish, + SE, + GC, all of them: success, precision, speed
    box-loss      losses of box regression in the tracker's box head: overlap on held-out synthetic videos
    detection     the same in a small detector: AP of COCO, on COCO, PASCAL VOC or drawn shapes
    simulation    boxes that descend the gradient of each IoU loss, without a network
    activations   activation functions, optimizers, networks: test accuracy, speed of convergence

    A row is appended to <name>_runs.jsonl when its run is done. The same command goes on after the last row, whatever
    ended it; the folder takes rows of one set of settings only. At the end <name>.csv and <name>.md have the means and
    standard deviations over the seeds beside the paper's figures, and the plots come as PNG. Settings are those of
    --quick, --paper or neither, then --data and --eval, then --set.
    Without --data activations runs on scikit-learn's digits and detection on drawn shapes, scored by pycocotools:
    pip install '.[experiments]' in the sources.

    \b
    Examples:
      tracker experiment list
      tracker experiment activations --quick
      tracker experiment activations --data cifar-10-batches-bin --output results
      tracker experiment simulation --unit 1
      tracker experiment detection --data voc:VOCdevkit/VOC2007 --set 'losses=["GIoU", "Focal-EIoU"]'
      tracker experiment tracking --seeds 0,1,2,3,4 --set train.steps=2000
      tracker experiment tracking --paper --data got10k:GOT-10k:train --eval otb:OTB2015:otb2013 --eval vot:VOT2018
      tracker experiment tracking --data train.crops --eval otb:validation --set train.model.width=0.5
    """
    # Imported here: the other commands start without them.
    from rich.console import Console

    from tracker.experiments.runs import open_log, report_runs, run_experiment

    console = Console(quiet=quiet or as_json)
    if name == "list":
        rows = [_describe(_load(known)) for known in MODULES]
        if as_json:
            print_json({"experiments": rows})
        for row in rows:
            times = "; ".join(f"{plan}: {time}" for plan, time in row["times"].items())
            console.print(f"{row['name']:13} {row['about']}\n{'':13} {row['paper']}\n{'':13} {times}", markup=False)
        return
    if name not in MODULES:
        raise CommandError(f"experiment must be one of {', '.join(MODULES)} or list, got {name!r}")
    if quick and paper:
        raise CommandError("--quick must come without --paper")
    chosen = _load(name)
    with input_errors():
        plan = _plan(
            chosen, "quick" if quick else "paper" if paper else "default", data, evaluate, seeds, unit, settings
        )
        opened = None if tables else chosen.open(plan)
        make_folder(output, "--output")
        log = open_log(chosen, plan, output)
        if tables:
            rows = report_runs(chosen, plan, output, console, log)
    if not tables:
        try:
            rows = run_experiment(chosen, plan, output, console, opened)
        except KeyboardInterrupt:
            console.print(f"stopped; the same command continues with {log.path}", soft_wrap=True, markup=False)
            raise Interrupted from None
    if as_json:
        print_json({"experiment": name, "output": output, "rows": rows})


def _load(name: str) -> Experiment:
    return import_module(f"tracker.experiments.{MODULES[name]}").EXPERIMENT


def _describe(experiment: Experiment) -> dict[str, Any]:
    return {key: getattr(experiment, key) for key in ("name", "about", "paper", "times")}


def _plan(
    experiment: Experiment,
    kind: str,
    data: list[str] | None,
    evaluate: list[str] | None,
    seeds: str | None,
    unit: list[float] | None,
    settings: list[str] | None,
) -> Any:
    """The settings from the options."""
    from tracker.experiments.runs import as_dict
    from tracker.training.config import apply_settings, from_dict

    if kind not in experiment.plans:
        raise CommandError(f"--{kind} must be left out: {experiment.name} has no such settings")
    plan = experiment.plans[kind]
    if data or evaluate:
        plan = experiment.with_data(plan, data or [], evaluate or [])
    values = as_dict(plan)
    if seeds is not None:
        try:
            values["seeds"] = [int(part) for part in seeds.split(",")]
        except ValueError:
            raise CommandError(f"--seeds must be whole numbers N,N,..., got {seeds!r}") from None
    if unit and "units" not in values:
        raise CommandError(f"--unit must be left out: {experiment.name} has no unit of length")
    values |= {"units": unit} if unit else {}
    apply_settings(values, settings or ())
    return from_dict(type(plan), values)
