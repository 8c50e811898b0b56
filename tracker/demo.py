"""The demonstration: a synthetic video with known boxes, tracked by the packaged weights, and what the ops gain."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tracker import SiamFC, Tracker
from tracker.background import WriteBehind
from tracker.checkpoint import load_model
from tracker.data.synthetic import SyntheticVideo
from tracker.draw import VideoWriter, annotate, write_boxes
from tracker.eval.metrics import iou
from tracker.files import replacing
from tracker.pretrained import PRETRAINED, find_weights
from tracker.reference import ReferenceTracker

FPS = 30.0
SIZE = (640, 480)
QUICK_FRAMES, QUICK_COMPARED, COMPARED = 90, 6, 40
NETWORKS = {"siamfc-relu": "ReLU", "siamfc-mish-se": "Mish + SE"}


@dataclass(frozen=True)
class Comparison:
    """Two trackers on the same frames: frames per second of each (median) and mean overlap between their boxes."""

    network: str
    reference_fps: float
    fastops_fps: float
    agreement: float


def run_demo(output_dir: Path, *, frames: int, seed: int, quick: bool, console: Console) -> None:
    """Run the demonstration and leave its videos, plot and boxes in the existing folder `output_dir`."""
    if quick:
        frames = min(frames, QUICK_FRAMES)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    say(f"[bold]1[/]  a synthetic video: {frames} frames of {SIZE[0]}x{SIZE[1]}, seed {seed}")
    video = SyntheticVideo(seed, frames, SIZE, occlusions=max(1, frames // 120))

    say("[bold]2[/]  tracking it with fused ops and the weights of the package")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: load_model(find_weights(name)).to(device) for name in NETWORKS}
    boxes = track_video(models[PRETRAINED[0]], video, output_dir)
    write_boxes(output_dir / "boxes.txt", boxes)
    overlap = iou(boxes, video.boxes)
    hidden = int((video.visible < 0.75).sum())
    say(f"   mean overlap {overlap.mean():.3f}; in {hidden} frames more than a quarter of the target is hidden")
    names = ["video.mp4", "tracked.mp4", "boxes.txt"]
    if plot_overlap(output_dir / "overlap.png", overlap, video.visible):
        names.insert(2, "overlap.png")
    else:
        say("   no plot: matplotlib is missing, pip install matplotlib")

    say("[bold]3[/]  the same trackers in stock PyTorch and with fused ops, frame by frame in turn")
    compared = min(frames, QUICK_COMPARED if quick else COMPARED)
    comparisons = [compare(NETWORKS[name], model, video, compared) for name, model in models.items()]
    console.print(_table(comparisons, device))
    relu, paper = comparisons
    say(
        f"   Mish and attention keep {paper.reference_fps / relu.reference_fps:.0%} of the speed in stock PyTorch, "
        f"{paper.fastops_fps / relu.fastops_fps:.0%} with fused ops"
    )
    say(f"wrote {escape(', '.join(str(output_dir / name) for name in names))}")
    source, again = (shlex.quote(str(output_dir / n)) for n in ("video.mp4", "again.mp4"))
    box = ",".join(f"{value:.1f}" for value in video.boxes[0])
    say(f"try it: {escape(f'tracker track {source} --box {box} -o {again}')}")


def track_video(model: SiamFC, video: SyntheticVideo, folder: Path) -> np.ndarray:
    """Track `video` from its first box and return the boxes [N, 4].

    The frames go to video.mp4 in `folder` as they are, and to tracked.mp4 annotated.
    """
    tracker = Tracker(model)
    boxes = []
    with (
        VideoWriter(folder / "video.mp4", video.size, FPS) as clean,
        VideoWriter(folder / "tracked.mp4", video.size, FPS) as annotated,
        WriteBehind(clean.write) as write_clean,
        WriteBehind(lambda image, **labels: annotated.write(annotate(image, **labels))) as write_annotated,
    ):
        for index, (image, truth) in enumerate(video):
            if index == 0:
                tracker.init(image, truth)
                box, score, lost, fps = truth, 1.0, False, None
            else:
                began = time.perf_counter()
                result = tracker.update(image)
                fps = 1 / (time.perf_counter() - began)
                box, score, lost = result.box, result.score, result.lost
            boxes.append(box)
            write_clean(image)
            write_annotated(image, box=box, score=score, lost=lost, frame=index, fps=fps, truth=truth)
    return np.array(boxes)


def plot_overlap(path: Path, overlap: np.ndarray, visible: np.ndarray) -> bool:
    """Plot overlap over time with the hidden spans shaded; False, and no file, where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global state, no display
    axes = figure.add_subplot()
    frames = np.arange(len(overlap))
    axes.fill_between(frames, 0, 1 - visible, step="mid", color="0.8", label="hidden part of the target")
    axes.plot(frames, overlap, color="tab:green", label="overlap")
    axes.set(
        xlabel="frame", ylabel="overlap (IoU)", ylim=(0, 1), xlim=(0, max(1, len(overlap) - 1)),
        title=f"Overlap with the true box: mean {overlap.mean():.3f}",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return True


def compare(name: str, model: SiamFC, video: SyntheticVideo, frames: int) -> Comparison:
    """Give each frame to the reference tracker and to the fused one and time both; they take turns at going first."""
    twin = SiamFC(**model.settings(), out_scale=model.out_scale, ops="reference")
    twin.load_state_dict(model.state_dict())
    trackers = [ReferenceTracker(twin, device=next(model.parameters()).device), Tracker(model)]
    seconds: list[list[float]] = [[], []]
    boxes: list[list[np.ndarray]] = [[], []]
    image, box = video.frame(0)
    for tracker in trackers:
        tracker.init(image, box)
    for index in range(1, frames):
        image, _ = video.frame(index)
        for side in (0, 1) if index % 2 else (1, 0):  # whoever goes second finds the frame in the cache
            began = time.perf_counter()
            result = trackers[side].update(image)  # the box is on the CPU: nothing is left running on the device
            seconds[side].append(time.perf_counter() - began)
            boxes[side].append(result.box)
    reference_fps, fastops_fps = (1 / float(np.median(times)) for times in seconds)
    return Comparison(name, reference_fps, fastops_fps, float(iou(boxes[0], boxes[1]).mean()))


def _table(comparisons: list[Comparison], device: str) -> Table:
    table = Table(
        title=f"tracker only, {device}, {torch.get_num_threads()} threads, median of each frame",
    )
    table.add_column("network", no_wrap=True)
    for heading in ("reference fps", "fastops fps", "ratio", "equal boxes (IoU)"):
        table.add_column(heading, justify="right")
    for row in comparisons:
        ratio = row.fastops_fps / row.reference_fps
        table.add_row(
            row.network, f"{row.reference_fps:.1f}", f"{row.fastops_fps:.1f}", f"{ratio:.2f}x", f"{row.agreement:.4f}"
        )
    return table
