"""The speed of one tracker in several implementations.

    python -m benchmarks.fps [--source FOLDER_OR_VIDEO --box x,y,w,h] [--csv FILE]

reference  the usual SiamFC: stock eager PyTorch, OpenCV crops of a padded copy, NumPy after the network
compile    the same with its network under torch.compile
compile graph  (on a GPU) the same under torch.compile(mode="reduce-overhead"), which captures it as CUDA graphs
fastops    tracker.Tracker, in each of --dtype

for the networks of the package: SiamFC (ReLU), the paper's (Mish + SE), and those with a box head, which search one
scale where the others search three. The reference of a box head is `Tracker(backend="eager")`.

All track the same frames in one run and take turns of a few frames, so that each runs as it would alone: after
another's turn its weights have left the cache. All must give equal boxes before any figure is printed. Half types and
int8 may differ by more, and the table says by how much. int8 is measured on 24 crops of the source, which needs its
boxes. Milliseconds and speed-ups are of the median update. "tracker fps" is frames over the total time of the updates,
"end-to-end fps" over that plus the time it took to decode them. The last table is the price of Mish and attention, and
the gain of the box heads: speed with them over the speed of the ReLU network, the median over the turns, in which the
two follow one another.

Weights: those of the package. With --weights (a ReLU checkpoint) only the first two networks run. The Mish + SE network
takes over the convolutions, and its attention starts at random: a speed test, its boxes mean little. float32 has all
its bits on a GPU: no TF32.

The weights are those of the package. With --weights (a ReLU checkpoint) the Mish + SE network gets its convolutions,
and random attention. This is for speed only; its boxes have no meaning. On a GPU, float32 is exact: TF32 is off.

A run that is stopped (SIGTERM, Ctrl-C) keeps and prints its measurements.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Results, environment, full_float32, parse, print_table, until_cut
from tests.support.paths import DATA
from tracker import SiamFC, Tracker
from tracker.data.otb import load_sequence
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.engines.reference import ReferenceTracker
from tracker.eval.metrics import iou
from tracker.io.sources import open_images, open_source
from tracker.network.checkpoint import load_model
from tracker.network.pretrained import find_weights
from tracker.network.quantized import measure_int8
from tracker.training.quantize import sample_crops

MODELS = {"relu": "siamfc-relu", "mish+se": "siamfc-mish-se", "box": "siamfc-box", "box small": "siamfc-box-small"}
#: Activation and attention of the networks with random weights that other benchmarks time.
VARIANTS = {"relu": ("relu", "none"), "mish+se": ("mish", "se")}
PLAIN = "relu"  # what the others' speed is compared with
# Of equal boxes, in the worst frame and on average: float32 rounding can move an arg max by one step of 1/16 cell.
MIN_IOU, MEAN_IOU = 0.9, 0.99
HALF_MEAN_IOU = 0.8
TURN = 8  # frames


def build_models(weights: Path | None) -> dict[str, SiamFC]:
    models = {kind: load_model(find_weights(name), ops="reference") for kind, name in MODELS.items()}
    if weights is None:
        return models
    plain = load_model(weights, ops="reference")
    adorned = SiamFC(*VARIANTS["mish+se"], ops="reference").eval()
    adorned.backbone.load_state_dict(plain.backbone.state_dict())
    return {PLAIN: plain, "mish+se": adorned}


def find_source(args: argparse.Namespace) -> tuple[object, np.ndarray, str]:
    if args.source and args.box:
        return args.source, np.array([float(v) for v in args.box.split(",")]), Path(args.source).name
    if args.source and not Path(args.source).is_dir():
        raise SystemExit("fps: --box must be given where the source is not an OTB-style folder")
    folder = Path(args.source or DATA / "sequences" / "MountainBike")
    if folder.exists():
        sequence = load_sequence(folder)
        return sequence.frames, sequence.boxes[0], sequence.name
    video = SyntheticVideo(seed=0, frames=args.frames)
    return video, video.boxes[0], "synthetic"


def annotated(args: argparse.Namespace) -> Sequence:
    """The source as a sequence with boxes."""
    folder = Path(args.source or DATA / "sequences" / "MountainBike")
    if args.source and not folder.is_dir():
        raise SystemExit("fps: --dtype int8 must go with an OTB-style folder, or with the source left out")
    if folder.exists():
        return load_sequence(folder)
    return Sequence.from_video("synthetic", SyntheticVideo(seed=0, frames=args.frames))


def read_frames(source: object, count: int) -> tuple[list[np.ndarray], float]:
    """The first frames, and the seconds to decode (or, for a synthetic video, to render) them."""
    start = time.perf_counter()
    if isinstance(source, SyntheticVideo):
        frames = [source.frame(i)[0] for i in range(count)]
    else:
        with open_images(source, "frames") if isinstance(source, list) else open_source(source) as opened:
            frames = [frame for frame, _ in zip(opened, range(count), strict=False)]
    return frames, time.perf_counter() - start


def measure(trackers: dict, frames: list[np.ndarray], box: np.ndarray, device: str) -> tuple[dict, dict]:
    """The seconds of every update and the boxes of every tracker. They take turns, and each turn another one starts."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    names = list(trackers)
    for tracker in trackers.values():
        tracker.init(frames[0], box)
        for frame in frames[1:6]:  # warm-up: compilation, caches, allocator
            tracker.update(frame)
        tracker.init(frames[0], box)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with until_cut():
        for turn, first in enumerate(range(1, len(frames), TURN)):
            for k in range(len(names)):
                name = names[(turn + k) % len(names)]
                for frame in frames[first : first + TURN]:
                    sync()
                    start = time.perf_counter()
                    result = trackers[name].update(frame)
                    sync()
                    taken = time.perf_counter() - start
                    boxes[name].append(np.asarray(result.box))
                    seconds[name].append(taken)
    done = min(map(len, seconds.values()))  # the frames that all have processed, fewer in a stopped run
    if done == 0:
        raise SystemExit("fps: cut before every tracker had its turn")
    seconds, boxes = ({n: values[:done] for n, values in kept.items()} for kept in (seconds, boxes))
    return {n: np.array(s) for n, s in seconds.items()}, {n: np.array(b) for n, b in boxes.items()}


def make_trackers(
    args: argparse.Namespace, weights: Path | None, crops: tuple[Tensor, Tensor] | None
) -> dict[tuple[str, str], object]:
    """By name and network; `crops` to measure int8 on."""
    torch.manual_seed(0)
    models = build_models(weights)
    trackers: dict[tuple[str, str], object] = {}
    modes: dict[str, bool | str] = {"reference": False}
    if not args.no_compile:
        modes["compile"] = True
        if args.device == "cuda":
            modes["compile graph"] = "reduce-overhead"
    for name, mode in modes.items():
        for kind, model in models.items():
            if model.head != "box":
                trackers[name, kind] = ReferenceTracker(copy.deepcopy(model), device=args.device, compile=mode)
            elif mode is False:
                trackers[name, kind] = Tracker(copy.deepcopy(model), device=args.device, backend="eager")
    for dtype in args.dtype:
        name = "fastops" if dtype == "float32" else f"fastops {dtype}"
        for kind, model in models.items():
            fused = SiamFC(**model.settings()).eval()
            fused.load_state_dict(model.state_dict())
            if dtype == "int8":
                fused.int8 = measure_int8(fused, *crops)[0]
            trackers[name, kind] = Tracker(fused, device=args.device, dtype=getattr(torch, dtype))
    return trackers


def price(plain: np.ndarray, adorned: np.ndarray) -> float:
    """Speed of a network over that of the plain network: the median over the turns."""
    turns = range(0, len(plain), TURN)
    return float(np.median([np.median(plain[t : t + TURN]) / np.median(adorned[t : t + TURN]) for t in turns]))


def check_boxes(kind: str, name: str, overlap: np.ndarray) -> None:
    least, mean = overlap.min(), overlap.mean()
    half = name.endswith(("16", "int8"))
    if mean < HALF_MEAN_IOU or not half and (least < MIN_IOU or mean < MEAN_IOU):
        raise SystemExit(f"{kind}: {name}'s boxes differ from the reference's: IoU {least:.3f}, mean {mean:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--source", help="OTB-style folder, video or image folder (default: a real or synthetic one)")
    parser.add_argument("--box", help="x,y,w,h of the target in the first frame, where the source has no ground truth")
    parser.add_argument("--weights", type=Path, help="ReLU checkpoint")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument(
        "--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16", "float16", "int8")
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    source, box, name = find_source(args)
    frames, decode = read_frames(source, args.frames)
    if len(frames) < 10:
        raise SystemExit(f"fps: source must have at least 10 frames, got {len(frames)}")
    per_frame = decode / len(frames)
    where = environment(args.device)
    height, width = frames[0].shape[:2]
    print(f"{where['device']}, torch {where['torch']}; {name}, {len(frames)} frames of {width}x{height}\n")

    torch._dynamo.config.cache_size_limit = 64  # the networks share code, and each of their sizes has a graph
    crops = sample_crops([annotated(args)], 24) if "int8" in args.dtype else None
    with full_float32():
        trackers = make_trackers(args, args.weights, crops)
        seconds, boxes = measure(trackers, frames, box, args.device)
    results = Results(args.csv, where)
    for (other, kind), s in seconds.items():
        overlap = iou(boxes[other, kind], boxes["reference", kind])
        check_boxes(kind, other, overlap)
        p50, p95, p99 = np.percentile(s, (50, 95, 99)) * 1e3
        fps, end_to_end = len(s) / s.sum(), len(s) / (s.sum() + per_frame * len(s))
        ratio = np.median(seconds["reference", kind]) * 1e3 / p50
        row = {"benchmark": "fps", "model": kind, "tracker": other, "source": name, "frames": len(s)}
        row |= {"size": f"{width}x{height}", "tracker_fps": f"{fps:.2f}", "end_to_end_fps": f"{end_to_end:.2f}"}
        row |= {"p50_ms": f"{p50:.2f}", "p95_ms": f"{p95:.2f}", "p99_ms": f"{p99:.2f}"}
        row |= {"over_reference": f"{ratio:.2f}", "min_iou": f"{overlap.min():.4f}"}
        results.add(row)
    for name, kind in seconds:
        if kind != PLAIN:
            ratio = price(seconds[name, PLAIN], seconds[name, kind])
            results.add({"benchmark": "fps price", "model": kind, "tracker": name, "price": f"{ratio:.3f}"})
    print_results(results)
    return 0


def print_results(results: Results) -> None:
    """Print the tables from rows of the file."""
    table = []
    for row in results.rows("fps"):
        columns = ("tracker_fps", "end_to_end_fps", "p50_ms", "p95_ms", "p99_ms")
        cells = [f"{float(row[column]):.1f}" for column in columns]
        table.append(
            [row["model"], row["tracker"], *cells, f"{row['over_reference']}x", f"{float(row['min_iou']):.3f}"]
        )
    times = ("tracker fps", "end-to-end fps", "p50 ms", "p95 ms", "p99 ms")
    print_table(["network", "tracker", *times, "speed-up", "least IoU"], table)
    print()
    prices = [[row["model"], row["tracker"], f"{float(row['price']):.2f}"] for row in results.rows("fps price")]
    print_table(["network", "tracker", f"over {PLAIN}"], prices)


if __name__ == "__main__":
    sys.exit(main())
