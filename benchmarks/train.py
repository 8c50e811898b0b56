"""The time of a training step of the paper's network, and its wait for data: python -m benchmarks.train [--csv FILE]

For each competitor it prints median milliseconds of data (cutting and augmenting the crops of a loaded batch), forward
(with the loss), backward and optimizer. A step is the last three together; pairs per second are those of the step. The
competitors run in turns. All train SiamFC with Mish and squeeze-and-excitation, by SGD with gradient centralization.
They are checked to take the same step first:

reference  stock PyTorch: nn.Mish, a grouped convolution as correlation, binary cross-entropy with ready-made labels,
           torch.optim.SGD (foreach) after gradient centralization in a Python loop
compile    the same, the network through torch.compile
fastops    as tracker.training trains: fused modules, channels_last, one kernel for the optimizer's step

Then it measures `tracker.training.loop.train` with workers: the part of a step that waits for data.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
from benchmarks.harness import Results, environment, full_float32, keep_freed_memory, parse, print_table, relative_error
from benchmarks.optim import centralize_loop
from tracker import SiamFC
from tracker.data.augment import AugmentConfig, Batch, augment, collate
from tracker.data.pairs import Pair, PairDataset
from tracker.distributed import World
from tracker.training.config import DataConfig, TrainConfig
from tracker.training.loop import make_optimizer, scale_responses, train, training_form
from tracker.training.losses import losses_of

PHASES = ("data", "forward", "backward", "optimizer")
#: Tolerance of a step's weight changes. The float32 reference differs by 3e-4 from float64, bfloat16 by 1e-1.
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.3, "float16": 0.3}


def cross_entropy(responses: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(responses, labels.expand_as(responses), weights) * labels.numel()


def labels_and_weights(device: str) -> tuple[Tensor, Tensor]:
    """Labels and weights [1, 1, 17, 17] for a target in the centre of the crop, made once as in stock trainers."""
    places = torch.arange(17.0, device=device) - 8
    labels = (places[:, None].square() + places.square() <= 4).float()[None, None]
    weights = torch.where(labels > 0, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    return labels, weights


class Step:
    """A training step of one competitor, phase by phase."""

    def __init__(self, name: str, model: SiamFC, args: argparse.Namespace) -> None:
        self.config = TrainConfig(precision=args.precision, optimizer="sgd_gc" if name == "fastops" else "sgd")
        self.device, self.fused = args.device, name == "fastops"
        self.model = SiamFC(**model.settings(), ops="fastops" if self.fused else "reference").to(args.device)
        self.model.load_state_dict(model.state_dict())
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(args.device, enabled=args.precision == "float16")
        if self.fused:
            self.model.to(memory_format=torch.channels_last)
            self._form = training_form(self.model, self.config, World())
            self.network = self._form.__enter__()  # for the rest of the process
        else:
            self.network = torch.compile(self.model.train()) if name == "compile" else self.model.train()
        self.labels = labels_and_weights(args.device)

    def data(self, loaded: Pair) -> Batch:
        generator = torch.Generator().manual_seed(0)
        with nullcontext() if self.fused else fastops.set_backend("reference", "crop"):
            batch = augment(loaded, generator, replace(AugmentConfig(), shift=0.0), device=self.device)
        if not self.fused:  # NCHW, as in stock loaders
            batch = batch._replace(exemplar=batch.exemplar.contiguous(), instance=batch.instance.contiguous())
        # All targets are in the centre, as in the ready-made labels.
        return batch._replace(box=batch.box.new_tensor([[91.5, 91.5, 163.5, 163.5]]).expand(len(batch.box), 4))

    def forward(self, batch: Batch) -> Tensor:
        half = self.config.precision != "float32"
        with torch.autocast(self.device, getattr(torch, self.config.precision), enabled=half):
            output = self.network(batch.exemplar, batch.instance)
            if self.fused:
                return losses_of(output, batch, self.config.box_loss)["score"]
            return cross_entropy(output, *self.labels)

    def backward(self, loss: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        return loss

    def optimize(self, loss: Tensor) -> Tensor:
        self.scaler.unscale_(self.optimizer)
        if not self.fused:
            centralize_loop([p for p in self.model.parameters() if p.grad is not None])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def run(self, loaded: Pair) -> tuple[float, list[float]]:
        """Make a step. Return the loss and the seconds of each phase."""
        sync = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        value: Any = loaded
        sync()
        times = [time.perf_counter()]
        for phase in (self.data, self.forward, self.backward, self.optimize):
            value = phase(value)
            sync()
            times.append(time.perf_counter())
        return value.item(), [end - start for start, end in pairwise(times)]


def check(steps: dict[str, Step], start: SiamFC, loaded: Pair, tolerance: float) -> None:
    """Check that the first step of each competitor has the loss and the weight changes of the reference."""
    before = flat(start)
    expected = None
    for name, step in steps.items():
        loss, _ = step.run(loaded)
        moved = flat(step.model) - before
        if expected is None:
            expected = loss, moved
        error = max(abs(loss / expected[0] - 1), relative_error(moved, expected[1]))
        if not error < tolerance:
            raise SystemExit(f"{name}: the first step is off by {error:.1e}")


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


class Times:
    """A `TrainLog` that keeps the times of steps."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def train(self, record: dict[str, Any]) -> None:
        self.records.append(record)


def measure_steps(args: argparse.Namespace, results: Results) -> None:
    torch.manual_seed(0)
    start = SiamFC("mish", "se", width=args.width, ops="reference").to(args.device)
    scale_responses(start)
    pairs = PairDataset.synthetic(seed=0, pairs=args.batch_size)
    loaded = collate([pairs[i] for i in range(len(pairs))])
    names = [name for name in ("reference", "compile", "fastops") if name != "compile" or not args.no_compile]
    steps = {name: Step(name, start, args) for name in names}
    check(steps, start, loaded, TOLERANCE[args.precision])
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    for step in steps.values():
        step.run(loaded)
    deadline = time.perf_counter() + args.budget
    while time.perf_counter() < deadline or len(taken[names[0]]) < 5:
        for name in names:
            taken[name].append(steps[name].run(loaded)[1])
        names = [*names[1:], names[0]]  # another one goes first
    total = {name: statistics.median(sum(sample[1:]) for sample in samples) for name, samples in taken.items()}
    for name in steps:
        phases = [statistics.median(phase) for phase in zip(*taken[name], strict=True)]
        rate = args.batch_size / total[name]
        row = {"benchmark": "train", "competitor": name, "precision": args.precision, "width": f"{args.width:g}"}
        row |= {f"{phase}_ms": f"{1e3 * s:.2f}" for phase, s in zip(PHASES, phases, strict=True)}
        results.add({**row, "step_ms": f"{1e3 * total[name]:.2f}", "pairs_per_s": f"{rate:.2f}"})
    table = []
    reference = float(results.rows("train")[0]["step_ms"])
    for row in results.rows("train"):
        times = [f"{float(row[f'{phase}_ms']):.1f}" for phase in (*PHASES, "step")]
        rate = float(row["pairs_per_s"])
        table.append([row["competitor"], *times, f"{rate:.1f}", f"{reference / float(row['step_ms']):.2f}x"])
    print_table(["competitor", *PHASES, "step", "pairs/s", "over reference"], table)


def measure_data_wait(args: argparse.Namespace, results: Results) -> None:
    config = TrainConfig(
        steps=args.steps, batch_size=args.batch_size, precision=args.precision, lr=1e-3,
        data=DataConfig(workers=args.workers),
    )  # fmt: skip
    torch.manual_seed(0)
    model = SiamFC("mish", "se", width=args.width).to(args.device)
    times = Times()
    train(model, config, log=times)
    records = times.records[len(times.records) // 4 :]  # without the first steps, whose batches are loaded already
    seconds, waited = (sum(record[key] for record in records) for key in ("seconds", "data_wait"))
    rate = args.batch_size * len(records) / seconds
    print(
        f"\ntracker.train, synthetic pairs, {args.workers} workers, {len(records)} steps: {rate:.1f} pairs/s, "
        f"{100 * waited / seconds:.1f} % of the time waiting for data"
    )
    row = {
        "benchmark": "train",
        "competitor": "tracker.train",
        "precision": args.precision,
        "width": f"{args.width:g}",
    }
    row |= {"step_ms": f"{1e3 * seconds / len(records):.2f}", "pairs_per_s": f"{rate:.2f}"}
    results.add({**row, "workers": str(args.workers), "data_wait_percent": f"{100 * waited / seconds:.2f}"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=tuple(TOLERANCE), help="precision of all competitors")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="width of the network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for all competitors")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16, help="steps of the training loop; 0 means none")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    where = environment(args.device)
    print(f"{where['device']}, torch {where['torch']}, {args.precision}, batches of {args.batch_size}, medians in ms\n")
    results = Results(args.csv, where)
    with full_float32():
        measure_steps(args, results)
    if args.steps:
        measure_data_wait(args, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
