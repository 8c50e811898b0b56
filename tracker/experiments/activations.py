"""Hu et al.: activations with and without learnable parameters, with several optimizers, in several networks."""

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

import fastops.nn
from tracker.experiments.classifiers import ACTIVATIONS, NETWORKS, initialise
from tracker.experiments.images import ImageSet, load_images
from tracker.experiments.report import Row, write_report
from tracker.experiments.runs import Experiment, Where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name -> optimizer, its options, and its learning rate if the plan has none. All activations have the same rate. Of
#: three rates with a factor of three between them, it gave ReLU the smallest loss area on the digits in 6 epochs, in
#: small networks.
OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {}, 0.03),
    "Momentum": (torch.optim.SGD, {"momentum": 0.9}, 0.03),
    "AdaGrad": (torch.optim.Adagrad, {}, 0.01),
    "AdaDelta": (torch.optim.Adadelta, {}, 1.0),
    "Adam": (torch.optim.Adam, {}, 3e-3),
}
#: Tables 1 and 2 of the paper: test accuracy on CIFAR-10 with SGD. NaN means that training does not converge.
PAPER_NETWORKS = ("AlexNet", "VGG", "GoogLeNet", "ResNet", "DenseNet")
PAPER_ACCURACY = {
    "Sigmoid": (0.8141, 0.8680, 0.8027, 0.8079, 0.7611),
    "ASigmoid": (0.8469, 0.8819, 0.8517, 0.8087, 0.9076),
    "Tanh": (0.8043, 0.8841, 0.8433, 0.5784, 0.8966),
    "ATanh": (0.7900, 0.8904, 0.8342, 0.6014, 0.9163),
    "ReLU": (0.8351, 0.8800, 0.8733, 0.6641, 0.9242),
    "LReLU": (0.8255, 0.9253, 0.8742, 0.6698, 0.9289),
    "PReLU": (0.8558, 0.9344, 0.8551, 0.6522, 0.9231),
    "Swish": (0.7557, 0.9171, 0.8710, 0.6446, 0.9276),
    "PELU": (math.nan, math.nan, 0.8128, 0.7891, math.nan),
    "FReLU": (math.nan, 0.8558, 0.8694, 0.8726, 0.8214),
    "AReLU": (0.8331, 0.8328, 0.8773, 0.9230, 0.9538),
}
#: Tables 3 and 4: the same on CIFAR-100. The paper does not describe its VGG-v.
PAPER_ACCURACY_100 = {
    "Sigmoid": (0.4662, 0.5545, 0.2561), "ASigmoid": (0.5312, 0.6578, 0.6103), "Tanh": (0.5058, 0.6007, 0.5960),
    "ATanh": (0.5236, 0.6166, 0.6734), "ReLU": (0.5701, 0.6972, 0.5616), "LReLU": (0.5500, 0.6991, 0.6914),
    "PReLU": (0.5325, 0.6838, 0.5781), "Swish": (0.5519, 0.6729, 0.7079), "PELU": (math.nan,) * 3,
    "FReLU": (math.nan, 0.1534, 0.1325), "AReLU": (0.5647, 0.7005, 0.7081),
}  # fmt: skip
#: Table 5: the networks, activations and accuracies with each of `OPTIMIZERS`, in their order.
PAPER_OPTIMIZERS = {
    ("GoogLeNet", "ReLU"): (0.8733, 0.8951, 0.6065, 0.5686, 0.8797),
    ("GoogLeNet", "LReLU"): (0.8742, 0.8498, 0.6623, 0.6521, 0.8654),
    ("GoogLeNet", "PReLU"): (0.8551, 0.8138, 0.6278, 0.5367, 0.8177),
    ("GoogLeNet", "Swish"): (0.8710, 0.8772, 0.6747, 0.6139, 0.8743),
    ("GoogLeNet", "AReLU"): (0.8773, 0.8651, 0.7408, 0.7221, 0.8910),
    ("ResNet", "ReLU"): (0.6641, 0.6274, 0.4253, 0.3553, 0.8519),
    ("ResNet", "LReLU"): (0.6698, 0.6635, 0.5162, 0.4046, 0.8065),
    ("ResNet", "PReLU"): (0.6522, 0.6325, 0.3493, 0.2846, 0.7889),
    ("ResNet", "Swish"): (0.6446, 0.6099, 0.4032, 0.3112, 0.8909),
    ("ResNet", "AReLU"): (0.9230, 0.7862, 0.7341, 0.7155, 0.8805),
}
LAYERS = (1, 5, 9)  # numbers of the convolutions whose weights figure 4 shows


@dataclass(frozen=True)
class Plan:
    """The runs: the combinations of tables 1, 2 and 5, for every seed.

    With SGD, every activation runs in every network. With the other optimizers, the combinations of table 5 run.

    Args:
        networks, activations, optimizers: names of `NETWORKS`, `ACTIVATIONS` and `OPTIMIZERS`.
        seeds: each seed decides the initial weights and the order of the images.
        epochs, batch_size: number of epochs, and images per batch.
        lr: initial learning rate; 0 means the rate of `OPTIMIZERS`.
        drops: how often the rate is divided by 10, after equal parts of the training.
        width, depth: factors on the paper's channels and numbers of blocks.
        init: initial values of AReLU, "relu" or "paper".
        images: number of training images; 0 means all.
        data: folder of images; "" means scikit-learn's digits.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    activations: tuple[str, ...] = tuple(ACTIVATIONS)
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 15
    batch_size: int = 64
    lr: float = 0.0
    drops: int = 0
    width: float = 0.125
    depth: float = 0.25
    init: str = "relu"
    images: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        known = {"networks": NETWORKS, "activations": ACTIVATIONS, "optimizers": OPTIMIZERS}
        for field, names in known.items():
            if unknown := [name for name in getattr(self, field) if name not in names]:
                raise ValueError(f"{field} must be among {', '.join(names)}, got {unknown[0]!r}")
        if self.init not in ("relu", "paper"):
            raise ValueError(f"init must be one of relu, paper, got {self.init!r}")
        for field in ("epochs", "batch_size", "width", "depth"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0, got {getattr(self, field)}")


QUICK = Plan(
    networks=("AlexNet", "GoogLeNet"), optimizers=("SGD", "Adam"), seeds=(0,), epochs=2, batch_size=32, width=0.05,
    images=320,
)  # fmt: skip
#: Section 5.2: at least 80 epochs with batches of 64, and rates of .001, .0001 and .00001. Section 5.3, on CIFAR-100,
#: has 150 epochs with batches of 250: --set epochs=150 --set batch_size=250.
FULL = Plan(epochs=80, lr=1e-3, drops=2, width=1.0, depth=1.0)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """A plan that trains on the images in the folder `data`."""
    if evaluate or len(data) != 1:
        raise ValueError("--data must be one folder of images, and --eval be left out, for activations")
    return replace(plan, data=data[0])


def open_images(plan: Plan) -> ImageSet:
    """The images that the plan names."""
    return load_images(Path(plan.data) if plan.data else None)


def runs_of(plan: Plan) -> Iterator[Row]:
    """The runs. All runs of one seed come before those of the next seed."""
    for seed in plan.seeds:
        for network in plan.networks:
            for activation in plan.activations:
                for optimizer in plan.optimizers:
                    if optimizer == "SGD" or (network, activation) in PAPER_OPTIMIZERS:
                        yield {"network": network, "activation": activation, "optimizer": optimizer, "seed": seed}


def run_one(run: Row, plan: Plan, images: ImageSet, where: Where) -> Row:
    """Train one classifier and test it."""
    return train_one(images, run["network"], run["optimizer"], run["activation"], run["seed"], plan, where.device)


def report(console: Console, folder: Path, runs: list[Row], plan: Plan) -> list[Row]:
    """Tables 1, 2 (3, 4 for CIFAR-100) and 5, with the paper's values, and figures 3, 4 and 6 to 8."""
    by, values = ("network", "activation", "optimizer"), ("accuracy", "loss_area", "diverged", "seconds")
    hundred = runs[0]["data"] == "CIFAR-100"
    names = ("Tables 3 and 4", "AlexNet VGG DenseNet".split(), PAPER_ACCURACY_100)
    title, networks, accuracy = names if hundred else ("Tables 1 and 2", PAPER_NETWORKS, PAPER_ACCURACY)
    extra = {
        f"{title}: test accuracy with SGD, here on {runs[0]['data']}": partial(
            _beside, across="network", columns=networks, paper={("SGD", name): row for name, row in accuracy.items()}
        ),
        f"Table 5: test accuracy, here on {runs[0]['data']}": partial(
            _beside, across="optimizer", columns=tuple(OPTIMIZERS), paper={} if hundred else PAPER_OPTIMIZERS
        ),
    }
    plots = {"curves": partial(_draw_curves, runs=runs)}
    if any(run["optimizer"] != "SGD" for run in runs):
        plots["optimizers"] = partial(_draw_optimizers, runs=runs)
    if any(run["shapes"] for run in runs):
        plots["shapes"] = partial(_draw_shapes, runs=runs)
    if {"ReLU", "AReLU"} <= {run["activation"] for run in runs}:
        plots["increments"] = partial(_draw_increments, runs=runs)
    size = (11, 3.2 * len({run["network"] for run in runs}))
    return write_report(
        console, folder, "activations", runs, by, values, _draw, size=size, extra=extra, plots=plots, show=False
    )


def _beside(table: Sequence[Row], across: str, columns: Sequence[str], paper: dict[tuple[str, str], Sequence[float]]):
    """A grid of activations against another column. Above each line of our values is a line of the paper's."""
    down = "optimizer" if across == "network" else "network"
    lines = []
    for key in dict.fromkeys((row[down], row["activation"]) for row in table):
        if key not in paper:
            continue
        found = {row[across]: row for row in table if (row[down], row["activation"]) == key}
        shown = [column for column in columns if any(row[across] == column for row in table)]
        theirs = {column: paper[key][columns.index(column)] for column in shown}
        base = {down: key[0], "activation": key[1]}
        lines.append(base | {"source": "paper"} | theirs)
        ours = {column: found[column]["accuracy"] if column in found else None for column in shown}
        stds = {f"{column}_std": found[column]["accuracy_std"] for column in shown if column in found}
        lines.append(base | {"source": "here"} | ours | stds)
    return lines


def _mean(rows: Sequence[Row], of) -> list[float]:
    """The mean over runs, epoch by epoch. A run that diverged ends early."""
    series = [of(row) for row in rows]
    length = min(len(one) for one in series)
    return [sum(one[k] for one in series) / len(series) for k in range(length)]


def _draw_curves(figure: Figure, runs: Sequence[Row]) -> None:
    """Figure 6: training loss per epoch with SGD, with a panel for each network."""
    networks = list(dict.fromkeys(run["network"] for run in runs))
    panels = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    for axes, network in zip(panels, networks, strict=True):
        for activation in dict.fromkeys(run["activation"] for run in runs):
            chosen = [
                r for r in runs if (r["network"], r["activation"], r["optimizer"]) == (network, activation, "SGD")
            ]
            if chosen:
                axes.plot(_mean(chosen, lambda run: run["losses"]), label=activation)
        axes.set(title=network, xlabel="epoch", yscale="log")
    panels[0].set(ylabel="training loss")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)


def _draw_optimizers(figure: Figure, runs: Sequence[Row]) -> None:
    """Figures 7 and 8: training loss with each optimizer. The last panel of a row has AReLU with all optimizers."""
    networks = [n for n in NETWORKS if any(r["network"] == n and r["optimizer"] != "SGD" for r in runs)]
    optimizers = [o for o in OPTIMIZERS if any(run["optimizer"] == o for run in runs)]
    panels = figure.subplots(len(networks), len(optimizers) + 1, squeeze=False, sharex=True)
    for row, network in zip(panels, networks, strict=True):
        for activation in dict.fromkeys(activation for _, activation in PAPER_OPTIMIZERS):
            for axes, optimizer in zip(row, optimizers, strict=False):
                key = (network, activation, optimizer)
                chosen = [r for r in runs if (r["network"], r["activation"], r["optimizer"]) == key]
                if chosen:
                    curve = _mean(chosen, lambda run: run["losses"])
                    axes.plot(curve, label=activation)
                    if activation == "AReLU":
                        row[-1].plot(curve, label=optimizer)
                axes.set(title=f"{network}, {optimizer}", yscale="log")
        row[-1].set(title=f"{network}, AReLU", yscale="log")
        row[-1].legend(fontsize="x-small")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)


def _draw_shapes(figure: Figure, runs: Sequence[Row]) -> None:
    """Figure 3: the learned ASigmoid, ATanh and AReLU of the first run of each, with a line for each layer."""
    x = torch.linspace(-4, 4, 161)
    kinds = {"ASigmoid": torch.sigmoid, "ATanh": torch.tanh, "AReLU": None}
    panels = figure.subplots(1, len(kinds))
    for axes, (kind, function) in zip(panels, kinds.items(), strict=True):
        chosen = [run for run in runs if run["activation"] == kind and run["shapes"]]
        for layer, (a, b, c, d) in enumerate(chosen[0]["shapes"] if chosen else (), 1):
            y = torch.maximum(a * x + c, b * x + d) if function is None else b * function(a * x + c) + d
            axes.plot(x, y, label=str(layer))
        axes.set(title=f"{kind}, {chosen[0]['network']}, {chosen[0]['optimizer']}" if chosen else kind, xlabel="x")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="activation, by layer")


def _draw_increments(figure: Figure, runs: Sequence[Row]) -> None:
    """Figure 4: change of the weights per epoch in some convolutions, for ReLU and AReLU with SGD."""
    networks = list(dict.fromkeys(run["network"] for run in runs))
    panels = figure.subplots(len(networks), len(LAYERS), squeeze=False)
    for row, network in zip(panels, networks, strict=True):
        for activation in ("ReLU", "AReLU"):
            chosen = [
                r for r in runs if (r["network"], r["activation"], r["optimizer"]) == (network, activation, "SGD")
            ]
            for axes, layer in zip(row, LAYERS, strict=True):
                if chosen and str(layer) in chosen[0]["increments"]:
                    axes.plot(_mean(chosen, lambda run, key=str(layer): run["increments"][key]), label=activation)
                axes.set_title(f"{network}, convolution {layer}", fontsize="small")
    panels[0][0].legend(fontsize="small")


def train_one(
    images: ImageSet, network: str, optimizer: str, activation: str, seed: int, plan: Plan, device: torch.device
) -> Row:
    """Train one classifier.

    Returns:
        - accuracy: accuracy on the test images at the end.
        - loss_area: mean training loss over all steps, the area under the convergence curve. Smaller is faster.
        - diverged: 1 if the loss became NaN or infinite, which stops the training.
        - losses: mean training loss of each epoch.
        - increments: root mean square change of the weights of some convolutions in each epoch.
        - shapes: a, b, c, d of each adaptive activation at the end.
    """
    torch.manual_seed(seed)
    pixels, labels = (part[: plan.images or None].to(device) for part in images.train)
    make = ACTIVATIONS[activation] if activation != "AReLU" else partial(fastops.nn.AReLU, init=plan.init)
    model = NETWORKS[network](pixels.shape[1], images.classes, make, plan.width, plan.depth)
    initialise(model)
    model.to(device)
    kind, options, lr = OPTIMIZERS[optimizer]
    lr = plan.lr or lr
    steps = kind(model.parameters(), lr=lr, **options)
    convolutions = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    followed = {str(layer): convolutions[layer - 1] for layer in LAYERS if layer <= len(convolutions)}
    increments: dict[str, list[float]] = {layer: [] for layer in followed}
    generator = torch.Generator().manual_seed(seed)  # the same order of images for all activations
    losses, epochs, diverged = [], [], False
    for epoch in range(plan.epochs):
        before = {layer: weight.detach().clone() for layer, weight in followed.items()}
        for group in steps.param_groups:
            group["lr"] = lr * 0.1 ** (epoch * (plan.drops + 1) // plan.epochs)
        first = len(losses)
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
        epochs.append(sum(losses[first:]) / len(losses[first:]))
        for layer, weight in followed.items():
            increments[layer].append(float((weight.detach() - before[layer]).square().mean().sqrt()))
    adaptive = [m for m in model.modules() if isinstance(m, (fastops.nn.ASigmoid, fastops.nn.ATanh, fastops.nn.AReLU))]
    return {
        "data": images.name,
        "accuracy": accuracy(model, *(part.to(device) for part in images.test)),
        "loss_area": sum(losses) / max(1, len(losses)),
        "diverged": float(diverged),
        "losses": epochs,
        "increments": increments,
        "shapes": [[getattr(m, name).item() for name in "abcd"] for m in adaptive],
    }


@torch.no_grad()
def accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """The fraction of images that the model, in eval mode, classifies correctly."""
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
    plans={"quick": QUICK, "default": Plan(), "paper": FULL},
    times={
        "quick": "1 minute on one core",
        "default": "2 hours on two cores, on digits",
        "paper": "weeks on a GPU; needs --data",
    },
    key=("network", "activation", "optimizer", "seed"),
    choices=("networks", "activations", "optimizers", "seeds"),
    with_data=with_data,
    open=open_images,
    runs=runs_of,
    run=run_one,
    report=report,
)
