"""The accuracy of trackers on real targets: python -m benchmarks.accuracy [--weights FILE] [--opencv CSRT] [--csv FILE]

For each sequence and tracker it measures the success AUC and the precision at 20 px by one-pass evaluation
(`tracker.eval.ope`). All trackers start on the true box of the same first frame and get the same frames. The trackers
are the networks of the package, the published SiamFC-3s weights if $SIAMFC_DATA has them, the networks of --weights,
and OpenCV's trackers (opencv-contrib-python).

The sequences are those of --data. The default is the 13 sequences of $SIAMFC_DATA that are kept for validation.

A row is written to the file of --csv as soon as its sequence is done. A stopped command continues when it is run again.
It does not repeat rows with the same weights (by SHA-256), settings, sequence and number of frames; delete the file to
measure them again. The tables are printed from the file. --markdown prints them without tracking anything.

Times are medians of one update. They do not measure speed, because trackers do not take turns and workers share the
cores; `python -m benchmarks.fps` measures speed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.harness import append_rows, environment, print_table
from tests.support.paths import DATA, WEIGHTS
from tracker import Tracker, TrackResult
from tracker.config import TrackerConfig, parse_settings
from tracker.data.datasets import open_places
from tracker.data.sequence import Sequence as Target
from tracker.eval.ope import score_boxes
from tracker.eval.runner import track_once
from tracker.network.pretrained import PRETRAINED, find_weights

#: Sequences kept for validation, in folders of $SIAMFC_DATA. A network that was trained on one of them must say so.
HELD_OUT = {
    "validation": ("UAV_car10", "UAV_person11", "DTB_Gull2", "DAVIS_dog", "DAVIS_horsejump-high", "VOT15_ball1"),
    "sequences": ("Crossing", "Deer", "Girl", "MountainBike", "Dog", "Skiing", "vot_bag"),
}
#: The columns on which a result depends, apart from the code. A row that equals another in these is not measured again.
KEY = ("tracker", "weights", "settings", "config", "dtype", "layout", "sequence", "frames")
#: The part of the key that identifies a column of a table.
COLUMN = ("tracker", "weights", "settings", "config", "dtype")


class OpenCVTracker:
    """One of OpenCV's trackers, with the interface of `track_once`. If it reports a failure, the last box is kept."""

    def __init__(self, name: str) -> None:
        self._create = opencv_factory(name)

    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        self._tracker = self._create()
        x, y, w, h = (round(float(value)) for value in box)
        self._box = np.array(box, np.float64)
        self._tracker.init(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (x, y, max(w, 1), max(h, 1)))

    def update(self, image: np.ndarray) -> TrackResult:
        found, box = self._tracker.update(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if found:
            self._box = np.array(box, np.float64)
        return TrackResult(self._box, float(found), not found)


def opencv_factory(name: str) -> Callable[[], Any]:
    """The function that makes OpenCV's tracker of this name, such as CSRT.

    Raises:
        ValueError: if this OpenCV has no such tracker, or the tracker needs missing files. The message names them.
    """
    for module in (cv2, getattr(cv2, "legacy", None)):
        create = getattr(module, f"Tracker{name}_create", None)
        if create is not None:
            try:
                create()
            except cv2.error as error:
                raise ValueError(f"OpenCV {cv2.__version__} cannot make its tracker {name}: {error.err}") from error
            return create
    raise ValueError(f"OpenCV {cv2.__version__} has no tracker {name} (opencv-contrib-python 4 has more)")


@dataclass(frozen=True)
class Competitor:
    """A tracker to measure. For one of OpenCV's trackers, `weights` is None and `name` is its name."""

    name: str
    weights: Path | None
    settings: str = ""  # overrides of `TrackerConfig`, as given
    dtype: str = "float32"
    device: str | None = None

    def key(self) -> dict[str, str]:
        """The columns of `COLUMN`."""
        if self.weights is None:
            return dict(zip(COLUMN, (self.name, f"OpenCV {cv2.__version__}", "", "", ""), strict=True))
        config = digest(json.dumps(asdict(self.config()), sort_keys=True).encode())
        weights = digest(self.weights.read_bytes())
        return dict(zip(COLUMN, (self.name, weights, self.settings, config, self.dtype), strict=True))

    def config(self) -> TrackerConfig:
        return TrackerConfig.from_dict(parse_settings(self.settings.split()))


@lru_cache(maxsize=8)  # fuses a network once for all sequences
def make_tracker(competitor: Competitor) -> Tracker | OpenCVTracker:
    if competitor.weights is None:
        return OpenCVTracker(competitor.name)
    dtype = competitor.dtype if competitor.dtype == "auto" else getattr(torch, competitor.dtype)
    return Tracker(weights=competitor.weights, config=competitor.config(), device=competitor.device, dtype=dtype)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """A tracker and its target."""

    competitor: Competitor
    layout: str
    target: Target

    def key(self) -> dict[str, str]:
        target = {"layout": self.layout, "sequence": self.target.name, "frames": str(len(self.target))}
        return self.competitor.key() | target

    def run(self) -> dict[str, str]:
        """Track and score. Return the measured columns of the row."""
        boxes, seconds = track_once(make_tracker(self.competitor), self.target, len(self.target))
        scores = score_boxes(self.layout, self.target, np.array(boxes))
        start = int(np.argmin(self.target.absent))
        update = statistics.median(seconds[start + 1 :] or [np.nan])
        return {
            "success_auc": f"{scores['success']:.4f}",
            "precision_20px": f"{scores['precision']:.4f}",
            "median_ms": f"{1e3 * update:.2f}",
            "fps": f"{1 / update:.2f}",
        }


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def _run(job: Job) -> dict[str, str]:
    return job.run()


def run_jobs(jobs: Sequence[Job], workers: int, threads: int) -> Iterator[tuple[Job, dict[str, str]]]:
    """Yield the jobs with their measured columns, in the order in which they end."""
    if workers == 1:
        _start_worker(threads)
        yield from ((job, job.run()) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    arguments = (max(1, threads // workers),)
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=arguments) as pool:
        futures = {pool.submit(_run, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of this benchmark in a result file, or none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("benchmark") == "accuracy"]


def print_scores(rows: Sequence[dict[str, str]]) -> None:
    """A Markdown table of success AUC / precision, with a row per sequence, a column per tracker and a row of means.

    A mean over fewer sequences than the table has is marked with their number. Of rows with equal keys the last counts.
    """
    columns = list(dict.fromkeys(tuple(row[key] for key in COLUMN) for row in rows))
    targets = list(dict.fromkeys((row["sequence"], row["frames"]) for row in rows))
    cells = {(tuple(row[key] for key in COLUMN), (row["sequence"], row["frames"])): row for row in rows}
    names = [column[0] for column in columns]
    heads = []
    for name, weights, settings, config, dtype in columns:
        label = " ".join(filter(None, (name, settings, dtype if dtype != "float32" else "")))
        if names.count(name) > 1 and weights:
            label += f" ({weights[:6]}, {config[:6]})" if config else f" ({weights})"
        heads.append(label)
    body = []
    for target in targets:
        found = [cells.get((column, target)) for column in columns]
        body.append([*target, *(_mean([row]) if row else "-" for row in found)])
    means, speeds = [], []
    for column in columns:
        own = [row for (other, _), row in cells.items() if other == column]
        means.append(_mean(own) + (f" ({len(own)})" if len(own) < len(targets) else ""))
        speeds.append(f"{1e3 / statistics.median(float(row['median_ms']) for row in own):.0f}")
    total = str(sum(int(frames) for _, frames in targets))
    print_table(["sequence", "frames", *heads], [*body, ["mean", total, *means], ["frames/s", "", *speeds]])


def _mean(rows: Sequence[dict[str, str]]) -> str:
    measures = ("success_auc", "precision_20px")
    return " / ".join(f"{np.mean([float(row[measure]) for row in rows]):.3f}" for measure in measures)


def find_targets(places: Sequence[str], frames: int) -> list[tuple[str, Target]]:
    """Layouts and targets of places LAYOUT:ROOT or LAYOUT:ROOT=NAME,NAME. The default is `HELD_OUT`.

    Raises:
        ValueError, OSError: the same as `open_places`.
    """
    if not places:
        places = [f"otb:{DATA / folder}={','.join(names)}" for folder, names in HELD_OUT.items()]
    targets = []
    for text in places:
        place, _, names = text.rpartition("=") if "=" in text else (text, "", "")
        layout = place.partition(":")[0]
        targets += [(layout, target) for target in open_places([place], names.split(",") if names else (), frames)]
    return targets


def find_competitors(args: argparse.Namespace) -> list[Competitor]:
    """The trackers that the arguments name. A tracker that is not installed is skipped, with a line that says so."""
    weights: dict[str, Path] = {}
    if not args.only_given:
        weights = {name: find_weights(name) for name in PRETRAINED}
        if WEIGHTS.exists():
            weights = {"published": WEIGHTS} | weights
    for text in args.weights:
        name, _, path = text.rpartition("=")
        weights[name or Path(path).stem] = find_weights(path)
    for path in weights.values():
        if not path.is_file():
            raise ValueError(f"--weights must be existing files, got {path}")
    settings = " ".join(sorted(args.settings))
    competitors = [Competitor(name, path, settings, args.dtype, args.device) for name, path in weights.items()]
    for name in args.opencv:
        try:
            opencv_factory(name)
        except ValueError as error:
            print(f"left out: {' '.join(str(error).split())}")
        else:
            competitors.append(Competitor(name, None))
    return competitors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", default=[], metavar="LAYOUT:ROOT[=NAMES]", help="repeatable; NAMES have commas"
    )
    parser.add_argument("--frames", type=int, default=200, help="frames of each sequence, from the first one on")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="[NAME=]FILE", help="another network; repeatable"
    )
    parser.add_argument("--only-given", action="store_true", help="only run --weights and --opencv")
    parser.add_argument("--opencv", nargs="*", default=[], metavar="NAME", help="OpenCV's trackers, such as CSRT KCF")
    parser.add_argument(
        "--settings", nargs="*", default=[], metavar="KEY=VALUE", help="settings of TrackerConfig, for all networks"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16", "auto"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of all workers")
    parser.add_argument("--workers", type=int, default=1, help="processes that divide the sequences")
    parser.add_argument("--csv", type=Path, default=Path("accuracy.csv"), help="file of the rows")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the file and track nothing")
    args = parser.parse_args()
    if args.markdown:
        rows = read_rows(args.csv)
        if not rows:
            raise SystemExit(f"accuracy: --csv must hold rows of this benchmark, got none in {args.csv}")
        print_scores(rows)
        return 0
    try:
        competitors, targets = find_competitors(args), find_targets(args.data, args.frames)
        jobs = {tuple(job.key().values()): job for t in targets for c in competitors for job in [Job(c, *t)]}
    except (ValueError, OSError) as error:
        raise SystemExit(f"accuracy: {error}") from error
    known = {tuple(row[key] for key in KEY): row for row in read_rows(args.csv)}
    todo = [job for key, job in jobs.items() if key not in known]
    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}; {len(jobs)} rows, of which {len(todo)} are to be measured")
    for job, measured in run_jobs(todo, args.workers, args.threads):
        row = {**where, "benchmark": "accuracy", **job.key(), **measured}
        append_rows(args.csv, [row])
        print(f"{row['sequence']:24}{row['tracker']:24}{row['success_auc']}  {row['precision_20px']}", flush=True)
    rows = {tuple(row[key] for key in KEY): row for row in read_rows(args.csv)}
    print()
    print_scores([rows[key] for key in jobs])
    return 0


if __name__ == "__main__":
    sys.exit(main())
