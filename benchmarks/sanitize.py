"""Runs on the GPU, for compute-sanitizer, the tests' samples of every op, forward and backward, and tracks frames.

compute-sanitizer --tool memcheck python -m benchmarks.sanitize [--seconds 60]
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from tests.support.op_samples import OPS
from tracker import BatchTracker, SiamFC


def track() -> None:
    """Track targets inside, across and outside the frame, and then drop two of three targets."""
    torch.manual_seed(0)
    tracker = BatchTracker(SiamFC("mish", "se", width=0.25), device="cuda")
    frames = torch.randint(256, (4, 120, 160, 3), dtype=torch.uint8).numpy()
    targets = [tracker.add(frames[0], box) for box in ((60, 40, 30, 20), (-20, 100, 40, 40), (0, 0, 4000, 3000))]
    for frame in frames:
        tracker.update(frame)
        if len(tracker) > 1:
            tracker.drop(targets.pop())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="stop after the row that exceeds this time")
    parser.add_argument("--op", nargs="+", help="ops of the table to run")
    args = parser.parse_args()
    start, count = time.perf_counter(), 0
    track()
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for row in OPS.values():
            if args.op and row.name not in args.op:
                continue
            for name in row.samples:
                if time.perf_counter() - start > args.seconds:
                    torch.cuda.synchronize()
                    print(f"{count} samples in {args.seconds:.0f} s, the rest left out")
                    return 0
                inputs = row.make(name, dtype, "cuda")
                for i in row.differentiable:
                    if inputs[i] is not None:
                        inputs[i].requires_grad_()
                output = row.op(*inputs)
                output.backward(torch.ones_like(output))
                count += 1
    torch.cuda.synchronize()
    print(f"{count} samples, all of the table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
