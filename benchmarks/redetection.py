"""How often a lost target is found again: python -m benchmarks.redetection [--weights NAME_OR_FILE] [--csv FILE]

Each video is made from one real frame. Its target stays for 10 frames, is removed and inpainted for 30 frames, and
then appears for 60 frames at the farthest possible position (`tests.support.vanishing`). The frames come from the
sequences that are kept for validation, `--frames` of each, evenly spread. A run counts as

    found     in the last 10 frames it is not lost, and the boxes overlap the target by more than one half
    wrong     in the last 10 frames it is not lost, and the boxes overlap the target by less than a tenth
    early     after the first lost frame, it is not lost in some frame without the target
    noticed   it is lost in some frame without the target

The same videos are tracked with and without the search. Each video and setting appends a row to --csv at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.accuracy import HELD_OUT
from benchmarks.harness import Results, environment, parse, print_table
from tests.support.paths import DATA
from tests.support.vanishing import ABSENT, VanishingVideo
from tracker import Tracker
from tracker.data.datasets import open_places
from tracker.eval.metrics import iou
from tracker.network.pretrained import DEFAULT

BEFORE, AFTER, LAST = 10, 60, 10
OUTCOMES = ("found", "wrong", "early", "noticed")


def videos(count: int) -> Iterator[tuple[str, VanishingVideo]]:
    """Yield a name and a video for `count` frames of each sequence that have space for another position."""
    for folder, names in HELD_OUT.items():
        for sequence in open_places([f"otb:{DATA / folder}"], names):
            seen = np.flatnonzero(~sequence.absent)
            for index in seen[np.linspace(0, len(seen) - 1, count).astype(int)]:
                image, box = sequence.image(int(index)), sequence.boxes[index]
                height, width = image.shape[:2]
                x, y, w, h = box
                if x < 0 or y < 0 or x + w > width or y + h > height:
                    continue
                corners = [(left, top) for left in (2, int(width - w - 2)) for top in (2, int(height - h - 2))]
                far = max(corners, key=lambda corner: np.hypot(corner[0] - x, corner[1] - y))
                if np.hypot(far[0] - x, far[1] - y) > 1.5 * max(w, h):
                    yield f"{sequence.name} {index}", VanishingVideo(image, box, far, BEFORE, AFTER)


def outcome(tracker: Tracker, video: VanishingVideo) -> dict[str, bool]:
    """The outcome for the target."""
    results = list(tracker.track(iter(video), video.boxes[0]))
    lost = np.array([result.lost for result in results])
    boxes = np.array([result.box for result in results])
    overlaps = iou(boxes[-LAST:], video.boxes[-LAST:])
    absent = lost[BEFORE : BEFORE + ABSENT]
    first = int(np.argmax(absent)) if absent.any() else ABSENT
    sure = not lost[-LAST:].any()
    return {
        "found": bool(sure and (overlaps > 0.5).all()),
        "wrong": bool(sure and (overlaps < 0.1).all()),
        "early": bool((~absent[first:]).any()),
        "noticed": bool(absent.any()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=[DEFAULT], help="names of networks in the package, or files")
    parser.add_argument("--frames", type=int, default=3, help="frames of each sequence")
    parser.add_argument("--score", type=float, nargs="+", default=[], help="values of redetect_score to compare")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parse(parser)
    results = Results(args.csv, environment("cpu"))
    made = list(videos(args.frames))
    table = []
    for weights in args.weights:
        settings = [{"redetect": False}, *({"redetect_score": score} for score in args.score or [None])]
        for setting in settings:
            setting = {key: value for key, value in setting.items() if value is not None}
            tracker = Tracker.from_pretrained(weights, **setting)
            counts = dict.fromkeys(OUTCOMES, 0)
            for name, video in made:
                found = outcome(tracker, video)
                counts = {key: counts[key] + found[key] for key in OUTCOMES}
                results.add({"benchmark": "redetection", "weights": weights, "video": name, **setting, **found})
            words = ", ".join(f"{key} {value}" for key, value in setting.items()) or "as it is"
            table.append([Path(weights).name, words, str(len(made)), *map(str, counts.values())])
    print_table(["network", "search", "videos", *OUTCOMES], table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
