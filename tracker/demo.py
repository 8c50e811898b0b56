"""The demonstration: a synthetic video with known boxes, a network trained for seconds, and what fused ops gain."""

from __future__ import annotations

import shlex
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from tracker import SiamFC, Tracker
from tracker.background import WriteBehind
from tracker.checkpoint import save_state
from tracker.comparison import compare, comparison_table
from tracker.data.synthetic import SyntheticVideo
from tracker.draw import VideoWriter, annotate, write_boxes
from tracker.eval.metrics import iou
from tracker.files import replacing
from tracker.train import TrainConfig, scale_responses, train

FPS = 30.0
SIZE = (640, 480)
STEPS, QUICK_STEPS = 200, 20
# Short training starts higher and ends higher than the full schedule: 200 steps leave no time for a slow start.
TRAINING = {"lr": 5e-2, "final_lr": 3e-3, "batch_size": 8}


def run_demo(output_dir: Path, *, frames: int, seed: int, quick: bool, console: Console) -> None:
    """Run the demonstration and leave its videos, plot, boxes and weights in the existing folder `output_dir`."""
    if quick:
        frames = min(frames, 90)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    say(f"[bold]1[/]  a synthetic video: {frames} frames of {SIZE[0]}x{SIZE[1]}, seed {seed}")
    video = SyntheticVideo(seed, frames, SIZE, occlusions=max(1, frames // 120))

    steps = QUICK_STEPS if quick else STEPS
    say(
        f"[bold]2[/]  no trained weights are part of this package: training a quarter-width Mish + SE network on other "
        f"synthetic videos ({steps} steps)"
    )
    model = train_small(steps, seed, console)
    save_state(model, output_dir / "weights.safetensors")

    say("[bold]3[/]  tracking it with fused ops")
    boxes = track_video(model, video, output_dir)
    write_boxes(output_dir / "boxes.txt", boxes)
    overlap = iou(boxes, video.boxes)
    hidden = int((video.visible < 0.75).sum())
    say(f"   mean overlap {overlap.mean():.3f}; in {hidden} frames more than a quarter of the target is hidden")
    names = ["video.mp4", "tracked.mp4", "boxes.txt", "weights.safetensors"]
    if plot_overlap(output_dir / "overlap.png", overlap, video.visible):
        names.insert(2, "overlap.png")
    else:
        say("   no plot: matplotlib is missing, pip install matplotlib")

    say("[bold]4[/]  the same tracker in stock PyTorch and with fused ops, frame by frame in turn")
    torch.manual_seed(seed)
    full = SiamFC("mish", "se").eval()
    comparisons = [
        compare(name, network, islice(video.images(), count), video.boxes[0])
        for name, network, count in (
            ("quarter width, trained", model, 20 if quick else 100),
            ("full size, random", full, 5 if quick else 25),
        )
    ]
    caption = "Mish + SE networks; the random weights of the full-size one serve the timing only"
    console.print(comparison_table(comparisons, next(model.parameters()).device, caption))
    say(f"wrote {escape(', '.join(str(output_dir / name) for name in names))}")
    source, weights, again = (
        shlex.quote(str(output_dir / n)) for n in ("video.mp4", "weights.safetensors", "again.mp4")
    )
    box = ",".join(f"{value:.1f}" for value in video.boxes[0])
    say(f"try it: {escape(f'tracker track {source} --box {box} --weights {weights} -o {again}')}")


def train_small(steps: int, seed: int, console: Console) -> SiamFC:
    """Train a quarter-width Mish + SE network on synthetic pairs and report the loss every 20 steps."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SiamFC("mish", "se", width=0.25).to(device)
    scale_responses(model, seed=seed)
    began = time.perf_counter()

    def progress(step: int, loss: float) -> None:
        if step == 1 or step % 20 == 0:
            console.print(f"   step {step:4d}   loss {loss:.3f}   {time.perf_counter() - began:5.1f} s")

    train(model, TrainConfig(steps=steps, seed=seed, **TRAINING), progress=progress)
    return model


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
