"""`tracker eval`: track the sequences of a benchmark and score the results by its protocol."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracker.commands.checks import CommandError, Interrupted, check_device, check_weights, input_errors, parse_dtype
from tracker.commands.options import Activation, Device, Dtype, Json, Quiet, Weights, choices
from tracker.commands.output import print_json, print_note, progress_bar
from tracker.installed import install_hint

if TYPE_CHECKING:
    from tracker.data.sequence import Sequence
    from tracker.distributed import World
    from tracker.eval.runner import Build, Job

SHOWN_LINES = 10  # lines about skipped sequences that are printed
BENCHMARKS = ("otb", "vot", "got10k", "lasot", "folder")


def evaluate(
    benchmark: Annotated[str, typer.Argument(**choices("|".join(BENCHMARKS)), help="Layout and protocol.")],
    root: Annotated[Path, typer.Option(help="Folder of the data set, in the layout of its authors.")],
    split: Annotated[
        str | None,
        typer.Option(help="otb: otb50, otb2013 or otb100; got10k: val or test; lasot: test. All of ROOT by default."),
    ] = None,
    weights: Weights = None,
    activation: Activation = None,
    device: Device = None,
    dtype: Dtype = "float32",
    backend: Annotated[
        str, typer.Option(**choices("fastops|eager"), help="fastops (fused) or eager (plain PyTorch).")
    ] = "fastops",
    workers: Annotated[int, typer.Option(min=1, help="Processes; they divide the sequences and the cores.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Results go to OUTPUT/<data set>/<name>; 'results' by default. With --results: folder of the report.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the tracker in results and tables; default: the name of the weights.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Score the result files of any tracker in this folder, without tracking.")
    ] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(help="Folder of further results for the same tables and plots. Repeatable.")
    ] = None,
    eao_interval: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="vot: range of lengths for the expected average overlap.")
    ] = "100,356",
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Skip data that is malformed, missing or unreadable, and list it."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Track all sequences of a benchmark and score the results by its protocol.

    \b
    otb, lasot, folder   one pass: success (21 thresholds), precision at 20 px, normalized precision at .2
    got10k               AO, SR.50, SR.75 over the frames with a visible target; --split test only tracks
    vot                  supervised: accuracy, robustness, EAO, with a new start 5 frames after each failure

    Result files have the layout of the got10k toolkit. Each is written when its sequence is done. After Ctrl-C the same
    command continues with the next sequence. A folder has results of one network and setting only (settings.json). It
    also gets report.json, overall.csv, sequences.csv, attributes.csv if the data set has attributes, and the plots (pip
    install matplotlib). torchrun, or RANK and WORLD_SIZE, divide the sequences among machines that share OUTPUT.

    Frames without the target do not count. (In LaSOT they count as misses, as its authors define it.) Stray folders,
    and names in list.txt without a folder, are skipped with a note.

    \b
    Examples:
      tracker eval otb --root OTB2015 --workers 2
      tracker eval got10k --root got10k --split val --weights siamfc.pth --output results
      tracker eval vot --root vot2018 --results results/VOT/siamfc --json
      tracker eval lasot --root LaSOT --split test --results mine --compare theirs --compare others --output report
      torchrun --nproc-per-node 8 -m tracker eval got10k --root got10k --split test
    """
    # Imported here so that other commands and shell completion start quickly.
    from rich.console import Console

    from tracker.data.datasets import open_dataset, summary
    from tracker.distributed import World
    from tracker.eval.protocols import score
    from tracker.eval.report import print_scores, write_report
    from tracker.eval.results import DATASETS
    from tracker.eval.runner import Build, Job, is_withheld

    if benchmark not in BENCHMARKS:
        raise CommandError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {benchmark!r}")
    options = {"interval": _parse_interval(eao_interval)} if benchmark == "vot" else {}
    skipped: list[str] = []
    with input_errors():
        world = World.of_environment()
        try:
            sequences = open_dataset(benchmark, root, split, skip_bad=skip_bad, skipped=skipped)
        except FileNotFoundError as error:
            if error.filename is None:
                raise
            hint = f"{error.filename} is missing"
            raise CommandError(f"--root must be laid out as {benchmark}, got {root}: {hint}") from error
    withheld = any(is_withheld(benchmark, sequence) for sequence in sequences)
    report, tracked = output, results is None
    if results is None:
        check_device(device)
        build = Build(
            check_weights(weights), device or _device_of(world), parse_dtype(dtype, backend), backend, activation
        )
        name = name or build.weights.stem
        dataset = root.resolve().name if benchmark == "folder" else DATASETS[benchmark]
        report = results = (output or Path("results")) / dataset / name
        job = Job(benchmark, sequences, results, skip_bad)
        _track(job, root, build, workers, world, quiet)
        skipped += [reason for sequence in sequences if (reason := job.why_skipped(sequence)) is not None]
        sequences = [sequence for sequence in sequences if job.why_skipped(sequence) is None]
    elif withheld:
        raise CommandError("--results cannot be scored: the ground truth of this split is withheld by its authors")
    if not world.is_first:
        return
    if skip_bad and not withheld:
        folders = [results, *(compare or ())]
        sequences = [sequence for sequence in sequences if _has_results(benchmark, sequence, folders, skipped)]
    if skipped and not quiet:
        print_note(summary(skipped, SHOWN_LINES))
    if not sequences:
        raise CommandError(f"--root must hold a sequence that can be scored, got {summary(skipped)}")
    if withheld:
        if as_json:
            print_json({"benchmark": benchmark, "trackers": [], "results": results, "withheld": True})
        elif not quiet:
            print(f"{results}: {len(sequences)} sequences tracked; their ground truth is withheld, no scores")
        return
    with input_errors():
        scores = [score(benchmark, sequences, results, name, **options)]
        scores += [score(benchmark, sequences, folder, **options) for folder in compare or ()]
        files = write_report(report, scores) if report is not None else []
    if as_json:
        trackers = [one.as_dict() for one in scores]
        print_json({"benchmark": benchmark, "trackers": trackers, "files": files, "skipped": skipped})
    elif not quiet:
        print_scores(Console(width=None if sys.stdout.isatty() else 160), scores, fps=tracked)
        if any(one.overall.get("eao", 0) is None for one in scores):
            print(f"no EAO: no run is longer than {options['interval'][0]} frames, where --eao-interval begins")
        if files and not any(path.suffix == ".png" for path in files):
            print(f"no plot: matplotlib is missing, {install_hint('plot')}")
        for path in files:
            print(f"wrote {path}")


def _track(job: Job, root: Path, build: Build, workers: int, world: World, quiet: bool) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from tracker.eval.results import claim_folder
    from tracker.eval.runner import run

    with input_errors():
        tracker = build.tracker()
        claim_folder(job.folder, build.settings(tracker) | {"benchmark": job.layout, "root": str(root.resolve())})

    def tell_waiting(left: list[str]) -> None:
        if not quiet:
            what = f"{left[0]} and {len(left) - 1} more" if len(left) > 1 else left[0]
            print(f"waiting for other processes: {what}; if none runs, stop and start again", file=sys.stderr)

    try:
        with progress_bar(quiet) as bar, input_errors():
            task = bar.add_task("sequences", total=len(job.sequences))
            run(job, build, tracker, workers, world, lambda name: bar.advance(task), tell_waiting)
    except BrokenProcessPool as error:
        raise CommandError(f"--workers must fit into the memory, got {workers}, of which one was ended") from error
    except KeyboardInterrupt:
        if not quiet:
            print(f"stopped; the same command continues with {job.folder}", file=sys.stderr)
        raise Interrupted from None


def _has_results(benchmark: str, sequence: Sequence, folders: list[Path], skipped: list[str]) -> bool:
    """Whether all trackers have complete results of a sequence. If not, the reason is noted."""
    from tracker.eval.results import find_results, read_regions, read_result

    read = read_regions if benchmark == "vot" else read_result
    try:
        for folder in folders:
            for path in find_results(benchmark, folder, sequence.name):
                read(path, len(sequence))
        if sequence.absent.all():
            raise ValueError(f"{sequence.name} must have a frame with a target, got none")
    except (ValueError, OSError) as error:
        skipped.append(str(error))
        return False
    return True


def _device_of(world: World) -> str | None:
    """Choose a GPU for each process of a machine."""
    import torch

    return f"cuda:{world.local_rank}" if world.size > 1 and torch.cuda.is_available() else None


def _parse_interval(text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(","))
    except ValueError:
        low, high = 0, 0
    if not 0 < low <= high:
        raise CommandError(f"--eao-interval must be two lengths LOW,HIGH with 0 < LOW <= HIGH, got {text!r}")
    return low, high
