"""The optimizers against torch.optim and a Python loop: python -m benchmarks.optim [--device cuda] [--csv FILE]

For each optimizer, list of parameters and dtype it prints median milliseconds of one step:

- "gc+foreach" and "gc+fused": torch's optimizers after gradient centralization in a Python loop;
- "fastops";
- "foreach" and "fused": torch's optimizers alone, without centralization;
- "copy": moves the bytes that the step must read and write: gradients once, parameters and states twice.

All run in turns; fastops is checked against float64 first. `centralize_gradients_` is timed against the loop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import fastops
from benchmarks.harness import (
    Results,
    compare,
    copy_of,
    environment,
    keep_freed_memory,
    parse,
    print_table,
    relative_error,
)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def resnet50() -> list[tuple[int, ...]]:
    """The shapes of ResNet-50's parameters: 161 tensors, 25,557,032 values."""
    shapes: list[tuple[int, ...]] = []

    def conv(inputs: int, outputs: int, kernel: int) -> None:
        shapes.extend([(outputs, inputs, kernel, kernel), (outputs,), (outputs,)])  # and its batch norm

    conv(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            conv(inputs, width, 1)
            conv(width, width, 3)
            conv(width, 4 * width, 1)
            if block == 0:
                conv(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def siamfc() -> list[tuple[int, ...]]:
    """The shapes of the parameters of the tracker's AlexNet: 18 tensors, 2,336,480 values."""
    from tracker.network.model import SiamFC

    return [tuple(p.shape) for p in SiamFC().parameters()]


MODELS = {"resnet50": resnet50, "siamfc": siamfc}
OPTIMIZERS: dict[str, tuple[type, type, dict]] = {
    "SGDGC": (fastops.optim.SGDGC, torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}),
    "AdamWGC": (fastops.optim.AdamWGC, torch.optim.AdamW, {"lr": 1e-3}),
}


def centralize_loop(params: list[Tensor]) -> None:
    """The usual implementation of gradient centralization."""
    with torch.no_grad():
        for p in params:
            if p.dim() > 1:
                p.grad.add_(-p.grad.mean(tuple(range(1, p.dim())), keepdim=True))


def parameters(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype) -> list[nn.Parameter]:
    """Parameters with gradients. Every call gives the same values, in the given dtype."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter((0.1 * torch.randn(s, generator=generator)).to(device, dtype)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(device, dtype)
    return params


def decay_gradients(params: list[Tensor], weight_decay: float) -> None:
    with torch.no_grad():
        for p in params:
            p.grad.add_(p, alpha=weight_decay)


def check(name: str, shapes, device: str, dtype: torch.dtype) -> None:
    """Check two steps of fastops against the loop and torch in float64: weight decay, centralization, update."""
    ours, theirs, options = OPTIMIZERS[name]
    params = parameters(shapes, device, dtype)
    expected = [nn.Parameter(p.detach().double()) for p in params]
    optimizer = ours(params, **options)
    decay = options.get("weight_decay", 0) if theirs is torch.optim.SGD else 0
    plain = theirs(expected, **(options | ({"weight_decay": 0} if decay else {})))
    for _ in range(2):
        for p, e in zip(params, expected, strict=True):
            e.grad = p.grad.double()
        decay_gradients(expected, decay)
        centralize_loop(expected)
        plain.step()
        optimizer.step()
    error = max(relative_error(p, e) for p, e in zip(params, expected, strict=True))
    if not error < TOLERANCE[dtype]:
        raise SystemExit(f"{name}: fastops is off by {error:.1e}")


def check_centralize(shapes, device: str, dtype: torch.dtype) -> None:
    params = parameters(shapes, device, dtype)
    expected = [nn.Parameter(p.detach().double()) for p in params]
    for p, e in zip(params, expected, strict=True):
        e.grad = p.grad.double()
    centralize_loop(expected)
    fastops.centralize_gradients_(params)
    error = max(relative_error(p.grad, e.grad) for p, e in zip(params, expected, strict=True))
    if not error < TOLERANCE[dtype]:
        raise SystemExit(f"centralize_gradients_: fastops is off by {error:.1e}")


def competitors(name: str, shapes, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The competitors. Each has its own parameters, gradients and states."""
    if name == "centralize_gradients_":
        loop, fused = (parameters(shapes, device, dtype) for _ in range(2))
        return {
            "loop": lambda: centralize_loop(loop),
            "fastops": lambda: fastops.centralize_gradients_(fused),
        }
    ours, theirs, options = OPTIMIZERS[name]
    runs: dict[str, Callable[[], object]] = {}
    for how in ("foreach", "fused"):
        params = parameters(shapes, device, dtype)
        optimizer = theirs(params, **options, **{how: True})

        def centralized(params=params, optimizer=optimizer) -> None:
            centralize_loop(params)
            optimizer.step()

        runs |= {f"gc+{how}": centralized, how: optimizer.step}
    runs["fastops"] = ours(parameters(shapes, device, dtype), **options).step
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", nargs="+", default=["resnet50"], choices=tuple(MODELS))
    parser.add_argument(
        "--dtype", nargs="+", default=["float32"], choices=("float32", "float16", "bfloat16", "float64")
    )
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads to measure with")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds per row")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    keep_freed_memory()

    # Values moved for each value of a parameter.
    moved_values = {"centralize_gradients_": 2, "SGDGC": 5, "AdamWGC": 7}
    for threads in args.threads or [torch.get_num_threads()]:
        torch.set_num_threads(threads)
        where = environment(args.device)
        print(f"\n{where['device']}, torch {where['torch']}, medians in ms\n")
        results = Results(args.csv, where)
        for model in args.model:
            shapes = MODELS[model]()
            values = sum(torch.Size(s).numel() for s in shapes)
            size = f"{model}: {len(shapes)} tensors, {values / 1e6:.1f}M"
            for dtype_name in args.dtype:
                dtype = getattr(torch, dtype_name)
                for name, moved in moved_values.items():
                    check(name, shapes, args.device, dtype) if name in OPTIMIZERS else check_centralize(
                        shapes, args.device, dtype
                    )
                    runs = competitors(name, shapes, args.device, dtype)
                    runs["copy"] = copy_of(args.device, moved * values * dtype.itemsize)
                    timings = compare(runs, args.device, args.budget)
                    floor = timings.pop("copy").median
                    row = {"benchmark": "optim", "op": name, "size": size, "dtype": dtype_name}
                    row |= {"direction": "step", "copy_us": f"{floor * 1e6:.1f}"}
                    for key, timing in timings.items():
                        row |= {f"{key}_us": f"{timing.median * 1e6:.2f}"}
                        row |= {f"{key}_band": f"{timing.low * 1e6:.2f}-{timing.high * 1e6:.2f}"}
                    results.add(row)
        print_results(results.rows("optim"))
    return 0


def print_results(rows: list[dict[str, str]]) -> None:
    """Print tables from rows of the file, one for each set of competitors."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        times = {key.removesuffix("_us"): float(row[key]) / 1e3 for key in row if key.endswith("_us") and row[key]}
        floor, best = times.pop("copy"), next(iter(times))
        ratios = [f"{times[best] / times['fastops']:.1f}x", f"{times['fastops'] / floor:.2f}"]
        header = ("op", "parameters", "dtype", *times, "copy", f"{best}/fastops", "fastops/copy")
        cells = [f"{ms:.2f}" for ms in (*times.values(), floor)]
        tables.setdefault(header, []).append([row["op"], row["size"], row["dtype"], *cells, *ratios])
    for header, table in tables.items():
        print_table(header, table)
        print()


if __name__ == "__main__":
    sys.exit(main())
