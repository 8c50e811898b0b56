"""Each op against eager PyTorch and torch.compile: python -m benchmarks.ops [--device cuda] [--csv FILE]

Per op, size, dtype and direction (forward under inference_mode; forward + backward): median microseconds of eager |
torch.compile | fastops (| Triton on a GPU), in turns, each checked against float64 first. "copy" is the time of a copy
that moves the bytes which the op must read and write (each input and result once per pass): the floor of the
memory-bound ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import fastops
from benchmarks.harness import append_rows, compare, copy_time, environment, print_table, relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def eager_se_attention(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """What a squeeze-and-excitation module of today does."""
    gate = F.linear(F.relu(F.linear(x.mean((2, 3)), w1, b1)), w2, b2).sigmoid()
    return x * gate[:, :, None, None]


def eager_se_scale(x: Tensor, logits: Tensor) -> Tensor:
    return x * logits.sigmoid()[:, :, None, None]


def eager_xcorr(z: Tensor, x: Tensor) -> Tensor:
    """Grouped convolution, as PyTorch SiamFC trackers do it; one template needs no groups."""
    n, c, h, w = z.shape
    if n == 1:
        return F.conv2d(x, z) * 0.001
    s = x.shape[0] // n
    grouped = x.unflatten(0, (n, s)).transpose(0, 1).flatten(1, 2)
    return F.conv2d(grouped, z, groups=n).transpose(0, 1).flatten(0, 1).unsqueeze(1) * 0.001


def eager_xcorr_depthwise(z: Tensor, x: Tensor) -> Tensor:
    n, c = z.shape[:2]
    out = F.conv2d(x.flatten(0, 1).unsqueeze(0), z.flatten(0, 1).unsqueeze(1), groups=n * c)
    return out.unflatten(1, (n, c)).squeeze(0)


@dataclass(frozen=True)
class Case:
    op: str
    size: str
    inputs: Callable[..., tuple[Tensor, ...]]
    eager: Callable[..., Tensor]
    fused: Callable[..., Tensor]
    stem: str
    forward_values: float  # values that must be read and written, in units of the first input
    backward_values: float
    channels_last: bool = False


def _cases() -> list[Case]:
    def randn(*sizes):
        return lambda **options: tuple(torch.randn(s, **options) for s in sizes)

    cases = [
        Case("mish", size, randn((n,)), F.mish, fastops.mish, "mish", 2, 3)
        for size, n in (("1e3", 1_000), ("1e5", 100_000), ("1e6", 1_000_000), ("1.6e7", 16_000_000))
    ]
    for n in (1, 8, 32):
        size = (n, 256, 22, 22)
        weights = ((16, 256), (16,), (256, 16), (256,))
        inputs = randn(size, *weights)
        case = ("se_attention", f"{n}x256x22x22", inputs, eager_se_attention, fastops.se_attention, "se", 3, 4)
        cases.append(Case(*case))
        if n == 8:
            cases.append(Case(*case, channels_last=True))
            scale = ("se_scale", f"{n}x256x22x22", randn(size, (n, 256)), eager_se_scale, fastops.se_scale, "se", 2, 3)
            cases.append(Case(*scale))

    def fused_xcorr(z: Tensor, x: Tensor) -> Tensor:
        return fastops.xcorr(z, x, 0.001)

    for nz, nx in ((1, 1), (1, 3), (8, 8), (8, 24)):
        inputs = randn((nz, 256, 6, 6), (nx, 256, 22, 22))
        case = ("xcorr", f"{nz}:{nx}x256, 6x6 on 22x22", inputs, eager_xcorr, fused_xcorr, "xcorr", 0, 0)
        cases.append(Case(*case))
        if nz != 1 or nx == 3:
            cases.append(Case(*case, channels_last=True))
    inputs = randn((8, 256, 6, 6), (8, 256, 22, 22))
    cases.append(
        Case(
            "xcorr_depthwise",
            "8:8x256, 6x6 on 22x22",
            inputs,
            eager_xcorr_depthwise,
            fastops.xcorr_depthwise,
            "xcorr",
            0,
            0,
        )
    )
    return cases


def _run(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], direction: str, grad: Tensor | None):
    if direction == "forward":

        def forward() -> Tensor:
            with torch.inference_mode():
                return function(*inputs)

        return forward

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), inputs, grad)

    return both


def _triton_functions(case: Case) -> Callable[..., Tensor] | None:
    """The Triton twin as a function with gradients, for the GPU table."""
    import importlib

    ops = importlib.import_module(f"fastops.triton.{case.stem}").OPS
    extra = (0.001,) if case.op == "xcorr" else ()

    class Twin(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return ops[case.op](*inputs, *extra)

        @staticmethod
        def backward(ctx, grad):
            return ops[f"{case.op}_backward"](grad, *ctx.saved_tensors, *extra)

    return Twin.apply


def run_case(case: Case, device: str, dtype: torch.dtype, direction: str, args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    inputs = case.inputs(device=device, dtype=dtype)
    if case.channels_last:
        inputs = tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs)
    inputs = tuple(t.requires_grad_(direction != "forward") for t in inputs)
    wide = tuple(t.detach().double().requires_grad_(direction != "forward") for t in inputs)
    output = case.eager(*wide)
    grad = torch.randn_like(output).to(dtype)
    expected = _run(case.eager, wide, direction, grad.double())()

    competitors = {"eager": case.eager}
    if not args.no_compile:
        torch._dynamo.reset()
        competitors["compile"] = torch.compile(case.eager)
    competitors["fastops"] = case.fused
    if device == "cuda" and fastops.backends()["mish"]["cuda"] == "cuda":
        competitors["triton"] = _triton_functions(case)
    runs = {name: _run(function, inputs, direction, grad) for name, function in competitors.items()}
    for name, run in runs.items():
        results = run()
        pairs = [(results, expected)] if isinstance(results, Tensor) else zip(results, expected, strict=True)
        error = max(relative_error(a, e) for a, e in pairs)
        if not error < TOLERANCE[dtype]:
            raise SystemExit(f"{case.op} {case.size} {dtype} {direction}: {name} is off by {error:.1e}")
    return compare(runs, device, args.budget)


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

    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}, medians in us\n")
    rows, table, competitors = [], [], []
    for case in _cases():
        if args.op and case.op not in args.op:
            continue
        for dtype_name in args.dtype:
            dtype = getattr(torch, dtype_name)
            for direction, values in (
                ("forward", case.forward_values),
                ("forward+backward", case.forward_values + case.backward_values),
            ):
                timings = run_case(case, args.device, dtype, direction, args)
                competitors = list(timings)
                first = case.inputs(device="meta", dtype=dtype)[0]
                moved = int(values * first.numel() * first.element_size())
                floor = copy_time(args.device, moved) if moved else None
                ours = timings["fastops"].median
                layout = "NHWC" if case.channels_last else ""
                row = {"benchmark": "ops", "op": case.op, "size": case.size, "layout": layout, "dtype": dtype_name}
                row |= {"direction": direction, "copy_us": f"{floor * 1e6:.1f}" if floor else ""}
                for name, timing in timings.items():
                    row |= {f"{name}_us": f"{timing.median * 1e6:.2f}"}
                    row |= {f"{name}_band": f"{timing.low * 1e6:.2f}-{timing.high * 1e6:.2f}"}
                rows.append({**where, **row})
                cells = [f"{t.median * 1e6:.1f}" for t in timings.values()]
                ratios = [f"{timings[n].median / ours:.1f}x" for n in competitors if n != "fastops"]
                size = f"{case.size} {layout}".strip()
                table.append([case.op, size, dtype_name, direction, *cells, row["copy_us"], *ratios])
                print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    over = [f"{n}/fastops" for n in competitors if n != "fastops"]
    print_table(["op", "size", "dtype", "direction", *competitors, "copy", *over], table)
    if args.csv:
        append_rows(args.csv, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
