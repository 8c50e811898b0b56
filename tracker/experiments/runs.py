"""Shared by all experiments: each run appends its row to a file, so a killed experiment can continue."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tracker.io.report import Row


class RunLog:
    """The rows of an experiment in a file of JSON lines: first the settings, then a row per run.

    A row is on the disk when `append` returns. A line that a killed process left incomplete is removed when the file is
    opened again. Only one process may write at a time.

    Args:
        path: the file, which is created if it does not exist.
        settings: all settings that the rows depend on, as JSON values. The settings in the file must be equal.
        key: the columns that identify a run.

    Attributes:
        rows: all rows, in the order of the file.

    Raises:
        ValueError: if the file has rows of other settings, or a line that is not JSON. The message names it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "runs.jsonl"
        >>> RunLog(path, {"steps": 5}, ["seed"]).append({"seed": 0, "score": 0.5})
        >>> {"seed": 0} in RunLog(path, {"steps": 5}, ["seed"])
        True
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], key: Sequence[str]) -> None:
        self.path, self.key, self.rows = path, tuple(key), []
        settings = json.loads(json.dumps(settings))  # as they are when read back: tuples become lists
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(path, len(whole))
        if not whole:
            self._write({"settings": settings, "machine": machine()})
            return
        header, *self.rows = self._parse(whole)
        if header.get("settings") != settings:
            raise ValueError(
                f"--output must hold runs of the same settings, got {_difference(header.get('settings'), settings)} "
                f"in {path}; choose another folder"
            )

    def __contains__(self, run: Mapping[str, Any]) -> bool:
        wanted = [run[column] for column in self.key]
        return any([row[column] for column in self.key] == wanted for row in self.rows)

    def append(self, row: Row) -> None:
        """Add a row and write it to the disk."""
        self._write(row)
        self.rows.append(row)

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, data: bytes) -> list[dict[str, Any]]:
        lines = []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{self.path}:{number}: line must be JSON, got {line[:60]!r}") from error
        return lines


def machine() -> dict[str, Any]:
    """The machine, on which the times of a run depend: processor or GPU, threads, version of torch."""
    name = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    elif (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _difference(theirs: Any, ours: Any, name: str = "") -> str:
    """The first setting that differs, by its dotted name."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in dict.fromkeys([*theirs, *ours]):
            if theirs.get(key) != ours.get(key):
                return _difference(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    return f"{name} = {theirs!r}, not {ours!r},"


@dataclass(frozen=True)
class Where:
    """The device of a run, and a folder for files to continue from, which is removed when the run's row is written."""

    device: torch.device
    scratch: Path | None = None


@dataclass(frozen=True)
class Experiment:
    """An experiment of `tracker experiment`.

    Args:
        name: name in the command and in file names.
        paper: authors and title.
        about: what is compared and measured, in one line.
        plans: settings by name, as dataclasses: "quick" for a test, "default", and "paper" for the paper's settings.
        times: approximate time of each plan, and on which machine.
        key: the columns that identify a run.
        choices: the fields of the plan that only choose the runs. Rows with other choices stay valid.
        with_data: returns a plan with the data of --data and --eval. Raises ValueError, OSError.
        open: reads and checks the data of the plan before the first run. Raises ValueError, OSError, ImportError.
        runs: returns the runs of a plan in their order, each a dict of the columns `key`.
        run: executes one run and returns its values.
        report: prints the tables, writes the files and returns the rows of the main table.
    """

    name: str
    paper: str
    about: str
    plans: dict[str, Any]
    times: dict[str, str]
    key: tuple[str, ...]
    choices: tuple[str, ...]
    with_data: Callable[[Any, list[str], list[str]], Any]
    open: Callable[[Any], Any]
    runs: Callable[[Any], Iterator[Row]]
    run: Callable[[Row, Any, Any, Where], Row]
    report: Callable[[Console, Path, list[Row], Any], list[Row]]


def run_experiment(experiment: Experiment, plan: Any, folder: Path, console: Console, opened: Any) -> list[Row]:
    """Execute the runs of `plan` that have no row in `folder`, and report all. Return the rows of the main table."""
    log = open_log(experiment, plan, folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = list(experiment.runs(plan))
    missing = [run for run in runs if run not in log]
    console.print(f"{experiment.name}: {len(runs)} runs on {device}, {len(missing)} to do", highlight=False)
    for number, run in enumerate(missing, 1):
        began = time.perf_counter()
        scratch = folder / f"{experiment.name}_scratch" / "-".join(map(str, run.values()))
        values = experiment.run(run, plan, opened, Where(device, scratch))
        log.append(run | values | {"seconds": time.perf_counter() - began})
        shutil.rmtree(scratch.parent, ignore_errors=True)
        shown = ", ".join(str(value) for value in run.values())
        scores = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if isinstance(value, float))
        console.print(f"  {number}/{len(missing)}  {shown}: {scores}", highlight=False, markup=False, soft_wrap=True)
    return report_runs(experiment, plan, folder, console, log)


def open_log(experiment: Experiment, plan: Any, folder: Path) -> RunLog:
    """The rows in `folder` of an experiment with these settings."""
    settings = {name: value for name, value in as_dict(plan).items() if name not in experiment.choices}
    return RunLog(folder / f"{experiment.name}_runs.jsonl", settings, experiment.key)


def report_runs(experiment: Experiment, plan: Any, folder: Path, console: Console, log: RunLog) -> list[Row]:
    """Report the existing rows of the plan's runs, in the order of the plan."""
    found = {tuple(row[column] for column in experiment.key): row for row in log.rows}
    keys = [tuple(run[column] for column in experiment.key) for run in experiment.runs(plan)]
    rows = [found[key] for key in keys if key in found]
    if not rows:
        raise ValueError(f"--output must hold rows of {experiment.name}, got none in {log.path}")
    return experiment.report(console, folder, rows, plan)


def as_dict(plan: Any) -> dict[str, Any]:
    """The settings of a plan as JSON values."""
    return json.loads(json.dumps(asdict(plan)))
