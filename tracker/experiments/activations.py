"""Paper 003: activations with and without learnable shape, under five optimizers, in three kinds of network."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from tracker.experiments.classifiers import ACTIVATIONS, NETWORKS, initialise
from tracker.experiments.images import ImageSet, load_images
from tracker.experiments.report import Row, print_grid, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The learning rate of each is the same for all activations: of three, a factor of three apart, the one that gave ReLU
#: the least loss area on the digits in 6 epochs, summed over the networks.
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.03),
    "Momentum": partial(torch.optim.SGD, lr=0.03, momentum=0.9),
    "AdaGrad": partial(torch.optim.Adagrad, lr=0.01),
    "AdaDelta": partial(torch.optim.Adadelta, lr=1.0),
    "Adam": partial(torch.optim.Adam, lr=3e-3),
}


@dataclass(frozen=True)
class Plan:
    """What is run: every activation with every optimizer in every network from every seed."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 20
    batch_size: int = 64
    width: int = 16
    images: int | None = None  # to train on; None is all


QUICK = Plan(networks=("AlexNet",), seeds=(0, 1), epochs=4, batch_size=32, width=8, images=640)


open_data = load_images


def run(folder: Path, console: Console, images: ImageSet, *, quick: bool = False) -> list[Row]:
    """Run the experiment, print its table and leave it in `folder`; return the rows of the table."""
    plan = QUICK if quick else Plan()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    console.print(
        f"{images.name}: {len(ACTIVATIONS)} activations, {len(OPTIMIZERS)} optimizers, {', '.join(plan.networks)}, "
        f"{len(plan.seeds)} seeds, {plan.epochs} epochs each on {device}",
        highlight=False,
    )
    runs = []
    for network in plan.networks:
        for activation in ACTIVATIONS:
            for optimizer in OPTIMIZERS:
                runs += [train_one(images, network, optimizer, activation, seed, plan, device) for seed in plan.seeds]
            trained = sum(row["seconds"] for row in runs)
            console.print(f"  {network}, {activation}: after {trained:.0f} s", highlight=False)
    by, values = ("network", "activation", "optimizer"), ("accuracy", "loss_area", "diverged", "seconds")
    rows = report(
        console, folder, "activations", runs, by, values, _draw, size=(11, 3.2 * len(plan.networks)), show=False
    )
    for value in ("accuracy", "loss_area"):
        for network in plan.networks:
            chosen = [row for row in rows if row["network"] == network]
            print_grid(
                console,
                f"{images.name}, {network}: {value.replace('_', ' ')}",
                chosen,
                "activation",
                "optimizer",
                value,
            )
    return rows


def train_one(
    images: ImageSet, network: str, optimizer: str, activation: str, seed: int, plan: Plan, device: torch.device
) -> Row:
    """Train one classifier.

    Returns:
        accuracy on the test images at the end; loss_area, the mean training loss over all steps, which is the area
        under the convergence curve: the smaller, the faster; diverged, 1 where the loss became NaN or infinite and the
        training stopped there.
    """
    torch.manual_seed(seed)
    pixels, labels = (part[: plan.images].to(device) for part in images.train)
    model = NETWORKS[network](pixels.shape[1], images.classes, ACTIVATIONS[activation], plan.width)
    initialise(model)
    model.to(device)
    steps = OPTIMIZERS[optimizer](model.parameters())
    generator = torch.Generator().manual_seed(seed)  # the same order of images for all activations
    began, losses, diverged = time.perf_counter(), [], False
    for _ in range(plan.epochs):
        for batch in torch.randperm(len(labels), generator=generator).to(device).split(plan.batch_size):
            loss = F.cross_entropy(model(pixels[batch]), labels[batch])
            diverged = not math.isfinite(loss.item())
            if diverged:
                break
            losses.append(loss.item())
            steps.zero_grad()
            loss.backward()
            steps.step()
        if diverged:
            break
    return {
        "network": network,
        "optimizer": optimizer,
        "activation": activation,
        "seed": seed,
        "accuracy": accuracy(model, *(part.to(device) for part in images.test)),
        "loss_area": sum(losses) / max(1, len(losses)),
        "diverged": float(diverged),
        "seconds": time.perf_counter() - began,
    }


@torch.no_grad()
def accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Part of the images that get their own label, the model in eval mode."""
    model.eval()
    found = torch.cat([model(batch).argmax(1) for batch in pixels.split(1000)])
    return float((found == labels).float().mean())


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    networks = list(dict.fromkeys(row["network"] for row in rows))
    axes = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    for axis, network in zip(axes, networks, strict=True):
        for k, activation in enumerate(ACTIVATIONS):
            chosen = [row for row in rows if (row["network"], row["activation"]) == (network, activation)]
            places = [i + (k - (len(ACTIVATIONS) - 1) / 2) * 0.09 for i in range(len(chosen))]
            deviations = [0.0 if math.isnan(row["accuracy_std"]) else row["accuracy_std"] for row in chosen]
            axis.bar(places, [row["accuracy"] for row in chosen], 0.08, yerr=deviations, label=activation)
        axis.set_xticks(range(len(OPTIMIZERS)), list(OPTIMIZERS))
        axis.set(ylabel="test accuracy", title=network, ylim=(0, 1))
        axis.grid(axis="y", alpha=0.3)
    axes[0].legend(ncols=len(ACTIVATIONS), fontsize="small", loc="lower center")
