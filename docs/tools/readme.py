"""Writes the measurements in the README: its picture, and the speed table between its two marks.

Run `python docs/tools/readme.py` after new rows in `benchmarks/results/` or new weights. It needs the `docs` extra.
The picture is `docs/assets/tracker.png`.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
from drawings import speed_bars
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from results import last_rows, source_of

ROOT = Path(__file__).resolve().parents[2]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "assets" / "tracker.png"
SEED, FRAMES, SIZE, SHOWN = 7, 120, (320, 240), (0, 40, 80, 119)
OPS = {
    ("mish", "1e6"): "`mish`, a million values, forward and backward, µs",
    ("eiou_loss", "1e5 boxes"): "`eiou_loss`, 100,000 boxes, forward and backward, µs",
    ("xcorr", "8:24x256, 6x6 on 22x22"): "`xcorr`, 8 templates on 24 searches, forward and backward, µs",
}
_TABLE = re.compile(r"(<!-- speed table: begin -->\n).*?(<!-- speed table: end -->)", re.DOTALL)


def speed_table() -> str:
    """Six rows of the last measurements on the first device, as a Markdown table."""
    lines = ["| | stock PyTorch | `torch.compile` | fastops | fastops over stock |", "|---|---|---|---|---|"]

    def row(name: str, values: list[float], ratio: float) -> None:
        lines.append(f"| {name} | {' | '.join(f'{value:,.1f}' for value in values)} | **{ratio:.1f}x** |")

    fps = {(r["model"], r["tracker"]): r for r in last_rows("fps")[0]}
    for model, name in (("relu", "ReLU"), ("mish+se", "Mish + SE")):
        rows = [fps[model, tracker] for tracker in ("reference", "compile", "fastops")]
        row(
            f"Tracker, {name}, frames per second",
            [float(r["tracker_fps"]) for r in rows],
            float(rows[-1]["over_reference"]),
        )
    steps = {r["competitor"]: float(r["step_ms"]) for r in last_rows("train")[0] if r["precision"] == "float32"}
    values = [steps[competitor] for competitor in ("reference", "compile", "fastops")]
    row("Training step, Mish + SE, 8 pairs, ms", values, values[0] / values[-1])
    for (op, size), name in OPS.items():
        measured = next(
            r
            for r in last_rows("ops", [op])[0]
            if (r["size"], r["direction"], r["layout"]) == (size, "forward+backward", "")
        )
        values = [float(measured[f"{who}_us"]) for who in ("eager", "compile", "fastops")]
        row(name, values, values[0] / values[-1])
    device = source_of(last_rows("ops")[0][0]).rpartition(", commit")[0]
    return "\n".join([*lines, "", f"*{device}*", ""])


def tracked_frames() -> tuple[list[np.ndarray], float]:
    """The frames `SHOWN`, annotated, and the mean overlap of all boxes with the true ones."""
    sys.path.insert(0, str(ROOT))
    from tracker import Tracker
    from tracker.data.synthetic import SyntheticVideo
    from tracker.eval.metrics import iou
    from tracker.io.draw import annotate

    video = SyntheticVideo(SEED, FRAMES, SIZE, occlusions=1, noise=0.0)
    results = list(Tracker.from_pretrained().track(video.images(), box=video.boxes[0]))
    overlap = iou(np.array([result.box for result in results]), video.boxes).mean()
    frames = [
        annotate(video.image(i), box=results[i].box, score=results[i].score, frame=i, truth=video.boxes[i])
        for i in SHOWN
    ]
    return frames, float(overlap)


def picture() -> Figure:
    """Four frames on the left, the bars of `drawings.speed_bars` on the right."""
    frames, overlap = tracked_frames()
    figure = Figure(figsize=(10.4, 3.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.05))
    for axes, frame in zip(left.subplots(2, 2).flat, frames, strict=True):
        axes.imshow(frame)
        axes.axis("off")
    left.suptitle(f"Synthetic video, seed {SEED}: mean IoU {overlap:.2f} over {FRAMES} frames", fontsize=8)
    speed_bars(right.subplots())
    return figure


def main() -> None:
    figure, buffer = picture(), io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=150)
    # 256 colours need a third of the bytes.
    Image.open(buffer).convert("RGB").quantize(256).save(PICTURE, optimize=True)
    text = README.read_text(encoding="utf-8")
    README.write_text(_TABLE.sub(lambda match: match[1] + speed_table() + match[2], text), encoding="utf-8")
    print(f"wrote {PICTURE}, {PICTURE.stat().st_size / 1000:.0f} kB, and the table of {README}")


if __name__ == "__main__":
    main()
