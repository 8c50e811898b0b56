"""Each op against eager PyTorch and torch.compile: python -m benchmarks.ops [--device cuda] [--csv FILE]

For each op, size, dtype and direction (forward under inference_mode; forward + backward) it prints median microseconds
of eager PyTorch, torch.compile, fastops and, on a GPU, Triton. They take turns, and each is checked against float64
first.

- "copy" takes turns with them. It moves the bytes that the op must read and write (each input and result once per
  pass), which is the lower bound of memory-bound ops.
- "memory" is the peak of the memory that forward + backward allocate, divided by eager's.
- "predicted", on a GPU, is the time of fastops that benchmarks.predict expects from the kernels' instructions and
  bytes. It is not a measurement.
- TF32 is off, except in the column "eager TF32" of the ops that are convolutions in eager PyTorch.

A row is written to the file as soon as it is measured. A case with a wrong result is not timed, and its competitor is
named at the end.
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
    Results,
    Timing,
    compare,
    copy_of,
    environment,
    full_float32,
    keep_freed_memory,
    parse,
    peak_memory,
    print_table,
    relative_error,
)
from benchmarks.predict import Predictor

#: The ops that are convolutions in eager PyTorch, where TF32 makes a difference.
CONVOLUTIONS = ("xcorr", "xcorr_depthwise")
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

    ops = importlib.import_module(f"fastops.triton.{case.family}").OPS

    class TritonOp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return ops[case.op](*inputs, *case.triton_args)

        @staticmethod
        def backward(ctx, grad):
            return ops[f"{case.op}_backward"](grad, *ctx.saved_tensors, *case.triton_args)

    return TritonOp.apply


class WrongResult(Exception):
    """The result of a competitor differs from that in float64."""


def with_tf32(run: Callable[[], object]) -> Callable[[], object]:
    def allowed() -> object:
        torch.backends.cudnn.allow_tf32 = True
        try:
            return run()
        finally:
            torch.backends.cudnn.allow_tf32 = False

    return allowed


def run_case(
    case: Case, device: str, dtype: torch.dtype, direction: str, args: argparse.Namespace
) -> tuple[dict[str, Timing], dict[str, int]]:
    """The seconds of each competitor and of the copy, if there is one, and the peak bytes of forward + backward."""
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
    if device == "cuda" and case.triton_args is not None and fastops.backends()["mish"]["cuda"] == "cuda":
        competitors["triton"] = _triton_twin(case)
    runs = {name: _run(function, inputs, direction, grad) for name, function in competitors.items()}
    for name, run in runs.items():
        results = run()
        pairs = [(results, expected)] if isinstance(results, Tensor) else zip(results, expected, strict=True)
        error = max(relative_error(a, e) for a, e in pairs)
        if not error < TOLERANCE[dtype]:
            raise WrongResult(f"{case.op} {case.size} {dtype} {direction}: {name} is off by {error:.1e}")
    if device == "cuda" and dtype == torch.float32 and case.op in CONVOLUTIONS:
        runs["eager TF32"] = with_tf32(runs["eager"])
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
    parser.add_argument("--op", nargs="+", help="ops to run")
    parser.add_argument("--budget", type=float, default=0.6, help="seconds per row")
    parser.add_argument("--large", action="store_true", help="tensors of 256 MB, which no cache holds")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes seconds per row)")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    keep_freed_memory()

    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}, medians in us\n")
    results, failures = Results(args.csv, where), []
    predictor = Predictor() if args.device == "cuda" else None
    try:
        with full_float32():
            measure(args, results, predictor, failures)
    finally:
        print(file=sys.stderr)
        print_results(results.rows("ops"))
    if failures:
        raise SystemExit("\n".join(failures))
    return 0


def measure(args: argparse.Namespace, results: Results, predictor: Predictor | None, failures: list[str]) -> None:
    for case in cases(large=args.large):
        if args.op and case.op not in args.op:
            continue
        for dtype_name in args.dtype:
            dtype = getattr(torch, dtype_name)
            for direction in ("forward",) if case.differentiable == () else ("forward", "forward+backward"):
                try:
                    timings, memory = run_case(case, args.device, dtype, direction, args)
                except (WrongResult, torch.OutOfMemoryError) as error:
                    failures.append(str(error))
                    continue
                floor = timings.pop("copy", None)
                row = {"benchmark": "ops", "op": case.op, "size": case.size}
                row |= {"layout": "NHWC" if case.channels_last else "", "dtype": dtype_name}
                row |= {"direction": direction, "copy_us": f"{floor.median * 1e6:.1f}" if floor else ""}
                if predictor:
                    row["predicted_us"] = predictor.text(case, dtype_name, direction)
                for name, timing in timings.items():
                    row |= {f"{name}_us": f"{timing.median * 1e6:.2f}"}
                    row |= {f"{name}_band": f"{timing.low * 1e6:.2f}-{timing.high * 1e6:.2f}"}
                    if name in memory:
                        row |= {f"{name}_bytes": memory[name]}
                results.add(row)
                print(".", end="", file=sys.stderr, flush=True)


def print_results(rows: list[dict[str, str]]) -> None:
    """Print the table from rows of the file."""
    competitors = [key.removesuffix("_band") for key in (rows[0] if rows else {}) if key.endswith("_band")]
    competitors = [name for name in competitors if any(row[f"{name}_us"] for row in rows)]
    predicted = ["predicted"] if any(row.get("predicted_us") for row in rows) else []
    table = []
    for row in rows:
        times = {name: float(row[f"{name}_us"]) for name in competitors if row[f"{name}_us"]}
        cells = [f"{times[name]:.1f}" if name in times else "" for name in competitors]
        ratios = [f"{times[n] / times['fastops']:.1f}x" if n in times else "" for n in competitors if n != "fastops"]
        memory = row.get("fastops_bytes") and row.get("eager_bytes")
        over_eager = f"{int(row['fastops_bytes']) / int(row['eager_bytes']):.2f}" if memory else ""
        size = f"{row['size']} {row['layout']}".strip()
        expected = [row["predicted_us"]] if predicted else []
        table.append(
            [row["op"], size, row["dtype"], row["direction"], *cells, row["copy_us"], *expected, *ratios, over_eager]
        )
    over = [f"{n}/fastops" for n in competitors if n != "fastops"]
    print_table(["op", "size", "dtype", "direction", *competitors, "copy", *predicted, *over, "memory"], table)


if __name__ == "__main__":
    sys.exit(main())
