"""The output of a training run: a progress line, a JSON line per step, and TensorBoard if it is installed."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tracker.io.files import write_whole

RECENT = 50  # the displayed rates are means over this many steps


class TrainLog:
    """The log of a run: `metrics.jsonl`, TensorBoard's events in the same folder, and a progress bar on a terminal.

    A killed run may have written lines after its last checkpoint, for steps after `done`. They are removed, because
    these steps run again. Without a checkpoint all steps run again. The old lines are then kept as `metrics-1.jsonl`,
    `metrics-2.jsonl` and so on.

    Args:
        folder: folder of the run, which must exist.
        steps: number of steps of the whole run.
        done: number of steps that are done already.
        quiet: print nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, TrainLog(Path(folder), steps=1, quiet=True) as log:
        ...     log.train({"step": 1, "loss": 0.5, "pairs": 8, "seconds": 0.25, "data_wait": 0.01})
        ...     read_metrics(Path(folder) / "metrics.jsonl")[0]["loss"]
        0.5
    """

    def __init__(self, folder: Path, *, steps: int, done: int = 0, quiet: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists() and not done:
            _keep(self.path)
        elif self.path.exists():
            kept = [record for record in read_metrics(self.path) if record["step"] <= done]
            write_whole(self.path, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self._file = self.path.open("a", buffering=1, encoding="utf-8")  # writes each line at once
        self._board = _summary_writer(folder, done)
        self._recent: deque[tuple[int, float, float, float]] = deque(maxlen=RECENT)
        self._auc = ""
        self._console = Console(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rates]}"),
        )  # fmt: skip
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=quiet or not self._console.is_terminal
        )
        self._task = self._progress.add_task("training", total=steps, completed=done, rates="")
        self._steps, self._said = steps, time.monotonic()

    def __enter__(self) -> TrainLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def train(self, record: dict[str, Any]) -> None:
        """Log a step: its number, loss, pairs and seconds, and the seconds for data_wait and teacher."""
        self._write("train", record)
        self._recent.append((record["pairs"], record["seconds"], record["data_wait"], record.get("teacher", 0.0)))
        pairs, seconds, waited, taught = map(sum, zip(*self._recent, strict=True))
        rates = (
            f"loss {record['loss']:.4f}  {pairs / seconds:.1f} pairs/s  "
            f"data wait {100 * waited / seconds:.0f} %{self._auc}"
        )
        if taught:
            rates += f"  teacher {100 * taught / seconds:.0f} %"
        self._progress.update(self._task, completed=record["step"], rates=rates)
        # Without a terminal, such as in a log file of a cluster: one line every half minute, and the last one.
        last = record["step"] == self._steps
        if self._progress.disable and (last or time.monotonic() - self._said > 30):
            self._said = time.monotonic()
            self.say(f"step {record['step']} of {self._steps}  {rates}")

    def validation(self, record: dict[str, Any]) -> None:
        """Log the validation after a step: the step's number, the mean AUC and the AUC of each sequence."""
        self._write("validation", record)
        self._auc = f"  AUC {record['auc']:.3f}"
        self.say(f"step {record['step']}: validation AUC {record['auc']:.3f}")

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._progress.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, **record}) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "pairs"):
                    self._board.add_scalar(f"{kind}/{name}", value, record["step"])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without a last line that a killed process left incomplete."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def _keep(path: Path) -> None:
    """Rename a file that is not empty to the next free number."""
    if path.stat().st_size:
        numbers = itertools.count(1)
        path.rename(next(free for n in numbers if not (free := path.with_stem(f"{path.stem}-{n}")).exists()))


def _summary_writer(folder: Path, done: int) -> Any:
    """TensorBoard's writer, which hides its records of later steps, or None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
