"""Attributes, visibility and resolution from the annotations of data sets, for sequences and frames."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tracker.data.annotations import read_names
from tracker.data.sequence import Sequence

# In the order of the flags in LaSOT's att/<sequence>.txt: illumination variation, partial occlusion, deformation,
# motion blur, camera motion, rotation, background clutter, viewpoint change, scale variation, full occlusion, fast
# motion, out of view, low resolution, aspect ratio change.
LASOT = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
_CLASS = re.compile(r"^(root_class|motion_class):[ \t]*(\S.*)$", re.MULTILINE)
_SIZE = re.compile(r"^resolution:\s*\((\d+),\s*(\d+)\)", re.MULTILINE)


def folder_of(sequence: Sequence) -> Path | None:
    """The folder of a sequence's annotations, or None if its frames are not files."""
    if callable(sequence.frames):
        return None
    parent = Path(sequence.frames[0]).parent
    return parent.parent if parent.name in ("img", "color") else parent


def sequence_attributes(sequence: Sequence) -> list[str]:
    """Attributes of a whole sequence: the names in OTB's attrs.txt; LaSOT's flags.

    LaSOT's authors keep the flags in annos/att of their toolkit. Copy that folder into the data set as att/. Without
    it, a sequence has full_occlusion or out_of_view if one of its frames has.
    """
    folder = folder_of(sequence)
    if folder is None:
        return []
    names = []
    if (folder / "attrs.txt").is_file():
        lines = read_names(folder / "attrs.txt")
        names += [name.strip() for line in lines for name in re.split(r"[,;\t]", line) if name.strip()]
    kept = [parent / "att" / f"{folder.name}.txt" for parent in list(folder.parents)[:2]]  # next to it or its class
    if flags := next((path for path in kept if path.is_file()), None):
        values = read_values(flags, len(LASOT))
        return names + [name for name, value in zip(LASOT, values, strict=True) if value > 0]
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
    """Frames of a GOT-10k sequence in which a part of the target is visible, bool [N]: cover.label above 0."""
    folder = folder_of(sequence)
    path = folder / "cover.label" if folder else None
    if path is None or not path.is_file():
        return ~sequence.absent
    return read_values(path, len(sequence)) > 0


def got10k_attributes(sequence: Sequence) -> dict[str, np.ndarray]:
    """Attributes of a GOT-10k sequence, bool [N] each: the classes hold in all frames, the others in some.

    The classes are the root class of the target and the class of its motion (meta_info.ini). A target is occluded if
    only a part of it is visible (cover.label is 1 to 7 eighths), and cut_by_image if the image ends within it.
    """
    folder = folder_of(sequence)
    if folder is None:
        return {}
    count, masks = len(sequence), {}
    meta = folder / "meta_info.ini"
    for key, value in _CLASS.findall(meta.read_text(encoding="utf-8")) if meta.is_file() else ():
        masks[f"{key.removesuffix('_class')}: {value.strip()}"] = np.ones(count, bool)
    for name, low, high in (("cover", 1, 7), ("cut_by_image", 1, 1)):
        if (path := folder / f"{name}.label").is_file():
            values = read_values(path, count)
            masks["occluded" if name == "cover" else name] = (values >= low) & (values <= high)
    return masks


def image_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height of the images, from GOT-10k's meta_info.ini or from the first image."""
    folder = folder_of(sequence)
    meta = folder / "meta_info.ini" if folder else None
    if meta is not None and meta.is_file() and (found := _SIZE.search(meta.read_text())):
        return int(found[1]), int(found[2])
    height, width = sequence.image(0).shape[:2]
    return width, height


def read_values(path: Path, frames: int) -> np.ndarray:
    """The numbers of a file, on one line or many, float64 [frames]. Missing ones at the end are 0.

    Raises:
        ValueError: the file holds anything else, or too many numbers; the message names it.
    """
    try:
        values = np.array([float(field) for line in read_names(path) for field in re.split(r"[,\s]+", line) if field])
    except ValueError as error:
        raise ValueError(f"{path}: file must hold a number per frame, got {error}") from error
    if len(values) > frames:
        raise ValueError(f"{path}: file must hold at most one number per frame ({frames}), got {len(values)}")
    return np.pad(values, (0, frames - len(values)))
