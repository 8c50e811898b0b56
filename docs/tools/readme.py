"""Writes what the README and the model card show of the measurements: a picture, and tables between their marks.

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
from results import all_rows, last_rows, source_of

ROOT = Path(__file__).resolve().parents[2]
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "assets" / "tracker.png"
CARD = ROOT / "tracker" / "weights" / "README.md"
SEED, FRAMES, SIZE, SHOWN = 7, 120, (320, 240), (0, 40, 80, 119)
OPS = {
    ("mish", "1e6"): "`mish`, a million values, forward and backward, µs",
    ("eiou_loss", "1e5 boxes"): "`eiou_loss`, 100,000 boxes, forward and backward, µs",
    ("xcorr", "8:24x256, 6x6 on 22x22"): "`xcorr`, 8 templates on 24 searches, forward and backward, µs",
}
#: Trackers of the accuracy tables: their name in the rows of `benchmarks.accuracy`, and in those of `benchmarks.fps`.
TRACKERS = {
    "siamfc-box": "box",
    "siamfc-box-small": "box small",
    "siamfc-mish-se": "mish+se",
    "siamfc-relu": "relu",
    "published": "",
    "CSRT": "",
}
TITLES = {"published": "SiamFC-3s, published", "CSRT": "OpenCV's CSRT"}


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


def accuracy_table() -> str:
    """A row per tracker: means over the validation sequences, and the speed of one run over `siamfc-mish-se`'s."""
    scores, names = _scores()
    fps = next(
        {row["model"]: float(row["tracker_fps"]) for row in rows if row["tracker"] == "fastops"}
        for rows in last_rows("fps")
        if {row["model"] for row in rows} >= {TRACKERS[name] for name in names if TRACKERS[name]}
    )
    lines = ["| tracker | success AUC | precision at 20 px | speed |", "|---|---|---|---|"]
    for name in names:
        auc, precision = (_short(value) for value in scores[name].mean(0))
        speed = f"{fps[TRACKERS[name]] / fps['mish+se']:.1f}x" if TRACKERS[name] else "-"
        lines.append(f"| {_title(name)} | {auc} | {precision} | {speed} |")
    return "\n".join([*lines, ""])


def score_table() -> str:
    """A row per validation sequence: success AUC / precision at 20 px of each tracker."""
    scores, names = _scores()
    frames = {row["sequence"]: row["frames"] for row in all_rows("accuracy")}
    lines = ["| sequence (frames) | " + " | ".join(map(_title, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for i, (sequence, count) in enumerate(frames.items()):
        cells = [" / ".join(map(_short, scores[name][i])) for name in names]
        lines.append(f"| {sequence} ({count}) | " + " | ".join(cells) + " |")
    means = ["**" + " / ".join(map(_short, scores[name].mean(0))) + "**" for name in names]
    return "\n".join([*lines, "| **mean** | " + " | ".join(means) + " |", ""])


def _scores() -> tuple[dict[str, np.ndarray], list[str]]:
    """Success AUC and precision [sequences, 2] of each tracker, and the trackers in the order of `TRACKERS`."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in all_rows("accuracy"):  # of two rows for the same, the last counts
        found.setdefault(row["tracker"], {})[row["sequence"]] = (
            float(row["success_auc"]),
            float(row["precision_20px"]),
        )
    names = [name for name in TRACKERS if name in found]
    sequences = dict.fromkeys(row["sequence"] for row in all_rows("accuracy"))
    return {name: np.array([found[name][sequence] for sequence in sequences]) for name in names}, names


def _title(name: str) -> str:
    return TITLES.get(name, f"`{name}`")


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def write_table(path: Path, name: str, table: str) -> None:
    """Put the table between the marks of its name.

    Raises:
        ValueError: the file has no such marks.
    """
    text = path.read_text(encoding="utf-8")
    marks = re.compile(f"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"{path} must have the marks of the {name}")
    path.write_text(marks.sub(lambda match: match[1] + table + match[2], text), encoding="utf-8")


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
        annotate(video.image(i), box=results[i].box, score=results[i].score, frame=i + 1, truth=video.boxes[i])
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
    write_table(README, "speed table", speed_table())
    write_table(README, "accuracy table", accuracy_table())
    write_table(CARD, "score table", score_table())
    print(f"wrote {PICTURE}, {PICTURE.stat().st_size / 1000:.0f} kB, and the tables of {README} and {CARD}")


if __name__ == "__main__":
    main()
