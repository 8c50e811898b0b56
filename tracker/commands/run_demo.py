"""The demonstration: track a synthetic video with the packaged weights and compare with stock PyTorch."""

from __future__ import annotations

import shlex
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from tracker.data.synthetic import SyntheticVideo
from tracker.eval.comparison import compare, comparison_table
from tracker.eval.metrics import iou
from tracker.installed import install_hint
from tracker.io.background import WriteBehind
from tracker.io.draw import VideoWriter, annotate, write_boxes
from tracker.io.report import write_plot
from tracker.network.checkpoint import load_model
from tracker.network.model import SiamFC
from tracker.network.pretrained import DEFAULT, PRETRAINED, find_weights
from tracker.tracker import Tracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FPS = 30.0
SIZE = (640, 480)
FRAMES, QUICK_FRAMES, QUICK_COMPARED, COMPARED = 300, 90, 6, 40


def run_demo(output_dir: Path, *, frames: int | None, seed: int, quick: bool, console: Console) -> dict[str, Any]:
    """Run the demonstration and return its numbers. Videos, plot and boxes go to the existing folder `output_dir`."""
    frames = frames or (QUICK_FRAMES if quick else FRAMES)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    say(f"[bold]1[/]  a synthetic video: {frames} frames of {SIZE[0]}x{SIZE[1]}, seed {seed}")
    video = SyntheticVideo(seed, frames, SIZE, occlusions=max(1, frames // 120))

    say("[bold]2[/]  tracking it with fused ops and the weights of the package")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {name: load_model(find_weights(name)).to(device) for name in PRETRAINED}
    boxes = track_video(models[DEFAULT], video, output_dir)
    write_boxes(output_dir / "boxes.txt", boxes)
    overlap = iou(boxes, video.boxes)
    hidden = int((video.visible < 0.75).sum())
    say(f"   mean overlap {overlap.mean():.3f}; in {hidden} frames more than a quarter of the target is hidden")
    names = ["video.mp4", "tracked.mp4", "boxes.txt"]
    if plot_overlap(output_dir / "overlap.png", overlap, video.visible):
        names.insert(2, "overlap.png")
    else:
        say(f"   no plot: matplotlib is missing, {escape(install_hint('plot'))}")

    say("[bold]3[/]  the same trackers in stock PyTorch and with fused ops, frame by frame in turn")
    count = QUICK_COMPARED if quick else COMPARED
    networks = {PRETRAINED[name]: model for name, model in models.items()}
    comparisons = compare(networks, islice(video.images(), count), video.boxes[0])
    console.print(comparison_table(comparisons, device))
    say(f"wrote {escape(', '.join(str(output_dir / name) for name in names))}")
    source, again = (shlex.quote(str(output_dir / n)) for n in ("video.mp4", "again.mp4"))
    box = ",".join(f"{value:.1f}" for value in video.boxes[0])
    say(f"try it: {escape(f'tracker track {source} --box {box} -o {again}')}")
    return {
        "frames": frames,
        "mean_overlap": float(overlap.mean()),
        "device": device,
        "networks": [comparison.summary() for comparison in comparisons],
        "files": [output_dir / name for name in names],
    }


def track_video(model: SiamFC, video: SyntheticVideo, folder: Path) -> np.ndarray:
    """Track `video` from its first box and return the boxes [N, 4].

    Writes the frames to video.mp4 in `folder`, and the annotated ones to tracked.mp4.
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
    """Plot the overlap over time, with the hidden spans shaded. Return False if matplotlib is not installed."""

    def draw(figure: Figure) -> None:
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

    return write_plot(path, draw, (9, 3.2))
