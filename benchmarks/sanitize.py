"""Runs the rows of the tests' sample table on the GPU, forward and backward, once: for compute-sanitizer.

compute-sanitizer --tool memcheck python -m benchmarks.sanitize [--seconds 60]
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from benchmarks.harness import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from op_samples import OPS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="stop after the row that crosses this")
    args = parser.parse_args()
    start, count = time.perf_counter(), 0
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for row in OPS.values():
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
