"""Shared by the benchmarks: side-by-side timing, a description of the machine, result files.

Machines are noisy. So competitors take turns within one run, and medians and 20/80 % bands are reported. Quote ratios.
Nothing is timed before its results were checked.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # otherwise the profiler of peak_memory prints messages

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tracker.io.files import replacing  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def keep_freed_memory() -> None:
    """Keep freed memory in the process, like the allocators of PyTorch's tuning guide.

    By default glibc returns large blocks to the system, and the next allocation needs new pages. A forward mish of
    64 MB then takes 19 ms instead of 5, for all competitors.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do not have it
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**31 - 1)


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    low: float  # 20th percentile
    high: float  # 80th percentile


def _summary(seconds: Sequence[float]) -> Timing:
    ordered = sorted(seconds)
    at = lambda q: ordered[min(int(q * len(ordered)), len(ordered) - 1)]  # noqa: E731
    return Timing(statistics.median(ordered), at(0.2), at(0.8))


def compare(competitors: Mapping[str, Callable[[], object]], device: str, budget: float = 1.0) -> dict[str, Timing]:
    """Time callables in turns for about `budget` seconds. Short calls are repeated within a sample.

    On CUDA the device is synchronised before and after a sample, and short calls are queued together. So launch-bound
    ops are timed at their launch rate, and long ops at their duration.
    """
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    inner = {}
    for name, run in competitors.items():
        for _ in range(3):
            run()
        sync()
        start = time.perf_counter()
        run()
        sync()
        inner[name] = max(1, min(100, int(2e-4 / max(time.perf_counter() - start, 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in competitors}
    deadline = time.perf_counter() + budget
    names = list(competitors)
    while time.perf_counter() < deadline or len(samples[names[0]]) < 7:
        for name in names:
            run = competitors[name]
            sync()
            start = time.perf_counter()
            for _ in range(inner[name]):
                run()
            sync()
            samples[name].append((time.perf_counter() - start) / inner[name])
        names = [*names[1:], names[0]]  # another one goes first
    return {name: _summary(s) for name, s in samples.items()}


def copy_of(device: str, moved: int) -> Callable[[], object]:
    """A copy that reads and writes `moved` bytes in total, the lower bound of an op that must move as many bytes.

    Time it in turns with the op. The data of a copy that runs alone is in the cache: 8 MB take 45 us alone, and 170 us
    after the turn of another competitor.
    """
    source = torch.ones(max(1, moved // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def peak_memory(run: Callable[[], object], device: str) -> int:
    """The peak of the bytes in torch's allocators during a call, minus the bytes before it."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results = run()  # noqa: F841  # kept alive to the end
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference divided by that of `expected`."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def environment(device: str) -> dict[str, str]:
    """Device, commit and versions: the first columns of every result row."""
    import fastops

    commit = os.environ.get("FASTOPS_COMMIT") or _git("rev-parse", "--short=10", "HEAD") or "unknown"
    if not os.environ.get("FASTOPS_COMMIT") and _git(
        "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results"
    ):
        commit += "+changes"
    info = fastops.build_info()
    return {
        "device": device_name(device),
        "commit": commit,
        "torch": torch.__version__,
        "fastops": info["version"],
        "backend": info["cpu_capability"] if device == "cpu" else info["cuda_library"],
    }


def _git(*args: str) -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


class Cut(BaseException):
    """A signal asked the run to end."""


@contextmanager
def until_cut() -> Iterator[None]:
    """End the block early on a signal (SIGTERM, as from `timeout`, or Ctrl-C), so that its measurements are kept."""

    def cut(*_) -> None:
        raise Cut

    before = signal.signal(signal.SIGTERM, cut)
    try:
        yield
    except (Cut, KeyboardInterrupt):
        print("\ncut short: what follows was measured until then", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the arguments of a benchmark. With --dry-run, print them and exit."""
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and exit")
    args = parser.parse_args()
    if args.dry_run:
        print("would run with", ", ".join(f"{name}={value}" for name, value in vars(args).items()))
        raise SystemExit(0)
    return args


@contextmanager
def full_float32() -> Iterator[None]:
    """Make float32 products use all of their 24 bits on a GPU too.

    By default cuDNN multiplies float32 convolutions in TF32, with 11 bits. The errors of 1e-3 fail every check of
    float32 results, and the speed is not comparable with that of our float32.
    """
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, or none if it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a CSV file. All rows go to a temporary file, which is then renamed, so it is always complete."""
    old = read_rows(path)
    columns = list(dict.fromkeys(key for row in (*old, *rows) for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *rows])


class Results:
    """The rows of one run. Each is written to the CSV file as soon as it is measured, so a stopped run keeps its rows.

    Without a path the file is temporary. Tables are made from `rows`, so they show what is in the file.
    """

    def __init__(self, path: Path | None, where: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory() if path is None else None
        self.path = path or Path(self._folder.name) / "results.csv"
        self._where = where
        self._before = len(read_rows(self.path))

    def add(self, row: Mapping[str, object]) -> None:
        append_rows(self.path, [{**self._where, **row}])

    def rows(self, benchmark: str) -> list[dict[str, str]]:
        """The rows of this run, as they are in the file."""
        return [row for row in read_rows(self.path)[self._before :] if row["benchmark"] == benchmark]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table with aligned columns."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(header, *rows, strict=True)]
    line = lambda cells: "| " + " | ".join(str(c).ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"  # noqa: E731
    print(line(header))
    print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    for row in rows:
        print(line(row))
