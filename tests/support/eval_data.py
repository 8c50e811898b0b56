"""Small data sets in the layouts that `tracker eval` reads, with made-up results for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tracker.data.synthetic import SyntheticVideo

SIZE = (96, 72)
FRAMES = 30
VIDEO = SyntheticVideo(3, FRAMES, SIZE, occlusions=0)
TRUTH = VIDEO.boxes.round(1)  # 0-based
IMAGES = [cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in VIDEO.images()]


def write_frames(folder: Path, frames: int = FRAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(IMAGES[:frames], start=1):
        (folder / f"{index:08d}.jpg").write_bytes(data)


def write_rows(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{value:.3f}" for value in row) + "\n" for row in rows))


def one_based(boxes: np.ndarray) -> np.ndarray:
    return boxes + (1, 1, 0, 0)


def otb(root: Path, frames: int = FRAMES, names=("Car4", "Deer")) -> Path:
    for name in names:
        write_frames(root / name / "img", frames)
        write_rows(root / name / "groundtruth_rect.txt", one_based(TRUTH[:frames]))
    (root / names[0] / "attrs.txt").write_text("IV, SV\n")
    (root / names[-1] / "attrs.txt").write_text("SV\n")
    return root


def got10k(root: Path, names=("GOT-10k_Val_000001", "GOT-10k_Val_000002")) -> Path:
    for index, name in enumerate(names):
        folder = root / "val" / name
        write_frames(folder)
        write_rows(folder / "groundtruth.txt", one_based(TRUTH))
        cover = np.full(FRAMES, 8)
        cover[5 + index : 9] = 0
        for label, values in (("cover", cover), ("absence", cover == 0), ("cut_by_image", cover < 0)):
            (folder / f"{label}.label").write_text("\n".join(str(int(value)) for value in values) + "\n")
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nurl: none\nresolution: {SIZE}\n")
    (root / "val" / "list.txt").write_text("\n".join(names) + "\n")
    return root


def lasot(root: Path) -> Path:
    folder = root / "car" / "car-1"
    write_frames(folder / "img")
    write_rows(folder / "groundtruth.txt", one_based(TRUTH))
    (folder / "full_occlusion.txt").write_text(",".join("1" if 4 <= i < 7 else "0" for i in range(FRAMES)) + "\n")
    (folder / "out_of_view.txt").write_text(",".join(["0"] * FRAMES) + "\n")
    return root


def folder(root: Path) -> Path:
    write_frames(root / "mine")
    write_rows(root / "mine" / "groundtruth.txt", one_based(TRUTH))
    return root


def corners(boxes: np.ndarray) -> np.ndarray:
    """Quadrilaterals a little turned inside the boxes."""
    x, y, w, h = boxes.T
    return np.stack([x + w / 3, y, x + w, y + h / 3, x + w * 2 / 3, y + h, x, y + h * 2 / 3], axis=1).round(3)


def vot(root: Path) -> Path:
    for name, rows in (("bag", corners(TRUTH)), ("ball", TRUTH)):
        write_frames(root / name)
        write_rows(root / name / "groundtruth.txt", rows)
    marks = np.arange(FRAMES)
    (root / "bag" / "occlusion.tag").write_text("\n".join(str(int(5 <= i < 20)) for i in marks) + "\n")
    (root / "bag" / "camera_motion.label").write_text("\n".join(str(int(i < 12)) for i in marks) + "\n")
    (root / "ball" / "camera_motion.label").write_text("1\n1\n1\n")  # shorter than the sequence: the rest is 0
    (root / "list.txt").write_text("bag\nball\n")
    return root


MAKE = {"otb": otb, "got10k": got10k, "lasot": lasot, "folder": folder, "vot": vot}


def noisy(seed: int, truth: np.ndarray = TRUTH, scale: float = 4.0) -> np.ndarray:
    """Boxes around the true ones, some far off, 0-based, of three decimals."""
    rng = np.random.default_rng(seed)
    boxes = truth + rng.normal(0, scale, truth.shape) * (1, 1, 0.5, 0.5)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
    boxes[rng.random(len(boxes)) < 0.1, 0] += 60
    return boxes.round(3)
