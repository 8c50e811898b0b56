"""Hu et al.: activations with and without learnable shape, under several optimizers, in several networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from tracker.experiments.classifiers import ACTIVATIONS, NETWORKS, initialise
from tracker.experiments.images import ImageSet, load_images
from tracker.experiments.report import Row, print_grid, write_report
from tracker.experiments.runs import Experiment, Where

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
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 20
    batch_size: int = 64
    width: int = 16
    images: int | None = None  # to train on; None is all
    data: str = ""  # folder of images; "" is scikit-learn's digits


QUICK = Plan(networks=("AlexNet",), seeds=(0, 1), epochs=4, batch_size=32, width=8, images=640)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """A plan that trains on the images in the folder `data`."""
    if evaluate or len(data) != 1:
        raise ValueError("--data must be one folder of images, and --eval be left out, for activations")
    return replace(plan, data=data[0])


def open_images(plan: Plan) -> ImageSet:
    """The images that the plan names."""
    return load_images(Path(plan.data) if plan.data else None)


def runs_of(plan: Plan) -> Iterator[Row]:
    """All runs of one seed before those of the next."""
    for seed in plan.seeds:
        for network in plan.networks:
            for optimizer in plan.optimizers:
                for activation in plan.activations:
                    yield {"network": network, "activation": activation, "optimizer": optimizer, "seed": seed}


def run_one(run: Row, plan: Plan, images: ImageSet, where: Where) -> Row:
    """Train one classifier and test it."""
    return train_one(images, run["network"], run["optimizer"], run["activation"], run["seed"], plan, where.device)


def report(console: Console, folder: Path, runs: list[Row], plan: Plan) -> list[Row]:
    """A table and a plot of all runs, and a grid of activations and optimizers for each network."""
    by, values = ("network", "activation", "optimizer"), ("accuracy", "loss_area", "diverged", "seconds")
    size = (11, 3.2 * len(plan.networks))
    rows = write_report(console, folder, "activations", runs, by, values, _draw, size=size, show=False)
    for value in ("accuracy", "loss_area"):
        for network in dict.fromkeys(row["network"] for row in rows):
            chosen = [row for row in rows if row["network"] == network]
            print_grid(console, f"{network}: {value.replace('_', ' ')}", chosen, "activation", "optimizer", value)
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
    losses, diverged = [], False
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
        "accuracy": accuracy(model, *(part.to(device) for part in images.test)),
        "loss_area": sum(losses) / max(1, len(losses)),
        "diverged": float(diverged),
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
    activations, optimizers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("activation", "optimizer"))
    for axis, network in zip(axes, networks, strict=True):
        for k, activation in enumerate(activations):
            chosen = [row for row in rows if (row["network"], row["activation"]) == (network, activation)]
            places = [i + (k - (len(activations) - 1) / 2) * 0.09 for i in range(len(chosen))]
            deviations = [0.0 if math.isnan(row["accuracy_std"]) else row["accuracy_std"] for row in chosen]
            axis.bar(places, [row["accuracy"] for row in chosen], 0.08, yerr=deviations, label=activation)
        axis.set_xticks(range(len(optimizers)), optimizers)
        axis.set(ylabel="test accuracy", title=network, ylim=(0, 1))
        axis.grid(axis="y", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")


EXPERIMENT = Experiment(
    name="activations",
    paper="Hu et al., Adaptively customizing activation functions for various layers",
    about="activation functions, optimizers, networks: test accuracy, speed of convergence",
    plans={"quick": QUICK, "default": Plan()},
    times={"quick": "1 minute on one core", "default": "3 hours on two cores, on digits"},
    key=("network", "activation", "optimizer", "seed"),
    choices=("networks", "activations", "optimizers", "seeds"),
    with_data=with_data,
    open=open_images,
    runs=runs_of,
    run=run_one,
    report=report,
)
