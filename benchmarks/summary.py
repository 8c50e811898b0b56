"""One page about a folder of `benchmarks/gpu.sh`: python -m benchmarks.summary FOLDER

It has the steps with their exit states, the failed tests, and the most important columns of each benchmark. Predicted
times are marked as predicted; they are not results.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.harness import print_table, read_rows

MOST_FAILURES = 30
COLUMNS = {
    "device": ("what", "ms", "rate"),
    "fps": ("model", "tracker", "tracker_fps", "p50_ms", "p99_ms", "over_reference", "min_iou"),
    "stages": (
        "size",
        "targets",
        "dtype",
        "crop_ms",
        "network_ms",
        "xcorr_ms",
        "response_ms",
        "other_ms",
        "target_fps",
    ),
    "ops": ("op", "layout", "dtype", "direction", "eager_us", "compile_us", "fastops_us", "predicted_us", "copy_us"),
    "optim": ("op", "dtype", "gc+foreach_us", "fastops_us", "copy_us"),
    "train": ("competitor", "precision", "step_ms", "pairs_per_s"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rows = read_rows(folder / "results.csv")
    first = rows[0] if rows else {}
    print(
        f"# {first.get('device', 'no results')}, commit {first.get('commit', '?')}, torch {first.get('torch', '?')}\n"
    )
    steps = read_rows(folder / "steps.csv")
    print_table(["step", "status", "seconds"], [[row["step"], row["status"], row["seconds"]] for row in steps])
    failed = (folder / "failed.txt").read_text().splitlines() if (folder / "failed.txt").exists() else []
    print(f"\n{len(failed)} failed tests")
    for name in failed[:MOST_FAILURES]:
        print(f"- {name}")
    if len(failed) > MOST_FAILURES:
        print(f"- and {len(failed) - MOST_FAILURES} more: failed.txt")
    for benchmark, columns in COLUMNS.items():
        mine = [row for row in rows if row["benchmark"] == benchmark]
        columns = [column for column in columns if any(row.get(column) for row in mine)]
        if mine:
            print(f"\n## {benchmark}\n")
            print_table(columns, [[row.get(column, "") for column in columns] for row in mine])
    return 0


if __name__ == "__main__":
    sys.exit(main())
