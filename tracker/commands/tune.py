"""`tracker tune`: a random search over the tracker's settings, and the rates of the lost signal."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracker.commands.checks import CommandError, Interrupted, check_device, check_weights, input_errors, parse_dtype
from tracker.commands.options import Activation, Device, Json, Quiet, Weights, choices
from tracker.commands.output import print_json, progress_bar

if TYPE_CHECKING:
    from tracker.config import TrackerConfig
    from tracker.data.sequence import Sequence
    from tracker.network.fused import FusedNetwork


def tune(
    data: Annotated[
        list[str], typer.Option(metavar="LAYOUT:ROOT[:SPLIT]", help="A data set, as for tracker prepare; repeatable.")
    ],
    only: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Sequences to use, separated by commas; default: all.")
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Number of frames of each sequence, from the first one on.")] = 200,
    weights: Weights = None,
    activation: Activation = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Number of settings to try; the first ones are the defaults.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random settings.")] = 0,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="NAME=LOW:HIGH", help="Settings to vary, instead of those above; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Value that replaces a default; repeatable.")
    ] = None,
    lost: Annotated[bool, typer.Option("--lost", help="Print the rates of the lost signal, without a search.")] = False,
    device: Device = None,
    dtype: Annotated[
        str, typer.Option(**choices("float32|bfloat16|float16"), help="Floating-point type of the network.")
    ] = "float32",
    output: Annotated[Path, typer.Option("-o", "--output", help="JSONL file of the trials.")] = Path("tune.jsonl"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search for the settings with which a network tracks best. They are random, and scored by mean success AUC.

    \b
    Varied by default:
      score map   scale_step, scale_lr, scale_penalty, window_influence
      box head    box_lr, box_penalty, box_window

    A row is written for every trial and sequence. After Ctrl-C, or with more --trials, the same command continues after
    the last row. Tune on sequences that the network was not trained on.

    --lost tracks each sequence once, with the defaults and --set. For each pair of lost_score and lost_frames it prints
    how often the target counts as lost: as a fraction of the bad frames (overlap below .05) and of the sure frames
    (overlap above .4).

    \b
    Examples:
      tracker tune --data otb:OTB --trials 100
      tracker tune --data otb:OTB --only Car4,Deer --weights siamfc.pth --range scale_lr=0.2:0.8 --output small.jsonl
      tracker tune --data otb:OTB --lost
    """
    # Imported here: the other commands start without them.
    from tracker.config import TrackerConfig, parse_settings
    from tracker.data.datasets import open_places
    from tracker.eval.tune import RANGES, Records, draw, make_network
    from tracker.network.checkpoint import load_model

    weights = check_weights(weights)
    check_device(device)
    with input_errors():
        base = TrackerConfig.from_dict(parse_settings(settings or ()))
        names = only.split(",") if only else ()
        targets = [(place.partition(":")[0], one) for place in data for one in open_places([place], frames=frames)]
        if missing := set(names) - {one.name for _, one in targets}:
            raise CommandError(f"--only must name sequences of --data, got {', '.join(sorted(missing))}")
        targets = [(layout, one) for layout, one in targets if not names or one.name in names]
        model = load_model(weights, activation=activation, out_scale=base.out_scale)
        varied = _parse_ranges(ranges) if ranges else RANGES[model.head]
        draw(0, seed, base, varied)  # checks the ranges
        network = make_network(model, device or _default_device(), parse_dtype(dtype, "fastops"))
    if lost:
        _print_lost(network, base, [one for _, one in targets], as_json, quiet)
        return
    with input_errors():
        search = {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "activation": activation, "dtype": dtype, "frames": frames, "seed": seed, "ranges": varied,
            "base": asdict(base),
        }  # fmt: skip
        records = Records(output, search)
    _search(network, targets, records, trials, {"seed": seed, "base": base, "ranges": varied}, as_json, quiet)


def _search(
    network: FusedNetwork,
    targets: list[tuple[str, Sequence]],
    records: Any,
    trials: int,
    options: dict[str, Any],
    as_json: bool,
    quiet: bool,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from tracker.eval.tune import search

    try:
        with progress_bar(quiet) as bar, input_errors():
            task = bar.add_task("trials x sequences", total=trials * len(targets))
            table = search(
                network, targets, records, trials=trials, progress=lambda rows: bar.advance(task, rows), **options
            )
    except KeyboardInterrupt:
        if not quiet:
            print("stopped; the same command continues", file=sys.stderr)
        raise Interrupted from None
    default = next(row for row in table if row["trial"] == 0)
    if as_json:
        print_json({"best": table[0], "default": default, "trials": table})
    elif not quiet:
        shown = Table(title=f"best of {trials} trials, means of {len(targets)} sequences; trial 0 has the defaults")
        for heading in ("trial", *options["ranges"], "success AUC", "precision at 20 px"):
            shown.add_column(heading, justify="right")
        for row in [*table[:10], *([default] if default not in table[:10] else [])]:
            values = (f"{row['settings'][name]:.4g}" for name in options["ranges"])
            shown.add_row(str(row["trial"]), *values, f"{row['success']:.3f}", f"{row['precision']:.3f}")
        Console(width=None if sys.stdout.isatty() else 160).print(shown)
        if computed := getattr(network, "computed", 0):
            print(f"{computed} of {network.asked} crops ran through the network, the others came from the cache")


def _print_lost(
    network: FusedNetwork, config: TrackerConfig, targets: list[Sequence], as_json: bool, quiet: bool
) -> None:
    from rich.console import Console
    from rich.table import Table

    from tracker.eval.tune import BAD, LOST_FRAMES, SURE, lost_rates, run_for_lost

    runs = []
    with progress_bar(quiet) as bar, input_errors():
        for one in bar.track(targets, description="sequences"):
            runs.append(run_for_lost(network, config, one))
    rows = lost_rates(runs)
    sure = sum(int((overlaps > SURE).sum()) for overlaps, _ in runs)
    bad = sum(int((overlaps < BAD).sum()) for overlaps, _ in runs)
    if as_json:
        print_json({"sure_frames": sure, "bad_frames": bad, "rates": rows})
    elif not quiet:
        shown = Table(title=f"lost in bad frames ({bad}) / in sure frames ({sure})")
        shown.add_column("lost_score")
        for count in LOST_FRAMES:
            shown.add_column(f"{count} frames", justify="right")
        for begin in range(0, len(rows), len(LOST_FRAMES)):
            part = rows[begin : begin + len(LOST_FRAMES)]
            cells = (f"{_percent(row['true_rate'])} / {_percent(row['false_rate'])}" for row in part)
            shown.add_row(f"{part[0]['lost_score']:.2f}", *cells)
        Console(width=None if sys.stdout.isatty() else 160).print(shown)


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.1f} %"


def _parse_ranges(texts: list[str]) -> dict[str, tuple[float, float]]:
    ranges = {}
    for text in texts:
        name, _, ends = text.partition("=")
        try:
            low, high = (float(end) for end in ends.split(":"))
        except ValueError:
            raise CommandError(f"--range must be NAME=LOW:HIGH, got {text!r}") from None
        ranges[name] = low, high
    return ranges


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
