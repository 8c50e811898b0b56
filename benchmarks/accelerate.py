"""Whole networks before and after fastops.accelerate: python -m benchmarks.accelerate [--device cuda] [--csv FILE]

It prints median milliseconds of a call in eval mode under inference_mode, and of a training step's forward and backward
pass. The competitors are eager, torch.compile and accelerated. They run in turns, and each is checked first.
Convolutions take most of the time of a network, so these are the ratios that a user sees, not those of the ops.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import fastops
from benchmarks.harness import Results, compare, environment, full_float32, print_table, relative_error
from tracker import SiamFC

TOLERANCE = 1e-2  # of all gradients; at the kinks of ReLU, eager float32 itself has an error of 2e-3


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation, as in torchvision."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, channels: int, stride: int, activation: Callable[[], nn.Module], se: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.act1, self.act2 = activation(), activation()
        self.se = SqueezeExcitation(channels) if se else nn.Identity()
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.se(self.bn2(self.conv2(y))) + self.shortcut(x))


def resnet18(activation: Callable[[], nn.Module], se: bool) -> nn.Module:
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), activation(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(inputs, channels, stride, activation, se), Block(channels, channels, 1, activation, se)]
        inputs = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


#: name -> how to make it, shapes of its inputs
NETWORKS = {
    "ResNet-18, Mish": (partial(resnet18, nn.Mish, False), [(4, 3, 128, 128)]),
    "SE-ResNet-18, ReLU": (partial(resnet18, nn.ReLU, True), [(4, 3, 128, 128)]),
    "SE-ResNet-18, Mish": (partial(resnet18, nn.Mish, True), [(4, 3, 128, 128)]),
    "SiamFC, Mish, SE": (partial(SiamFC, "mish", "se", ops="reference"), [(1, 3, 127, 127), (1, 3, 255, 255)]),
}


def _run(model: nn.Module, inputs: list[Tensor], training: bool) -> Callable[[], list[Tensor]]:
    def inference() -> list[Tensor]:
        with torch.inference_mode():
            return [model(*inputs)]

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(model(*inputs).square().mean(), list(model.parameters())))

    return step if training else inference


def run_network(name: str, training: bool, args: argparse.Namespace) -> dict:
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    model = make().to(args.device).train(training)
    inputs = [torch.randn(shape, device=args.device) for shape in shapes]
    models = {"eager": model}
    if not args.no_compile:
        torch._dynamo.reset()
        models["compile"] = torch.compile(copy.deepcopy(model))
    models["fastops"] = fastops.accelerate(copy.deepcopy(model), verbose=False)
    wide = copy.deepcopy(model).double()
    expected = torch.cat([t.flatten() for t in _run(wide, [t.double() for t in inputs], training)()])
    runs = {other: _run(m, inputs, training) for other, m in models.items()}
    for other, run in runs.items():
        error = relative_error(torch.cat([t.flatten() for t in run()]), expected)
        if not error < TOLERANCE:
            raise SystemExit(f"{name}: {other} is off by {error:.1e}")
    return compare(runs, args.device, args.budget)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), help="networks to run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=5.0, help="seconds per row")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}, float32, medians in ms\n")
    results = Results(args.csv, where)
    with full_float32():
        for name in args.network:
            for mode in ("inference", "training"):
                row = {"benchmark": "accelerate", "model": name, "direction": mode}
                for other, timing in run_network(name, mode == "training", args).items():
                    row |= {f"{other}_ms": f"{timing.median * 1e3:.2f}"}
                    row |= {f"{other}_band": f"{timing.low * 1e3:.2f}-{timing.high * 1e3:.2f}"}
                results.add(row)
    rows = results.rows("accelerate")
    competitors = [name for name in ("eager", "compile", "fastops") if rows[0].get(f"{name}_ms")]
    table = []
    for row in rows:
        times = {name: float(row[f"{name}_ms"]) for name in competitors}
        ratios = [f"{times[n] / times['fastops']:.2f}x" for n in competitors if n != "fastops"]
        table.append([row["model"], row["direction"], *(f"{ms:.1f}" for ms in times.values()), *ratios])
    over = [f"{n}/fastops" for n in competitors if n != "fastops"]
    print_table(["network", "mode", *competitors, *over], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
