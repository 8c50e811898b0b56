"""Zhang et al. (EIoU): boxes regressed by each IoU loss, without a network.

This is the simulation of section 5.3, algorithm 1. Each anchor box moves to each target box by gradient descent on a
loss. All pairs of a loss move together, as one [N, 4] tensor. One fused pass computes the loss and its gradients, one
scales them to the step, and one applies the step.

The paper does not define some details and contradicts itself in others. This module uses the following:

- The unit of length. The text has targets of area 100 and centres in a 20 x 20 box. Gradients of an IoU loss are
  smaller for larger boxes, and at this size few boxes reach their targets in 200 steps of 0.1. In the example of
  section 3.1.3, a box moves much farther to a 1 x 1 target. So both units run: unit 10, as in the text, and unit 1, in
  which a square target has side 1 and all other lengths are scaled with it.
- Set-up 1 has the aspect ratios 1:4, 1:3, 1:2, 1:1, 2:1, 3:1 and 4:1 (width:height), also for anchors. The text lists
  six but says seven. A scale is an area.
- The gradient is by (x, y, w, h), centre and sides, as in equation 6. Line 10 adds it; here it is subtracted. The
  factor (2 - IoU) of the original simulation (Zheng et al. 2020) is neither in the paper nor here.
- The error is |x - xt| + |y - yt| + |w - wt| + |h - ht|, summed over all pairs (line 12) and divided by their number.
- A pair moves by the gradient of its own loss (line 10). Focal-EIoU is equation 11, a weighted mean over all pairs.
  "Focal-EIoU, eq. 10" is the loss without that normalisation. Its weights are at most 1. So it follows the path of EIoU
  with shorter steps, and cannot have the better boxes that the paper reports.
- The paper gives no threshold for high quality. Here the number of such boxes is the fraction of pairs with an IoU
  above 0.9, and their quality is the upper quartile of the IoU.
- Norms of the differences are omitted, as in the paper's figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

import fastops
from tracker.experiments.report import Row, write_report
from tracker.experiments.runs import Experiment, Where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "cxcywh"
CENTER, AREA = 10.0, 100.0  # of the targets
ITERATIONS, RATE = 200, 0.1
UNIT = 10.0  # side of a square target in the text
EXAMPLE_ITERATIONS = 50
#: Label -> function of fastops and its options. All compute the mean, weighted or not, of the pairs' losses.
LOSSES = {
    "IoU": ("iou_loss", {}),
    "GIoU": ("giou_loss", {}),
    "DIoU": ("diou_loss", {}),
    "CIoU": ("ciou_loss", {}),
    "EIoU": ("eiou_loss", {}),
    "Focal-EIoU": ("focal_eiou_loss", {"reduction": "weighted"}),
    "Focal-EIoU, eq. 10": ("focal_eiou_loss", {}),
}
#: Okabe and Ito's colours, which colour-blind people can distinguish. Each has a line style for printing in grey.
STYLES = {
    "IoU": ("#000000", ":"),
    "GIoU": ("#E69F00", "--"),
    "DIoU": ("#56B4E9", "-."),
    "CIoU": ("#009E73", (0, (3, 1, 1, 1, 1, 1))),
    "EIoU": ("#0072B2", "-"),
    "Focal-EIoU": ("#D55E00", "-"),
    "Focal-EIoU, eq. 10": ("#CC79A7", (0, (5, 1))),
}
THRESHOLDS = (0.5, 0.75, 0.9)  # IoU of high-quality boxes
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles of the IoU: whiskers, box and middle line of the box plots
REACHED = (0.95, 0.9, 0.8, 0.5)  # fractions of the first error, for the iterations until it is reached


@dataclass(frozen=True)
class Setup:
    """Anchors of each area and aspect ratio around random points, each paired with each target."""

    number: int
    figure: int
    points: int
    side: float  # side of the square around the targets' centre with the points
    areas: tuple[float, ...]
    ratios: tuple[float, ...]  # width / height, of anchors and targets

    def boxes(self, points: int, seed: int, unit: float = UNIT) -> tuple[Tensor, Tensor]:
        """Anchors and targets [points * areas * ratios * targets, 4] as (x, y, w, h), (x, y) the centre.

        A square target has sides of `unit`.
        """
        generator = torch.Generator().manual_seed(seed)
        centers = CENTER + self.side * (torch.rand(points, 2, generator=generator) - 0.5)
        sides = torch.stack([_sides(area, self.ratios) for area in self.areas]).flatten(0, 1)
        targets = torch.cat([torch.full((len(self.ratios), 2), CENTER), _sides(AREA, self.ratios)], 1)
        shape = (points, len(sides), len(targets))
        anchors = torch.cat([centers[:, None].expand(*shape[:2], 2), sides.expand(*shape[:2], 2)], 2)
        pairs = anchors[:, :, None].expand(*shape, 4), targets.expand(*shape, 4)
        return tuple(boxes.reshape(-1, 4) * (unit / UNIT) for boxes in pairs)


def _sides(area: float, ratios: Sequence[float]) -> Tensor:
    ratio = torch.tensor(ratios)
    return torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)


SETUPS = (
    Setup(1, 7, 1000, 20.0, (50, 67, 75, 100, 133, 150, 200), (1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4)),
    Setup(2, 8, 100, 2.5, (50, 100, 150), (1 / 3, 1, 3)),
)


@dataclass(frozen=True)
class Curves:
    """The results of a loss: curves over the iterations 0, 1, ..., and quantiles of the IoU after some of them."""

    error: np.ndarray  # [T + 1] mean L1 distance of a pair
    iou: np.ndarray  # [T + 1] mean
    above: np.ndarray  # [T + 1, thresholds] fraction of the pairs
    quantiles: dict[int, np.ndarray]  # iteration -> [quantiles]

    def reached(self, share: float) -> int | None:
        """The first iteration whose error is at most `share` times the first error."""
        there = np.flatnonzero(self.error <= share * self.error[0])
        return int(there[0]) if len(there) else None


def learning_rate(iteration: int, iterations: int) -> float:
    """The rate of iterations 1, 2, ...: 0.1, then 0.01 after 80 % of them and 0.001 after 90 %."""
    return RATE * (1 if 10 * iteration <= 8 * iterations else 0.1 if 10 * iteration <= 9 * iterations else 0.01)


def simulate(loss: str, anchors: Tensor, targets: Tensor, iterations: int, ops: ModuleType = fastops) -> Curves:
    """Algorithm 1 for one loss, with the ops of `fastops` or `fastops.reference`."""
    function, options = LOSSES[loss]
    mean_loss = partial(getattr(ops, function), fmt=FORMAT, **options)
    boxes, pairs = anchors.clone().requires_grad_(), len(anchors)
    quantile_levels = anchors.new_tensor(QUANTILES)
    scores = anchors.new_empty(iterations + 1, 2 + len(THRESHOLDS))  # on the device, so the host does not wait
    quantiles = {}
    for iteration in range(iterations + 1):
        if iteration > 0:
            # The backward pass of the fused losses scales existing gradients, so it can scale them to the step.
            scale = anchors.new_full((), -pairs * learning_rate(iteration, iterations))
            (step,) = torch.autograd.grad(mean_loss(boxes, targets), boxes, scale)
            with torch.no_grad():
                boxes += step
        with torch.no_grad():
            iou = 1 - ops.iou_loss(boxes, targets, FORMAT, "none")
            scores[iteration, 0] = (boxes - targets).abs().sum() / pairs
            scores[iteration, 1] = iou.mean()
            for column, threshold in enumerate(THRESHOLDS, 2):
                scores[iteration, column] = (iou > threshold).sum() / pairs
            if iteration in snapshots(iterations):
                quantiles[iteration] = torch.quantile(iou, quantile_levels)
    columns = scores.double().cpu().numpy()
    quantiles = {iteration: values.double().cpu().numpy() for iteration, values in quantiles.items()}
    return Curves(columns[:, 0], columns[:, 1], columns[:, 2:], quantiles)


def snapshots(iterations: int) -> list[int]:
    """The iterations of the box plots: the start and four quarters."""
    return sorted({round(quarter * iterations / 4) for quarter in range(5)})


# ---- the worked example of section 3.1.3 ---------------------------------------------------------------------


#: Offsets of the anchor's centre from the target's centre, in units. The paper does not give it. The second one does
#: not overlap the target. On a grid up to 5 x 5 units with steps of .1, it brings CIoU closest to the paper's values.
EXAMPLE_OFFSETS = ((0.0, 0.0), (3.8, 0.7))


def worked_example(unit: float, iterations: int = EXAMPLE_ITERATIONS) -> list[Row]:
    """Sides of an anchor of 1 x 2.4 units after some iterations towards a target of 1 x 1.

    The paper says of CIoU, in figure 1 and section 3.1.3: from (1, 2.4) to (1.64, 2.84) in 50 iterations.
    """
    rows = []
    for x, y in EXAMPLE_OFFSETS:
        for loss in ("IoU", "GIoU", "CIoU", "EIoU"):
            box = unit * torch.tensor([[x, y, 1.0, 2.4]], dtype=torch.float64)
            target = unit * torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
            for _ in range(iterations):
                box.requires_grad_()
                (gradient,) = torch.autograd.grad(getattr(fastops.reference, LOSSES[loss][0])(box, target, FORMAT), box)
                box = (box - RATE * gradient).detach()
            w, h = (box[0, 2:] / unit).tolist()
            paper = "1.64, 2.84" if loss == "CIoU" else ""
            row = {"unit": str(unit), "centres apart": f"{x}, {y}", "loss": loss, "w": w, "h": h}
            rows.append(row | {"w, h in the paper": paper})
    return rows


# ---- the statements of section 5.3 ---------------------------------------------------------------------------


def statements(unit: float, curves: dict[int, dict[str, Curves]]) -> list[Row]:
    """The statements of section 5.3: whether each one holds, and the numbers that decide it.

    Args:
        unit: the unit of the curves.
        curves: the curves by the number of the set-up and the name of the loss, for all of the paper's losses.
    """
    others, rows = ("IoU", "GIoU", "CIoU"), []

    def say(setup: int, statement: str, left: str, right: str, of, smaller: bool, factor: float = 1.0) -> None:
        a, b = (of(curves[setup][name]) for name in (left, right))
        holds = np.all(a * factor < b) if smaller else np.all(a > factor * b)
        last = [float(value if np.isscalar(value) else value[-1]) for value in (a, b)]
        figures = f"{left} {last[0]:.3f}, {right} {last[1]:.3f}"
        rows.append(
            {"unit": str(unit), "set-up": str(setup), "statement": statement, "holds": "yes" if holds else "no",
             "at the end": figures}
        )  # fmt: skip

    def error(c: Curves) -> np.ndarray:
        return c.error[1:] / c.error[0]

    def last_error(c: Curves) -> float:
        return error(c)[-1]

    def mean_iou(c: Curves) -> float:
        return c.iou[-1]

    def good(c: Curves) -> float:
        return c.above[-1, -1]

    def quartile(c: Curves) -> float:
        return c.quantiles[len(c.iou) - 1][QUANTILES.index(0.75)]

    def tail(c: Curves) -> float:
        return c.quantiles[len(c.iou) - 1][0]

    for other in others:
        say(1, f"EIoU converges faster than {other}: less error after every iteration", "EIoU", other, error, True)
    for other in others:
        say(1, f"EIoU regresses more accurately than {other}: higher mean IoU", "EIoU", other, mean_iou, False)
    say(1, "Focal-EIoU ends with more error than EIoU", "Focal-EIoU", "EIoU", last_error, False)
    for other in (*others, "EIoU"):
        say(1, f"Focal-EIoU has many more good boxes than {other}: 1.2 times", "Focal-EIoU", other, good, False, 1.2)
        say(1, f"Focal-EIoU has better good boxes than {other}: upper quartile", "Focal-EIoU", other, quartile, False)
    for other in (*others, "EIoU"):
        faster = f"Focal-EIoU converges faster than {other}: less error after every iteration"
        say(2, faster, "Focal-EIoU", other, error, True)
        say(2, f"Focal-EIoU ends with less error than {other}", "Focal-EIoU", other, last_error, True)
    say(2, "Focal-EIoU has a higher mean IoU than EIoU", "Focal-EIoU", "EIoU", mean_iou, False)
    say(2, "Focal-EIoU has the longer tail: lower 5 % quantile of the IoU", "Focal-EIoU", "EIoU", tail, True)
    return rows


# ---- the experiment ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The runs: every loss in both set-ups, in each unit, with every seed.

    Args:
        units: sides of a square target.
        seeds: each seed decides the anchor points.
        iterations: T of algorithm 1.
        points: number of anchor points of each set-up; 0 means the paper's numbers, 1000 and 100.
    """

    units: tuple[float, ...] = (10.0, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = ITERATIONS
    points: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.points < 0:
            raise ValueError(f"iterations must be at least 1 and points 0, got {self.iterations} and {self.points}")
        if not self.units or not all(unit > 0 for unit in self.units):
            raise ValueError(f"units must be above 0, got {self.units}")


QUICK = Plan(seeds=(0,), iterations=20, points=5)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """Raise an error for given data, because the boxes are random."""
    raise ValueError("--data and --eval must be left out: simulation draws its own boxes")


def runs_of(plan: Plan) -> Iterator[Row]:
    for seed in plan.seeds:
        for unit in plan.units:
            for setup in SETUPS:
                for loss in LOSSES:
                    yield {"unit": unit, "setup": setup.number, "loss": loss, "seed": seed}


def run_one(run: Row, plan: Plan, opened: None, where: Where) -> Row:
    """Run algorithm 1 for one loss."""
    setup = SETUPS[run["setup"] - 1]
    boxes = setup.boxes(plan.points or setup.points, run["seed"], run["unit"])
    c = simulate(run["loss"], *(part.to(where.device) for part in boxes), plan.iterations)
    last = c.quantiles[plan.iterations]
    row = {"error": float(c.error[-1] / c.error[0]), "mean_iou": float(c.iou[-1])}
    row |= {f"above_{t}": float(a) for t, a in zip(THRESHOLDS, c.above[-1], strict=True)}
    row |= {f"quantile_{level}": float(q) for level, q in zip(QUANTILES, last, strict=True)}
    quantiles = {str(iteration): values.tolist() for iteration, values in c.quantiles.items()}
    curves = {"error": c.error.tolist(), "iou": c.iou.tolist(), "above": c.above.tolist(), "quantiles": quantiles}
    return row | {"curves": curves}


def _mean_curves(rows: Sequence[Row]) -> Curves:
    """The curves of one loss, the mean over the seeds."""
    curves = [row["curves"] for row in rows]
    error, iou, above = (np.mean([c[key] for c in curves], 0) for key in ("error", "iou", "above"))
    quantiles = {int(i): np.mean([c["quantiles"][i] for c in curves], 0) for i in curves[0]["quantiles"]}
    return Curves(error, iou, above, quantiles)


def report(console: Console, folder: Path, rows: list[Row], plan: Plan) -> list[Row]:
    """The final result of each loss, the statements of section 5.3, the worked example, and figures 7 and 8."""
    values = ["error", "mean_iou", *(f"above_{t}" for t in THRESHOLDS), *(f"quantile_{level}" for level in QUANTILES)]
    curves: dict[float, dict[int, dict[str, Curves]]] = {}
    for row in rows:
        of_setup = curves.setdefault(row["unit"], {}).setdefault(row["setup"], {})
        if row["loss"] not in of_setup:
            same = [r for r in rows if all(r[key] == row[key] for key in ("unit", "setup", "loss"))]
            of_setup[row["loss"]] = _mean_curves(same)
    whole = [
        unit
        for unit, setups in curves.items()
        if len(setups) == 2 and all(set(c) == set(LOSSES) for c in setups.values())
    ]
    said = [line for unit in whole for line in statements(unit, curves[unit])]
    example = [line for unit in plan.units for line in worked_example(unit)]
    extra = {
        "Statements of section 5.3 (error: part of the first)": lambda table: said,
        f"Section 3.1.3: sides after {EXAMPLE_ITERATIONS} iterations, in units": lambda table: example,
    }
    plots = {
        f"unit{unit:g}_{setup}": partial(draw, setup=SETUPS[setup - 1], unit=unit, curves=curves[unit][setup])
        for unit in curves
        for setup in curves[unit]
    }
    by = ["unit", "setup", "loss"]
    return write_report(console, folder, "simulation", rows, by, values, extra=extra, plots=plots)


def draw(figure: Figure, setup: Setup, unit: float, curves: dict[str, Curves]) -> None:
    """Error curves on the left, box plots of the IoU on the right."""
    errors, overlaps = figure.subplots(1, 2, width_ratios=(5, 7))

    iterations = len(next(iter(curves.values())).error) - 1
    for share in (0.8, 0.9):
        errors.axvline(share * iterations, color="0.85", zorder=0)
    for loss, c in curves.items():
        color, line = STYLES[loss]
        errors.plot(c.error, color=color, linestyle=line, linewidth=2, label=loss)
    errors.set(
        title="(a) error: |Δx| + |Δy| + |Δw| + |Δh|, mean of the pairs",
        xlabel="iteration (grey: learning rate 0.1 → 0.01 → 0.001)", xlim=(0, iterations),
        ylabel=f"error (a square target has side {unit:g})",
    )  # fmt: skip
    errors.grid(axis="y", alpha=0.3)

    groups, width = snapshots(iterations), 0.8 / len(curves)
    stats = ("whislo", "q1", "med", "q3", "whishi")
    for place, (loss, c) in enumerate(curves.items()):
        overlaps.bxp(
            [dict(zip(stats, c.quantiles[iteration], strict=True)) for iteration in groups],
            positions=[group + width * (place + 0.5) - 0.4 for group in range(len(groups))], widths=0.85 * width,
            showfliers=False, showcaps=False, patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": STYLES[loss][0], "edgecolor": "0.3"}, medianprops={"color": "white"},
            whiskerprops={"color": "0.3"},
        )  # fmt: skip
    overlaps.set(
        title=f"(b) IoU of the pairs: quartiles, whiskers at {QUANTILES[0]:.0%} and {QUANTILES[-1]:.0%}",
        xlabel="iteration (boxes in the order of the legend)", ylabel="IoU", ylim=(-0.02, 1.02),
    )  # fmt: skip
    overlaps.set_xticks(range(len(groups)), [str(iteration) for iteration in groups])
    overlaps.grid(axis="y", alpha=0.3)

    figure.suptitle(f"Set-up {setup.number} (figure {setup.figure} of the paper), unit {unit:g}")
    figure.legend(*errors.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), handlelength=3)


EXPERIMENT = Experiment(
    name="simulation",
    paper="Zhang et al., Focal and efficient IOU loss for accurate bounding box regression",
    about="boxes that descend the gradient of each IoU loss: error, overlap, statements of section 5.3",
    plans={"quick": QUICK, "default": Plan(), "paper": Plan()},
    times={"quick": "5 s on one core", "default": "10 minutes on two cores", "paper": "as default"},
    key=("unit", "setup", "loss", "seed"),
    choices=("units", "seeds"),
    with_data=with_data,
    open=lambda plan: None,
    runs=runs_of,
    run=run_one,
    report=report,
)
