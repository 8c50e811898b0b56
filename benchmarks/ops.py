"""Each op against eager PyTorch and torch.compile: python -m benchmarks.ops [--device cuda] [--csv FILE]

For each op, size, dtype and direction it prints median microseconds. Directions are forward under inference_mode, and
forward + backward. The competitors are eager, torch.compile, fastops, and on a GPU Triton. They run in turns; each is
checked against float64 first. "copy", in turns with them, moves the bytes that the op must read and write, each input
and result once per pass: the lower bound of a memory-bound op. "memory" is the peak that forward + backward allocate,
over eager's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import fastops
from benchmarks.cases import Case, cases
from benchmarks.harness import (
    Timing,
    append_rows,
    compare,
    copy_of,
    environment,
    keep_freed_memory,
    peak_memory,
    print_table,
    relative_error,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def _run(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], direction: str, grad: Tensor | None):
    leaves = [t for t in inputs if t.requires_grad]

    if direction == "forward":

        def forward() -> Tensor:
            with torch.inference_mode():
                return function(*inputs)

        return forward

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), leaves, grad)

    return both


def _triton_twin(case: Case) -> Callable[..., Tensor]:
    """The Triton kernel as a function with gradients, for the GPU table."""
    import importlib

    ops = importlib.import_module(f"fastops.triton.{case.stem}").OPS

    class Twin(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return ops[case.op](*inputs, *case.twin)

        @staticmethod
        def backward(ctx, grad):
            return ops[f"{case.op}_backward"](grad, *ctx.saved_tensors, *case.twin)

    return Twin.apply


def run_case(
    case: Case, device: str, dtype: torch.dtype, direction: str, args: argparse.Namespace
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Seconds of each competitor and of the copy, if there is one; peak bytes of forward + backward."""
    torch.manual_seed(0)
    inputs = case.inputs(device=device, dtype=dtype)
    if case.channels_last:
        inputs = tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs)
    wanted = range(len(inputs)) if case.differentiable is None else case.differentiable
    needs = [direction != "forward" and i in wanted for i in range(len(inputs))]
    wide = tuple(t.double().requires_grad_(need) for t, need in zip(inputs, needs, strict=True))
    inputs = tuple(t.requires_grad_(need) for t, need in zip(inputs, needs, strict=True))
    output = case.eager(*wide)
    grad = torch.randn_like(output).to(dtype)
    expected = _run(case.eager, wide, direction, grad.double())()

    competitors = {"eager": case.eager}
    if not args.no_compile:
        torch._dynamo.reset()
        competitors["compile"] = torch.compile(case.eager)
    competitors["fastops"] = case.fused
    if device == "cuda" and case.twin is not None and fastops.backends()["mish"]["cuda"] == "cuda":
        competitors["triton"] = _triton_twin(case)
    runs = {name: _run(function, inputs, direction, grad) for name, function in competitors.items()}
    for name, run in runs.items():
        results = run()
        pairs = [(results, expected)] if isinstance(results, Tensor) else zip(results, expected, strict=True)
        error = max(relative_error(a, e) for a, e in pairs)
        if not error < TOLERANCE[dtype]:
            raise SystemExit(f"{case.op} {case.size} {dtype} {direction}: {name} is off by {error:.1e}")
    memory = {} if direction == "forward" else {name: peak_memory(run, device) for name, run in runs.items()}
    values = case.forward_values + (0 if direction == "forward" else case.backward_values)
    if moved := int(values * inputs[0].numel() * inputs[0].element_size()):
        runs["copy"] = copy_of(device, moved)
    return compare(runs, device, args.budget), memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--dtype", nargs="+", default=["float32"], choices=("float32", "float16", "bfloat16", "float64")
    )
    parser.add_argument("--op", nargs="+", help="only these ops")
    parser.add_argument("--budget", type=float, default=0.6, help="seconds per row")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes seconds per row)")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    keep_freed_memory()

    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}, medians in us\n")
    rows, table, competitors = [], [], []
    for case in cases():
        if args.op and case.op not in args.op:
            continue
        for dtype_name in args.dtype:
            dtype = getattr(torch, dtype_name)
            for direction in ("forward", "forward+backward"):
                timings, memory = run_case(case, args.device, dtype, direction, args)
                floor = timings.pop("copy", None)
                competitors = list(timings)
                ours = timings["fastops"].median
                layout = "NHWC" if case.channels_last else ""
                row = {"benchmark": "ops", "op": case.op, "size": case.size, "layout": layout, "dtype": dtype_name}
                row |= {"direction": direction, "copy_us": f"{floor.median * 1e6:.1f}" if floor else ""}
                for name, timing in timings.items():
                    row |= {f"{name}_us": f"{timing.median * 1e6:.2f}"}
                    row |= {f"{name}_band": f"{timing.low * 1e6:.2f}-{timing.high * 1e6:.2f}"}
                    if memory:
                        row |= {f"{name}_bytes": memory[name]}
                rows.append({**where, **row})
                cells = [f"{t.median * 1e6:.1f}" for t in timings.values()]
                ratios = [f"{timings[n].median / ours:.1f}x" for n in competitors if n != "fastops"]
                size = f"{case.size} {layout}".strip()
                over_eager = f"{memory['fastops'] / memory['eager']:.2f}" if memory else ""
                table.append([case.op, size, dtype_name, direction, *cells, row["copy_us"], *ratios, over_eager])
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    over = [f"{n}/fastops" for n in competitors if n != "fastops"]
    print_table(["op", "size", "dtype", "direction", *competitors, "copy", *over, "memory"], table)
    if args.csv:
        append_rows(args.csv, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
