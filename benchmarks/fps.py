"""The speed of one tracker in several implementations.

    python -m benchmarks.fps [--source FOLDER_OR_VIDEO --box x,y,w,h] [--csv FILE]

reference  the usual SiamFC: stock eager PyTorch, OpenCV crops of a padded copy, NumPy after the network
compile    the same with its network under torch.compile
fastops    tracker.Tracker, in each of --dtype

Each runs with the ReLU network and with the paper's network (Mish + SE). All track the same frames in one run. They
take turns of a few frames, because after another tracker's turn the weights have left the cache. Their boxes must be
equal before any number is printed; for half types the difference is printed. Milliseconds and speed-ups are those of
the median update. "tracker fps" is frames over the total time of the updates; "end-to-end fps" adds the time to decode
the frames. The last table is the price of Mish and attention: the speed with them over the speed without them, as the
median over the turns, in which the two networks follow each other.

Weights are those of --weights (a ReLU checkpoint), by default those in $SIAMFC_DATA/weights, else random. The Mish + SE
network uses their convolutions, and random attention. So its speed is valid, but its boxes mean little.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import append_rows, environment, print_table
from tests.support.paths import DATA
from tracker import SiamFC, Tracker
from tracker.data.otb import load_sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.engines.reference import ReferenceTracker
from tracker.eval.metrics import iou
from tracker.io.sources import open_images, open_source
from tracker.network.checkpoint import load_model

MODELS = {"relu": ("relu", "none"), "mish+se": ("mish", "se")}
# For equal boxes, in the worst frame and on average: float32 rounding can move an arg max by 1/16 of a cell.
MIN_IOU, MEAN_IOU = 0.9, 0.99
HALF_MEAN_IOU = 0.8
TURN = 8  # frames


def build_model(kind: str, weights: Path | None) -> SiamFC:
    activation, attention = MODELS[kind]
    torch.manual_seed(0)
    model = SiamFC(activation, attention, ops="reference").eval()
    if weights is not None:
        model.backbone.load_state_dict(load_model(weights, ops="reference").backbone.state_dict())
    return model


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


def read_frames(source: object, count: int) -> tuple[list[np.ndarray], float]:
    """The first frames, and the seconds to decode them (to render them for a synthetic video)."""
    start = time.perf_counter()
    if isinstance(source, SyntheticVideo):
        frames = [source.frame(i)[0] for i in range(count)]
    else:
        with open_images(source, "frames") if isinstance(source, list) else open_source(source) as opened:
            frames = [frame for frame, _ in zip(opened, range(count), strict=False)]
    return frames, time.perf_counter() - start


def measure(trackers: dict, frames: list[np.ndarray], box: np.ndarray, device: str) -> tuple[dict, dict]:
    """Seconds of every update and boxes of every tracker. They run in turns; each turn another one starts."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    names = list(trackers)
    for tracker in trackers.values():
        tracker.init(frames[0], box)
        for frame in frames[1:6]:  # warm-up: compilation, caches, allocator
            tracker.update(frame)
        tracker.init(frames[0], box)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    boxes: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for turn, first in enumerate(range(1, len(frames), TURN)):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            for frame in frames[first : first + TURN]:
                sync()
                start = time.perf_counter()
                result = trackers[name].update(frame)
                sync()
                seconds[name].append(time.perf_counter() - start)
                boxes[name].append(np.asarray(result.box))
    return {n: np.array(s) for n, s in seconds.items()}, {n: np.array(b) for n, b in boxes.items()}


def make_trackers(args: argparse.Namespace, weights: Path | None) -> dict[tuple[str, str], object]:
    """The trackers, by name and network."""
    models = {kind: build_model(kind, weights) for kind in MODELS}
    trackers: dict[tuple[str, str], object] = {}
    for name in ("reference", "compile")[: 1 if args.no_compile else 2]:
        for kind, model in models.items():
            twin = copy.deepcopy(model)
            trackers[name, kind] = ReferenceTracker(twin, device=args.device, compile=name == "compile")
    for dtype in args.dtype:
        name = "fastops" if dtype == "float32" else f"fastops {dtype}"
        for kind, model in models.items():
            fused = SiamFC(*MODELS[kind])
            fused.load_state_dict(model.state_dict())
            trackers[name, kind] = Tracker(fused.eval(), device=args.device, dtype=getattr(torch, dtype))
    return trackers


def price(plain: np.ndarray, adorned: np.ndarray) -> float:
    """Speed of the network with Mish and attention over that of the plain network, for each turn."""
    turns = range(0, len(plain), TURN)
    return float(np.median([np.median(plain[t : t + TURN]) / np.median(adorned[t : t + TURN]) for t in turns]))


def check_boxes(kind: str, name: str, overlap: np.ndarray) -> None:
    least, mean = overlap.min(), overlap.mean()
    half = name.endswith("16")
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
        "--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16", "float16")
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    published = sorted((DATA / "weights").glob("*.pth"))
    weights = args.weights or (published[0] if published else None)
    source, box, name = find_source(args)
    frames, decode = read_frames(source, args.frames)
    if len(frames) < 10:
        raise SystemExit(f"fps: source must have at least 10 frames, got {len(frames)}")
    per_frame = decode / len(frames)
    where = environment(args.device)
    height, width = frames[0].shape[:2]
    print(f"{where['device']}, torch {where['torch']}; {name}, {len(frames)} frames of {width}x{height}\n")

    torch._dynamo.config.cache_size_limit = 64  # the networks share code: each size of each needs a graph
    trackers = make_trackers(args, weights)
    seconds, boxes = measure(trackers, frames, box, args.device)
    rows, table = [], []
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
        rows.append({**where, **row})
        cells = [f"{fps:.1f}", f"{end_to_end:.1f}", f"{p50:.1f}", f"{p95:.1f}", f"{p99:.1f}"]
        table.append([kind, other, *cells, f"{ratio:.2f}x", f"{overlap.min():.3f}"])
    header = [
        "network",
        "tracker",
        "tracker fps",
        "end-to-end fps",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "speed-up",
        "least IoU",
    ]
    print_table(header, table)
    print()
    plain, adorned = MODELS
    names = list(dict.fromkeys(name for name, _ in seconds))
    prices = {name: price(seconds[name, plain], seconds[name, adorned]) for name in names}
    print_table(["tracker", f"{adorned} over {plain}"], [[name, f"{ratio:.2f}"] for name, ratio in prices.items()])
    rows += [{**where, "benchmark": "fps price", "tracker": n, "price": f"{ratio:.3f}"} for n, ratio in prices.items()]
    if args.csv:
        append_rows(args.csv, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
