"""The time of targets in unusual positions: python -m benchmarks.hard_cases [--frames 10000] [--csv FILE]

It prints the median milliseconds of an update. Trackers take turns on VGA frames of noise. Their targets are:

- in view;
- outside the frame: a box at the corner, most of it outside;
- a hundred times larger than the frame;
- lost, on empty frames, for --frames frames before the measurement.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.fps import VARIANTS
from benchmarks.harness import Results, environment, print_table
from tracker import SiamFC, Tracker

SIZE = (640, 480)
BOXES = {
    "in view": (290, 210, 60, 60),
    "left the frame": (630, 470, 200, 200),
    "100 times the frame": (-50 * SIZE[0], -50 * SIZE[1], 100 * SIZE[0], 100 * SIZE[1]),
    "lost": (290, 210, 60, 60),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="mish+se", choices=tuple(VARIANTS))
    parser.add_argument("--width", type=float, default=1.0, help="width of the network, for a quick run")
    parser.add_argument("--frames", type=int, default=10_000, help="number of frames for which the target is lost")
    parser.add_argument("--measured", type=int, default=100, help="number of frames for the median")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = SiamFC(*VARIANTS[args.model], width=args.width).eval()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(8)]
    empty = np.full_like(frames[0], 128)
    trackers = {name: Tracker(model, device=args.device) for name in BOXES}
    for name, tracker in trackers.items():
        tracker.init(frames[0], BOXES[name])
    for _ in range(args.frames):
        result = trackers["lost"].update(empty)
    seconds: dict[str, list[float]] = {name: [] for name in trackers}
    names = list(trackers)
    for i in range(args.measured):
        for name in names:
            for _ in range(2):  # in the second frame the weights are in the cache, as in a separate run
                start = time.perf_counter()
                last = trackers[name].update(empty if name == "lost" else frames[i % len(frames)])
                elapsed = time.perf_counter() - start
            seconds[name].append(elapsed)
            if not np.isfinite(last.box).all():
                raise SystemExit(f"hard_cases: the box of {name!r} must be finite, got {last.box}")
        names = [*names[1:], names[0]]
    if args.frames and not result.lost:
        raise SystemExit("hard_cases: the target of empty frames must be lost, got one that is not")
    where = environment(args.device)
    medians = {name: float(np.median(values)) * 1e3 for name, values in seconds.items()}
    print(f"{where['device']}, torch {where['torch']}, {args.model}; lost for {args.frames} frames\n")
    results = Results(args.csv, where)
    for name, ms in medians.items():
        row = {"benchmark": "hard_cases", "model": args.model, "target": name, "p50_ms": f"{ms:.3f}"}
        results.add({**row, "frames": args.frames})
    rows = [(row["target"], float(row["p50_ms"])) for row in results.rows("hard_cases")]
    usual = dict(rows)["in view"]
    print_table(["target", "ms", "over in view"], [[n, f"{ms:.2f}", f"{ms / usual:.2f}"] for n, ms in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
