"""The time of each stage of a frame, for one and for many targets.

    python -m benchmarks.stages [--csv FILE] [--plot FILE.png]

On a GPU a step is a replayed graph. It is timed over --frames frames after a warm-up. The times of its stages come from
the kernels in a profiler's trace of replays; "other" is the time in which the GPU waits.

The synthetic video is rendered and encoded first. The network has random weights; the default is Mish + SE.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fastops
from benchmarks.fps import VARIANTS
from benchmarks.harness import Results, compare, environment, parse, print_table
from fastops.ops.winograd import winograd_tile_size
from tracker import BatchTracker, SiamFC, Tracker, TrackerConfig
from tracker.data.synthetic import SyntheticVideo
from tracker.installed import install_hint
from tracker.io.files import replacing
from tracker.io.sources import open_source

SIZES = {"VGA": (640, 480), "1080p": (1920, 1080), "4K": (3840, 2160)}
STAGES = ("decode", "upload", "crop", "network", "xcorr", "response", "other")
COLOURS = ("#999999", "#f0e442", "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#cc79a7")


def write_video(folder: Path, size: tuple[int, int], frames: int) -> tuple[Path, np.ndarray]:
    """A synthetic video as a file, and its box in the first frame."""
    video = SyntheticVideo(seed=0, frames=frames, size=size, target=60)
    path = folder / f"{size[0]}x{size[1]}.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, size)
    if not writer.isOpened():
        raise SystemExit("stages: OpenCV cannot write mp4 files here")
    for i in range(frames):
        writer.write(cv2.cvtColor(video.frame(i)[0], cv2.COLOR_RGB2BGR))
    writer.release()
    return path, video.boxes[0]


def decode(path: Path) -> tuple[list[np.ndarray], float]:
    """All frames, and the median seconds to decode one."""
    frames, seconds = [], []
    with open_source(path, read_ahead=0) as source:
        start = time.perf_counter()
        for frame in source:
            seconds.append(time.perf_counter() - start)
            frames.append(frame)
            start = time.perf_counter()
    return frames, float(np.median(seconds[1:]))  # opening the file decodes the first one


def boxes_around(box: np.ndarray, size: tuple[int, int], count: int) -> list[np.ndarray]:
    """The box, and boxes of the same size at other positions in the frame."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (count - 1, 2)) * (np.array(size) - box[2:])
    return [box, *(np.array([*corner, *box[2:]]) for corner in corners)]


class Stopwatch:
    """Adds up the time spent in the stages of a `FusedEngine`."""

    def __init__(self, engine, device: str) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._sync = torch.cuda.synchronize if device == "cuda" else lambda: None
        network = engine.network
        engine.upload = self.timed("upload", engine.upload)
        network.features = self.timed("network", network.features)
        network.outputs = self.timed("xcorr", network.outputs)
        engine._update = self.timed("response", engine._update)
        self._crop, fastops.crop_and_resize = fastops.crop_and_resize, self.timed("crop", fastops.crop_and_resize)

    def timed(self, stage: str, function: Callable) -> Callable:
        def run(*args, **options):
            self._sync()
            start = time.perf_counter()
            result = function(*args, **options)
            self._sync()
            self.seconds[stage] += time.perf_counter() - start
            return result

        return run

    def remove(self) -> None:
        fastops.crop_and_resize = self._crop


def run(tracker: BatchTracker, frames: list[np.ndarray], boxes: list[np.ndarray], device: str) -> float:
    """Median seconds of a step."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    for target in tracker.targets:
        tracker.drop(target)
    for box in boxes:
        tracker.add(frames[0], box)
    seconds = []
    for frame in frames[1:]:
        sync()
        start = time.perf_counter()
        tracker.update(frame)
        sync()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:] or seconds))


#: Stage -> parts of the names of its kernels and copies. All others belong to the network.
STAGE_OF = (
    ("HtoD", "upload"),
    ("crop", "crop"),
    ("correlate", "xcorr"),
    ("sum_splits", "xcorr"),
    ("response", "response"),
)


def stage_of(kernel: str) -> str:
    """The stage of a kernel or copy in a trace."""
    return next((stage for part, stage in STAGE_OF if part in kernel), "network")


def breakdown_of_replays(tracker: BatchTracker, frames: list[np.ndarray], boxes: list[np.ndarray]) -> dict[str, float]:
    """Seconds per frame and stage on a GPU, from a trace of replayed steps."""
    step = run(tracker, frames, boxes, "cuda")  # captures the step and keeps its targets
    traced = frames[:20]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for frame in traced:
            tracker.update(frame)
        torch.cuda.synchronize()
    seconds = dict.fromkeys(STAGES, 0.0)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            seconds[stage_of(event.name)] += event.device_time / 1e6 / len(traced)
    if not seconds["network"]:
        raise SystemExit("stages: the trace of replays has no kernel of the network")
    seconds["other"] = max(0.0, step - sum(seconds.values()))
    return seconds


def breakdown(
    tracker: BatchTracker, frames: list[np.ndarray], boxes: list[np.ndarray], device: str
) -> dict[str, float]:
    """Seconds per frame and stage, from one run and scaled to the median step of a run without the stopwatch."""
    if device == "cuda":
        return breakdown_of_replays(tracker, frames, boxes)
    step = run(tracker, frames, boxes, device)
    for target in tracker.targets:
        tracker.drop(target)
    for box in boxes:
        tracker.add(frames[0], box)
    watch = Stopwatch(tracker._engine, device)
    try:
        start = time.perf_counter()
        for frame in frames[1:]:
            tracker.update(frame)
        total = time.perf_counter() - start
    finally:
        watch.remove()
    assert watch.seconds["network"] > 0
    watch.seconds["other"] = total - sum(watch.seconds.values())
    return {stage: seconds / total * step for stage, seconds in watch.seconds.items()}


def singles_per_target(
    model: SiamFC, path: Path, frames: list[np.ndarray], boxes: list[np.ndarray], options: dict
) -> float:
    """Seconds per frame of one of several single trackers. Each reads the video itself, decoded in advance."""
    trackers = [Tracker(model, **options) for _ in boxes]
    for tracker in trackers:  # pack the weights, and on a GPU capture the step
        tracker.init(frames[0], boxes[0])
        for frame in (*frames[1:4], *frames[1:3]):
            tracker.update(frame)
    start, count = time.perf_counter(), 0
    for tracker, box in zip(trackers, boxes, strict=True):
        count += sum(1 for _ in tracker.track(path, box)) - 1
    return (time.perf_counter() - start) / count


def batch_end_to_end(tracker: BatchTracker, path: Path, boxes: list[np.ndarray]) -> float:
    """Seconds per frame, including decoding."""
    for target in tracker.targets:
        tracker.drop(target)
    ends = [time.perf_counter() for _ in tracker.track(path, boxes)]
    first = min(3, len(ends) - 2)  # earlier frames contain the targets' starts, and on a GPU the capture
    return (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def network_flops(model: SiamFC, crops: int, side: int) -> tuple[float, float]:
    """Floating-point operations of the convolutions of some crops: direct, and with the CPU's algorithms."""
    direct = least = 0.0
    x = torch.empty(crops, 3, side, side, device="meta")
    for block in (getattr(model.backbone, f"conv{i}") for i in range(1, 6)):
        for layer in block:
            if isinstance(layer, nn.Conv2d):
                shape, kernel = tuple(x.shape), layer.kernel_size[0]
                x = torch.empty(
                    crops, layer.out_channels, *((s - kernel) // layer.stride[0] + 1 for s in shape[2:]), device="meta"
                )
                flops = 2.0 * x.numel() * layer.weight[0].numel()
                direct += flops
                least += flops * _winograd_share(layer, shape, x.shape)
            elif isinstance(layer, nn.MaxPool2d) or hasattr(layer, "kernel_size"):
                x = torch.empty(*x.shape[:2], *((s - 3) // 2 + 1 for s in x.shape[2:]), device="meta")
    return direct, least


def _winograd_share(layer: nn.Conv2d, shape: tuple[int, ...], out: torch.Size) -> float:
    """Multiplications of Winograd's algorithm divided by those of the direct one; 1 if it is not used."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    tile = winograd_tile_size(layer.kernel_size, shape, stride, layer.groups)
    if tile == 0:
        return 1.0
    taps = -(-kernel // stride)
    tiles = -(-out[2] // tile) * -(-out[3] // tile)
    return (tile + taps - 1) ** 2 * tiles * stride**2 / (kernel**2 * out[2] * out[3])


def convolution_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations per second of torch's convolution, at the size of SiamFC's third convolution."""
    n = 64 if device == "cuda" else 3
    x, weight = torch.randn(n, 256, 28, 28, device=device), torch.randn(384, 256, 3, 3, device=device)
    x, weight = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (x, weight))
    with torch.inference_mode():
        seconds = compare({"conv": lambda: F.conv2d(x, weight)}, device, 0.5)["conv"].low
    return 2.0 * n * 26 * 26 * weight.numel() / seconds


def draw(rows: list[dict], path: Path) -> None:
    """Draw stacked bars of milliseconds per target and frame. The file is first written under a temporary name."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(f"plots need matplotlib: {install_hint('plot')}") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 1.5 + 0.34 * len(rows)), layout="constrained")
    left = np.zeros(len(rows))
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        widths = np.array([float(row[f"{stage}_ms"]) / int(row["targets"]) for row in rows])
        axis.barh(range(len(rows)), widths, left=left, color=colour, label=stage)
        left += widths
    for i, row in enumerate(rows):
        floor = float(row["floor_ms"]) / int(row["targets"])
        axis.plot([floor] * 2, [i - 0.45, i + 0.45], color="black", linewidth=2, label=None if i else "network's floor")
    names = [f"{r['size']}, {r['targets']} targets, {r['scales']} scales, {r['dtype']}" for r in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds per target and frame")
    axis.legend(fontsize=8)
    axis.set_title(f"{rows[0]['model']}, {rows[0]['device']}, torch {rows[0]['torch']}", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def cases(args: argparse.Namespace) -> list[tuple[str, int, int, str]]:
    """Size, targets, scales and dtype of each configuration.

    Each is varied separately, starting from one VGA target in three scales. There are also 64 targets at 1080p.
    """
    base = ("VGA", 1, 3, args.dtype[0])
    found = [base]
    found += [("VGA", 1, 3, dtype) for dtype in args.dtype[1:]]
    found += [("VGA", 1, 1, args.dtype[0])]
    found += [(size, 1, 3, args.dtype[0]) for size in args.size if size != "VGA"]
    found += [("VGA", n, 3, args.dtype[0]) for n in args.targets if n != 1]
    if "1080p" in args.size:
        found += [("1080p", n, 3, args.dtype[0]) for n in args.targets[-1:] if n != 1]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="mish+se", choices=tuple(VARIANTS))
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=tuple(SIZES))
    parser.add_argument("--targets", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument(
        "--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument("--width", type=float, default=1.0, help="width of the network, for a quick run")
    parser.add_argument("--frames", type=int, help="number of frames; default: 12, on a GPU 200")
    parser.add_argument("--singles", type=int, default=4, help="number of single trackers to measure")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    parser.add_argument("--plot", type=Path, help="stacked bars of the stages as PNG")
    args = parse(parser)
    args.frames = args.frames or (200 if args.device == "cuda" else 12)
    if args.frames < 4:
        parser.error("argument --frames: must be at least 4")

    where = environment(args.device)
    torch.manual_seed(0)
    model = SiamFC(*VARIANTS[args.model], width=args.width).eval()
    results = Results(args.csv, where)
    rates = {name: convolution_rate(args.device, getattr(torch, name)) for name in args.dtype}
    print(f"{where['device']}, torch {where['torch']}, {args.model}; milliseconds per frame\n")
    with tempfile.TemporaryDirectory() as folder:
        videos = {}
        for size, targets, scales, dtype in cases(args):
            if size not in videos:
                path, box = write_video(Path(folder), SIZES[size], args.frames)
                videos[size] = path, box, *decode(path)
            path, box, frames, decoding = videos[size]
            options = {"config": TrackerConfig(scale_num=scales), "device": args.device}
            options["dtype"] = getattr(torch, dtype)
            boxes = boxes_around(box, SIZES[size], targets)
            tracker = BatchTracker(model, **options)
            stages = {**breakdown(tracker, frames, boxes, args.device), "decode": decoding}
            step = sum(seconds for stage, seconds in stages.items() if stage != "decode")
            both = batch_end_to_end(tracker, path, boxes)
            single = singles_per_target(model, path, frames, boxes[: args.singles], options)
            # On a CPU products are computed in float32 for all dtypes.
            rate = rates["float32" if args.device == "cpu" and "float32" in rates else dtype]
            direct, least = network_flops(model, scales * targets, options["config"].instance_size)
            floor, direct_floor = (least if args.device == "cpu" else direct) / rate, direct / rate
            row = {"benchmark": "stages", "model": args.model, "size": size, "targets": targets, "scales": scales}
            row |= {"dtype": dtype, **{f"{stage}_ms": f"{stages[stage] * 1e3:.3f}" for stage in STAGES}}
            row |= {"floor_ms": f"{floor * 1e3:.2f}", "direct_floor_ms": f"{direct_floor * 1e3:.2f}"}
            row |= {"target_fps": f"{targets / step:.1f}", "end_to_end_target_fps": f"{targets / both:.1f}"}
            row |= {"singles_target_fps": f"{1 / single:.1f}"}
            results.add(row)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = results.rows("stages")
    print_results(rows)
    if args.plot:
        draw(rows, args.plot)
    return 0


def print_results(rows: list[dict[str, str]]) -> None:
    """Print the table from rows of the file."""
    table = []
    for row in rows:
        stages = {stage: float(row[f"{stage}_ms"]) for stage in STAGES}
        step = sum(ms for stage, ms in stages.items() if stage != "decode")
        cells = [f"{ms:.2f}" for ms in stages.values()]
        cells += [f"{1 - stages['network'] / step:.1%}"]
        cells += [f"{float(row[column]):.1f}" for column in ("direct_floor_ms", "floor_ms")]
        speeds = ("target_fps", "end_to_end_target_fps", "singles_target_fps")
        cells += [row[column] for column in speeds]
        over = float(row["end_to_end_target_fps"]) / float(row["singles_target_fps"])
        table.append([row["size"], row["targets"], row["scales"], row["dtype"], *cells, f"{over:.2f}x"])
    header = ["size", "targets", "scales", "dtype", *STAGES, "all but network", "direct floor", "floor"]
    print_table([*header, "target-fps", "with decode", "singles", "batch/singles"], table)


if __name__ == "__main__":
    sys.exit(main())
