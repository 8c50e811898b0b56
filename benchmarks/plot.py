"""Bar charts of a results file: python -m benchmarks.plot [RESULTS.csv] [--output-dir FOLDER]

It writes <results>-ops-<dtype>.png for the last commit of benchmarks.ops in the file (default: the newest file). The
bars show how many times faster than eager PyTorch and torch.compile each op is, forward and forward + backward.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from benchmarks.harness import RESULTS
from tracker.installed import install_hint
from tracker.io.files import replacing

COLOURS = {"eager": "#0072b2", "compile": "#e69f00", "triton": "#009e73"}  # colour-blind people can distinguish them
DIRECTIONS = ("forward", "forward+backward")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of benchmarks.ops for the last commit in the file."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == "ops"]
    if not rows:
        raise SystemExit(f"{path}: no rows of benchmarks.ops; run python -m benchmarks.ops --csv {path}")
    return [row for row in rows if row["commit"] == rows[-1]["commit"]]


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw one PNG for rows of one dtype. It is first written under a temporary name."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(f"plots need matplotlib: {install_hint('plot')}") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys((row["op"], row["size"], row["layout"]) for row in rows))
    competitors = [name for name in COLOURS if any(row.get(f"{name}_us") for row in rows)]
    figure, axes = plt.subplots(1, 2, figsize=(13, 1.6 + 0.32 * len(names)), sharey=True, layout="constrained")
    for axis, direction in zip(axes, DIRECTIONS, strict=True):
        by_name = {(r["op"], r["size"], r["layout"]): r for r in rows if r["direction"] == direction}
        height = 0.8 / len(competitors)
        for i, competitor in enumerate(competitors):
            at = [n + (i - (len(competitors) - 1) / 2) * height for n, name in enumerate(names) if name in by_name]
            kept = [by_name[name] for name in names if name in by_name]
            ratios = [float(row[f"{competitor}_us"] or "nan") / float(row["fastops_us"]) for row in kept]
            lengths = [ratio - 1 for ratio in ratios]  # bars start at 1, so slower ops point the other way
            bars = axis.barh(at, lengths, height, left=1, color=COLOURS[competitor], label=f"faster than {competitor}")
            axis.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=2, fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xlim(right=axis.get_xlim()[1] * 1.4)
        axis.set_title(direction)
        axis.set_xlabel("time over that of fastops (logarithmic)")
    axes[0].set_yticks(range(len(names)), [" ".join(filter(None, name)) for name in names], fontsize=8)
    axes[0].invert_yaxis()
    axes[1].legend(loc="lower right", fontsize=8)
    first = rows[0]
    figure.suptitle(
        f"{first['dtype']}, {first['device']}, torch {first['torch']}, commit {first['commit']}", fontsize=9
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="a file of benchmarks/results")
    parser.add_argument("--output-dir", type=Path, help="default: the folder of the results")
    args = parser.parse_args()
    found = sorted(RESULTS.glob("*.csv"), key=lambda path: path.stat().st_mtime)
    if args.results is None and not found:
        raise SystemExit(f"no results in {RESULTS}; run python -m benchmarks.ops --csv FILE")
    results = args.results or found[-1]
    rows = read(results)
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        path = (args.output_dir or results.parent) / f"{results.stem}-ops-{dtype}.png"
        draw([row for row in rows if row["dtype"] == dtype], path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
