"""mkdocs hook: the site's drawings, as SVG under img/, drawn when the site is built."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from mkdocs.structure.files import File, Files
from results import last_rows, source_of

BLUE, ORANGE, GREEN, SKY, GREY = "#0072b2", "#e69f00", "#009e73", "#56b4e9", "#999999"  # safe for the colour-blind


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose coordinates are inches."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 1.5, height: float = 0.8) -> None:
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor=colour, alpha=0.25, edgecolor="none"))
    axes.add_patch(FancyBboxPatch((x, y), width, height, style, facecolor="none", edgecolor=colour, linewidth=1.5))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "color": "#333333", "shrinkA": 0, "shrinkB": 2}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))


def pipeline() -> Figure:
    """The steps of one frame."""
    figure, axes = _blank(10.2, 3.5)
    _box(axes, 0.2, 2.3, "first frame\nand its box", GREY)
    _box(axes, 2.2, 2.3, "crop_and_resize\n127 × 127", BLUE)
    _box(axes, 4.2, 2.3, "network\n(once)", ORANGE)
    _box(axes, 6.2, 2.3, "template\n[1, 256, 6, 6]", GREY)
    _box(axes, 0.2, 0.7, "next frame\nand last box", GREY)
    _box(axes, 2.2, 0.7, "crop_and_resize\n3 × 255 × 255", BLUE)
    _box(axes, 4.2, 0.7, "network: 5 layers\nWinograd, Mish,\npooling, SE", ORANGE)
    _box(axes, 6.2, 0.7, "xcorr\n3 maps of 17 × 17", BLUE)
    _box(axes, 8.2, 0.7, "response_peak\nscale, position,\nscore", BLUE)
    _box(axes, 8.2, 2.3, "TrackResult\nbox, score, lost", GREEN)
    for y, starts in ((2.7, (1.7, 3.7, 5.7)), (1.1, (1.7, 3.7, 5.7, 7.7))):
        for x in starts:
            _arrow(axes, (x, y), (x + 0.5, y))
    _arrow(axes, (6.95, 2.3), (6.95, 1.5))
    _arrow(axes, (8.95, 1.5), (8.95, 2.3))
    _arrow(axes, (8.95, 0.7), (0.95, 0.7), bend=-0.09)
    axes.text(4.95, 0.13, "the state of every target stays on the device", ha="center", fontsize=8, color="#333333")
    return figure


def mish_max_pool() -> Figure:
    """Shows why two values of a window decide the maximum of its Mish."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    x = np.linspace(-6, 2.2, 500)

    def mish(v: np.ndarray) -> np.ndarray:
        return v * np.tanh(np.logaddexp(0, v))

    lowest = -1.1924606
    axes.plot(x[x <= lowest], mish(x[x <= lowest]), color=ORANGE, linewidth=2, label="falls: the smallest wins")
    axes.plot(x[x >= lowest], mish(x[x >= lowest]), color=BLUE, linewidth=2, label="rises: the largest wins")
    axes.axvline(lowest, color=GREY, linewidth=0.8, linestyle=":")
    window = np.array([-4.8, -3.4, -2.9, -2.2, -1.9, -1.5, -1.0, -0.75, -0.5])
    axes.plot(window, mish(window), "o", color=GREY, markersize=6, label="the nine values of a window")
    ends = window[[0, -1]]
    axes.plot(ends, mish(ends), "o", color="black", markersize=9, fillstyle="none", markeredgewidth=1.8)
    notes = (("min x: the maximum of Mish here", (-5.4, 0.42)), ("max x: evaluated too, smaller", (-0.1, -0.62)))
    for value, (text, place) in zip(ends, notes, strict=True):
        arrow = {"arrowstyle": "->", "color": "#333333", "shrinkB": 6}
        axes.annotate(text, (value, mish(value)), place, fontsize=9, arrowprops=arrow)
    axes.set(xlabel="x", ylabel="mish(x)", ylim=(-0.75, 1.5))
    axes.axhline(0, color="black", linewidth=0.6)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def winograd() -> Figure:
    """The steps of a Winograd convolution."""
    figure, axes = _blank(10.2, 2.5)
    _box(axes, 0.2, 1.4, "tile of the input\n(M + R − 1)²", GREY, 1.7)
    _box(axes, 2.7, 1.4, "Bᵀ d B\nadditions", BLUE, 1.7)
    _box(axes, 5.2, 1.4, "a matrix product\nfor each of the\n(M + R − 1)² positions", ORANGE, 1.7)
    _box(axes, 7.7, 1.4, "Aᵀ · A, bias,\nactivation", BLUE, 1.7)
    _box(axes, 2.7, 0.2, "weights: G g Gᵀ\nonce, packed", GREY, 1.7)
    for x in (1.9, 4.4, 6.9):
        _arrow(axes, (x, 1.8), (x + 0.8, 1.8))
    _arrow(axes, (9.4, 1.8), (9.95, 1.8))
    _arrow(axes, (4.4, 0.6), (6.05, 1.4), bend=0.25)
    text = "(M + R − 1)² multiplications give M² outputs;\ndirectly they take M² R²"
    axes.text(6.6, 0.5, text, fontsize=9, va="center")
    return figure


def op_files() -> Figure:
    """The files of an op, from the user's call to the kernels."""
    figure, axes = _blank(10.2, 3.9)
    _box(axes, 0.2, 1.55, "fastops.mish\nfastops/ops/mish.py\nchecks, gradient", GREY, 2.0)
    _box(axes, 3.0, 1.55, "torch.ops.fastops.mish\ncsrc/library.cpp\nthe schema", GREY, 2.0)
    for y, text, colour in (
        (2.95, "CPU: csrc/cpu/mish.cpp\nand csrc/simd/mish.cpp", BLUE),
        (2.02, "CUDA\ncsrc/cuda/mish.cu", BLUE),
        (1.09, "Triton\nfastops/triton/mish.py", GREEN),
        (0.16, "plain PyTorch\nfastops/reference/mish.py", GREEN),
    ):
        _box(axes, 5.8, y, text, colour, 2.0)
        _arrow(axes, (5.0, 1.95), (5.8, y + 0.4))
    _box(axes, 8.5, 2.48, "the formula\ncsrc/math/mish.h", ORANGE)
    _arrow(axes, (2.2, 1.95), (3.0, 1.95))
    for y in (3.35, 2.42):
        _arrow(axes, (7.8, y), (8.5, 2.88))
    return figure


def lower_bound() -> Figure:
    """The time of each memory-bound op relative to a copy of the bytes that it must move."""
    rows = [row for row in last_rows("ops")[0] if row["copy_us"] and float(row["copy_us"]) > 20]
    names = [" ".join(filter(None, (row["op"], row["size"], row["layout"]))) for row in rows]
    short = ["f+b" if row["direction"] == "forward+backward" else "forward" for row in rows]
    figure = Figure(figsize=(9, 1.3 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(rows))
    for who, colour, shift in (("eager", GREY, -0.2), ("fastops", BLUE, 0.2)):
        times = [float(row[f"{who}_us"]) / float(row["copy_us"]) for row in rows]
        lengths = [time - 1 for time in times]  # bars start at 1, so faster ops point the other way
        bars = axes.barh(places + shift, lengths, 0.4, left=1, color=colour, label=who)
        axes.bar_label(bars, [f"{time:.1f}" for time in times], padding=2, fontsize=7)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.set_yticks(places, [f"{name}  {way}" for name, way in zip(names, short, strict=True)], fontsize=8)
    axes.set(
        xscale="log", xlabel="time over that of the copy (logarithmic; 1 is the lower bound)", ylim=(len(rows), -0.7)
    )
    axes.set_xlim(right=axes.get_xlim()[1] * 1.5)
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(source_of(rows[0]), fontsize=8)
    return figure


def speed() -> Figure:
    """Frames per second of the trackers, side by side."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    speed_bars(figure.add_subplot())
    return figure


def speed_bars(axes: Axes) -> None:
    """Bars of the frames per second of each tracker, one for each network."""
    rows = last_rows("fps")[0]
    trackers = list(dict.fromkeys(row["tracker"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    height = 0.8 / len(models)
    for i, (model, colour) in enumerate(zip(models, (SKY, BLUE), strict=True)):
        fps = [
            next(float(r["tracker_fps"]) for r in rows if (r["model"], r["tracker"]) == (model, t)) for t in trackers
        ]
        bars = axes.barh(np.arange(len(trackers)) + (i - 0.5) * height, fps, height, color=colour, label=model)
        axes.bar_label(bars, [f"{value:.1f}" for value in fps], padding=2, fontsize=8)
    axes.set_yticks(range(len(trackers)), trackers)
    axes.invert_yaxis()
    axes.set_xlabel("frames per second, tracker only")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{rows[0]['source']}, {rows[0]['size']}\n{source_of(rows[0])}", fontsize=8)


DRAWINGS = {
    "pipeline": pipeline,
    "mish-max-pool": mish_max_pool,
    "winograd": winograd,
    "op-files": op_files,
    "lower-bound": lower_bound,
    "speed": speed,
}


def svg_of(figure: Figure) -> bytes:
    """The figure as SVG, with the same bytes each time. Letters become shapes, so no font is needed."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "siamfc-fastops", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def on_files(files: Files, *, config: Any, **kwargs: Any) -> Files:
    for name, draw in DRAWINGS.items():
        files.append(File.generated(config, f"img/{name}.svg", content=svg_of(draw())))
    return files
