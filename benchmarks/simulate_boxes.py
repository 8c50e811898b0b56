"""Boxes regressed by each IoU loss, without a network: python -m benchmarks.simulate_boxes [--device cuda]

This is the simulation of Zhang et al., "Focal and efficient IOU loss for accurate bounding box regression" (section
5.3, algorithm 1): every anchor box descends the gradient of a loss towards every target box. For each set-up it writes
curves of the error and box plots of the IoU over the iterations, and prints a table of the final errors.
simulation_1.png is the paper's figure 7, simulation_2.png its figure 8. All curves go to simulation.csv. The pairs of a
loss advance together, as one [N, 4] tensor. An iteration takes three passes: loss and gradients, scaling of the
gradients, the step.

Where the paper leaves a choice or contradicts itself, this program does the following:

- Lengths are in the unit of the text: targets of area 100 at (10, 10), centres of anchors in a 20 x 20 box about it.
  Boxes are about 10 wide, and the gradient of an IoU is about 1/10 per unit. So 200 steps of 0.1 bring few boxes to
  their targets, and the curves compare the pace. More --iterations show the end.
- Set-up 1 uses the aspect ratios 1:4, 1:3, 1:2, 1:1, 2:1, 3:1 and 4:1 (width:height) for anchors too. The text lists
  six ratios but counts seven. A scale is an area.
- The gradient is that of (x, y, w, h), centre and sides, as in eq. 6. Line 10 prints it with a plus; here it is
  descended. The factor (2 - IoU) of the original simulation (Zheng et al. 2020) is not in the paper and not used here.
- The error is |x - xt| + |y - yt| + |w - wt| + |h - ht|, summed over all pairs (line 12) and divided by their number.
- A pair moves by the gradient of its own loss (line 10). This is the gradient of the sum over the N pairs, or N times
  that of their mean. Focal-EIoU is eq. 11, a weighted mean over all pairs; its gradient is multiplied by N too.
  "Focal-EIoU, eq. 10" is the loss without that normalisation. Its weights are constants of the gradient and at most 1.
  So it follows EIoU with shorter steps, and cannot have the better boxes that the paper reports. With eq. 11, boxes
  with more than the average weight take longer steps than EIoU's.
- The paper gives no threshold for high-quality boxes. Here their number is the share of pairs with an IoU above 0.5,
  0.75 and 0.9. Their quality is the mean IoU and its upper quartile (the top of a box in the box plots).
- The losses are those of the figures, and DIoU. Norms of the differences are left out, as in the paper: their gradients
  do not shrink with the size of the boxes, so the same step would compare units, not losses.

Results (200 iterations, both set-ups): the error of EIoU is below those of IoU, GIoU, DIoU and CIoU after every
iteration. Focal-EIoU has the highest mean IoU and upper quartile, the most boxes above 0.9, and a longer lower tail
than EIoU. Two statements of the paper are not reproduced. In set-up 1 the paper's error of Focal-EIoU is above EIoU's.
Here it is below (21.04 and 21.36) as long as good boxes are still moving, and above in a longer run (14.76 and 14.03
after --iterations 1000). In set-up 2 the paper's error of Focal-EIoU is the lowest of all. Here it is the lowest for
the first 42 iterations; then EIoU's is (10.20 and 10.08 in the end). Most of the error comes from boxes with little
overlap, and their steps are shorter than EIoU's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

import fastops
from benchmarks.harness import append_rows, environment, print_table
from tracker.installed import install_hint
from tracker.io.files import replacing

FORMAT = "cxcywh"
CENTER, AREA = 10.0, 100.0  # of the targets
ITERATIONS, RATE = 200, 0.1
#: Label -> function of fastops and its options. All take the mean, weighted or not, of the pairs' losses.
LOSSES = {
    "IoU": ("iou_loss", {}),
    "GIoU": ("giou_loss", {}),
    "DIoU": ("diou_loss", {}),
    "CIoU": ("ciou_loss", {}),
    "EIoU": ("eiou_loss", {}),
    "Focal-EIoU": ("focal_eiou_loss", {"reduction": "weighted"}),
    "Focal-EIoU, eq. 10": ("focal_eiou_loss", {}),
}
#: Okabe and Ito's colours, for colour-blind readers; a line style each, for print in grey.
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
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the IoU: whiskers, box and middle line of the box plots
REACHED = (0.95, 0.9, 0.8, 0.5)  # shares of the first error, for the iterations that it takes to get there


@dataclass(frozen=True)
class Setup:
    """Anchors of each area and aspect ratio about random points, each paired with each target."""

    number: int
    figure: int
    points: int
    side: float  # of the square about the targets' centre in which the points lie
    areas: tuple[float, ...]
    ratios: tuple[float, ...]  # width / height, of anchors and targets

    def boxes(self, points: int, seed: int) -> tuple[Tensor, Tensor]:
        """Anchors and targets [points * areas * ratios * targets, 4] as (x, y, w, h), (x, y) the centre."""
        generator = torch.Generator().manual_seed(seed)
        centers = CENTER + self.side * (torch.rand(points, 2, generator=generator) - 0.5)
        sides = torch.stack([_sides(area, self.ratios) for area in self.areas]).flatten(0, 1)
        targets = torch.cat([torch.full((len(self.ratios), 2), CENTER), _sides(AREA, self.ratios)], 1)
        shape = (points, len(sides), len(targets))
        anchors = torch.cat([centers[:, None].expand(*shape[:2], 2), sides.expand(*shape[:2], 2)], 2)
        return anchors[:, :, None].expand(*shape, 4).reshape(-1, 4), targets.expand(*shape, 4).reshape(-1, 4)


def _sides(area: float, ratios: Sequence[float]) -> Tensor:
    ratio = torch.tensor(ratios)
    return torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)


SETUPS = (
    Setup(1, 7, 1000, 20.0, (50, 67, 75, 100, 133, 150, 200), (1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4)),
    Setup(2, 8, 100, 2.5, (50, 100, 150), (1 / 3, 1, 3)),
)


@dataclass(frozen=True)
class Curves:
    """The errors and IoUs of a loss after 0, 1, ... iterations, and quantiles of the IoU after some of them."""

    error: np.ndarray  # [T + 1] L1 distance of a pair, on average
    iou: np.ndarray  # [T + 1] mean
    above: np.ndarray  # [T + 1, thresholds] share of the pairs
    quantiles: dict[int, np.ndarray]  # iteration -> [quantiles]
    seconds: float

    def reached(self, share: float) -> int | None:
        """The first iteration whose error is at most `share` of the first error."""
        there = np.flatnonzero(self.error <= share * self.error[0])
        return int(there[0]) if len(there) else None


def learning_rate(iteration: int, iterations: int) -> float:
    """Of iteration 1, 2, ...: 0.1, after 80 % of them 0.01, after 90 % 0.001."""
    return RATE * (1 if 10 * iteration <= 8 * iterations else 0.1 if 10 * iteration <= 9 * iterations else 0.01)


def simulate(loss: str, anchors: Tensor, targets: Tensor, iterations: int, ops: ModuleType = fastops) -> Curves:
    """Algorithm 1 for one loss, with the ops of ``fastops`` or ``fastops.reference``."""
    function, options = LOSSES[loss]
    mean_loss = partial(getattr(ops, function), fmt=FORMAT, **options)
    boxes, pairs = anchors.clone().requires_grad_(), len(anchors)
    quantile_levels = anchors.new_tensor(QUANTILES)
    scores = anchors.new_empty(iterations + 1, 2 + len(THRESHOLDS))  # on the device: nothing waits for it
    quantiles = {}
    start = time.perf_counter()
    for iteration in range(iterations + 1):
        if iteration > 0:
            # The backward of the fused losses scales gradients that are there already: let it scale them to the step.
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
    return Curves(columns[:, 0], columns[:, 1], columns[:, 2:], quantiles, time.perf_counter() - start)


def snapshots(iterations: int) -> list[int]:
    """The iterations of the box plots: the start and four quarters."""
    return sorted({round(quarter * iterations / 4) for quarter in range(5)})


def print_results(curves: dict[str, Curves]) -> None:
    header = ["loss", "error", "of the first", *(f"to {share:.0%}" for share in REACHED)]
    header += ["mean IoU", "upper quartile", *(f"IoU > {t}" for t in THRESHOLDS), "seconds"]
    rows = []
    for loss, c in curves.items():
        reached = [str(c.reached(share) or "-") for share in REACHED]
        quality = [c.iou[-1], c.quantiles[len(c.iou) - 1][QUANTILES.index(0.75)]]
        row = [loss, f"{c.error[-1]:.3f}", f"{c.error[-1] / c.error[0]:.1%}", *reached]
        rows.append([*row, *(f"{q:.3f}" for q in quality), *(f"{a:.1%}" for a in c.above[-1]), f"{c.seconds:.1f}"])
    print_table(header, rows)


def curve_rows(setup: Setup, curves: dict[str, Curves]) -> Iterator[dict[str, object]]:
    for loss, c in curves.items():
        for iteration in range(len(c.error)):
            row = {"setup": setup.number, "loss": loss, "iteration": iteration}
            row |= {"error": f"{c.error[iteration]:.6g}", "mean_iou": f"{c.iou[iteration]:.6g}"}
            row |= {f"iou_above_{t}": f"{a:.6g}" for t, a in zip(THRESHOLDS, c.above[iteration], strict=True)}
            if iteration in c.quantiles:
                levels = zip(QUANTILES, c.quantiles[iteration], strict=True)
                row |= {f"iou_quantile_{level}": f"{value:.6g}" for level, value in levels}
            yield row


def check_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        advice = f"{install_hint('plot')}, or leave the plots out with --no-plot"
        raise SystemExit(f"simulate_boxes: the plots need matplotlib: {advice}") from error


def plot(path: Path, setup: Setup, pairs: int, curves: dict[str, Curves]) -> None:
    """Error curves on the left, box plots of the IoU on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.6), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no display
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
        ylabel="error (length units, a square target is 10 wide)",
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

    figure.suptitle(f"Set-up {setup.number} (figure {setup.figure} of the paper): {pairs:,} anchor-target pairs")
    figure.legend(*errors.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), handlelength=3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--backend", default="fastops", choices=("fastops", "reference"), help="fused ops, or eager ones"
    )
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--points", type=int, help="anchor points of each set-up (default: the paper's, 1000 and 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the anchor points")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("simulation"), help="where the files go (default: %(default)s)"
    )
    parser.add_argument("--no-plot", action="store_true", help="only the table and the CSV file")
    args = parser.parse_args(arguments)
    for name in ("iterations", "points"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if not args.no_plot:
        check_matplotlib()
    where = environment(args.device)
    ops = fastops if args.backend == "fastops" else fastops.reference
    print(f"{where['device']}, torch {where['torch']}, {args.backend}, {args.iterations} iterations, seed {args.seed}")

    rows, files = [], [args.output_dir / "simulation.csv"]
    for setup in SETUPS:
        anchors, targets = (boxes.to(args.device) for boxes in setup.boxes(args.points or setup.points, args.seed))
        curves = {loss: simulate(loss, anchors, targets, args.iterations, ops) for loss in LOSSES}
        first = next(iter(curves.values())).error[0]
        print(f"\nSet-up {setup.number}: {len(anchors)} pairs, error at first {first:.3f} length units per pair;")
        print('"to 95%": iterations until the error is 95 % of that\n')
        print_results(curves)
        rows += curve_rows(setup, curves)
        if not args.no_plot:
            files.append(args.output_dir / f"simulation_{setup.number}.png")
            plot(files[-1], setup, len(anchors), curves)
    with replacing(files[0]) as temporary:
        append_rows(temporary, rows)
    print("\nwrote " + ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
