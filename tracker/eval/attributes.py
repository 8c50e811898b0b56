"""What data sets tell about their sequences and frames: attributes, visibility, resolution."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tracker.data.annotations import read_names
from tracker.data.sequence import Sequence

_SIZE = re.compile(r"^resolution:\s*\((\d+),\s*(\d+)\)", re.MULTILINE)


def folder_of(sequence: Sequence) -> Path | None:
    """The folder of a sequence's annotations, or None where its frames are no files."""
    if callable(sequence.frames):
        return None
    parent = Path(sequence.frames[0]).parent
    return parent.parent if parent.name in ("img", "color") else parent


def sequence_attributes(sequence: Sequence) -> list[str]:
    """Attributes of a whole sequence: the names in OTB's attrs.txt, and LaSOT's flags of which a frame is set."""
    folder = folder_of(sequence)
    if folder is None:
        return []
    names = []
    if (folder / "attrs.txt").is_file():
        lines = read_names(folder / "attrs.txt")
        names += [name.strip() for line in lines for name in re.split(r"[,;\t]", line) if name.strip()]
    for flag in ("full_occlusion", "out_of_view"):
        path = folder / f"{flag}.txt"
        if path.is_file() and read_values(path, len(sequence)).any():
            names.append(flag)
    return names


def frame_attributes(sequence: Sequence) -> dict[str, np.ndarray]:
    """Attributes of single frames, bool [N] each: VOT's files *.tag and *.label."""
    folder = folder_of(sequence)
    files = sorted([*folder.glob("*.tag"), *folder.glob("*.label")]) if folder else []
    return {path.stem: read_values(path, len(sequence)) > 0 for path in files}


def visible_frames(sequence: Sequence) -> np.ndarray:
    """Frames of a GOT-10k sequence in which something of the target is seen, bool [N]: cover.label above 0."""
    folder = folder_of(sequence)
    path = folder / "cover.label" if folder else None
    if path is None or not path.is_file():
        return ~sequence.absent
    return read_values(path, len(sequence)) > 0


def image_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of the images, as GOT-10k's meta_info.ini tells them or as the first image has them."""
    folder = folder_of(sequence)
    meta = folder / "meta_info.ini" if folder else None
    if meta is not None and meta.is_file() and (found := _SIZE.search(meta.read_text())):
        return int(found[1]), int(found[2])
    height, width = sequence.image(0).shape[:2]
    return width, height


def read_values(path: Path, frames: int) -> np.ndarray:
    """The numbers of a file, on one line or many, float64 [frames]; where there are fewer, the rest are 0.

    Raises:
        ValueError: names the file that holds something else or more of them.
    """
    try:
        values = np.array([float(field) for line in read_names(path) for field in re.split(r"[,\s]+", line) if field])
    except ValueError as error:
        raise ValueError(f"{path}: file must hold a number per frame, got {error}") from error
    if len(values) > frames:
        raise ValueError(f"{path}: file must hold at most one number per frame ({frames}), got {len(values)}")
    return np.pad(values, (0, frames - len(values)))
