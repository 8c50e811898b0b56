"""The limits of this GPU, and cuDNN's speed on the tracker's convolutions: python -m benchmarks.device [--csv FILE]

First it measures copies and matrix products, which are the upper limits of everything else. Then it measures the five
convolutions of SiamFC for 3 and 192 search crops in float16, channels_last: with and without cuDNN's benchmark mode,
grouped and dense (with zeros across groups, so that results are equal), and the first one with its 3 input channels
padded to 4, 8 and 16. A row is written to the file as soon as it is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Results, compare, copy_of, environment, parse, print_table
from tracker.network.fused import dense_weights

#: inputs, outputs, kernel, stride, groups, side of the input
LAYERS = (
    (3, 96, 11, 2, 1, 255),
    (96, 256, 5, 1, 2, 61),
    (256, 384, 3, 1, 1, 28),
    (384, 384, 3, 1, 2, 26),
    (384, 256, 3, 1, 2, 24),
)


def convolutions(batch: int, device: str, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, Tensor, int, int]]:
    """Yield the name, input, weights, stride and groups of each variant."""
    last = torch.channels_last
    for i, (inputs, outputs, kernel, stride, groups, side) in enumerate(LAYERS, 1):
        for padded in (inputs, 4, 8, 16) if i == 1 else (inputs,):
            x = torch.randn(batch, padded, side, side, device=device, dtype=dtype).contiguous(memory_format=last)
            weight = torch.randn(outputs, padded // groups, kernel, kernel, device=device, dtype=dtype)
            name = f"conv{i}" + (f" of {padded} channels" if i == 1 else "")
            yield name, x, weight.contiguous(memory_format=last), stride, groups
            if groups > 1:
                yield f"{name} dense", x, dense_weights(weight, groups).contiguous(memory_format=last), stride, 1


def measure(results: Results, device: str, budget: float) -> None:
    moved = 2**29
    seconds = compare({"copy": copy_of(device, moved)}, device, budget)["copy"].median
    rate = f"{moved / seconds / 1e9:.0f} GB/s"
    results.add({"benchmark": "device", "what": "copy", "ms": f"{1e3 * seconds:.4f}", "rate": rate})
    for dtype in (torch.float16, torch.bfloat16):
        a = torch.randn(8192, 8192, device=device, dtype=dtype)
        seconds = compare({"matmul": lambda a=a: a @ a}, device, budget)["matmul"].median
        what = f"matmul 8192^3 {dtype}".replace("torch.", "")
        rate = f"{2 * 8192**3 / seconds / 1e12:.0f} TFLOP/s"
        results.add({"benchmark": "device", "what": what, "ms": f"{1e3 * seconds:.4f}", "rate": rate})
    before = torch.backends.cudnn.benchmark
    try:
        for batch in (3, 192):
            for tuned in (False, True):
                torch.backends.cudnn.benchmark = tuned
                for name, x, weight, stride, groups in convolutions(batch, device, torch.float16):
                    with torch.inference_mode():
                        run = lambda x=x, w=weight, s=stride, g=groups: F.conv2d(x, w, None, s, 0, 1, g)  # noqa: E731
                        flops = 2 * run().numel() * weight[0].numel()
                        seconds = compare({"conv": run}, device, budget)["conv"].median
                    what = f"{name}, {batch} crops" + (", benchmark mode" if tuned else "")
                    rate = f"{flops / seconds / 1e12:.1f} TFLOP/s"
                    results.add({"benchmark": "device", "what": what, "ms": f"{1e3 * seconds:.4f}", "rate": rate})
    finally:
        torch.backends.cudnn.benchmark = before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=0.1, help="seconds per row")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    if not torch.cuda.is_available():
        raise SystemExit("device: torch sees no CUDA device")
    results = Results(args.csv, environment("cuda"))
    try:
        measure(results, "cuda", args.budget)
    finally:
        print_table(["what", "ms", "rate"], [[r["what"], r["ms"], r["rate"]] for r in results.rows("device")])
    return 0


if __name__ == "__main__":
    sys.exit(main())
