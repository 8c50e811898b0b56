"""Data sets in the folder layouts of their authors, read as sequences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tracker.data import imagenet_vid
from tracker.data.annotations import Problems, parse_box_or_absent, parse_region, read_flags, read_names, read_rows
from tracker.data.otb import list_targets, load_target
from tracker.data.otb_lists import OTB_LISTS
from tracker.data.sequence import Sequence
from tracker.io.sources import images_in, natural_key


def open_dataset(
    layout: str,
    root: str | PathLike[str],
    split: str | None = None,
    *,
    skip_bad: bool = False,
    skipped: list[str] | None = None,
) -> list[Sequence]:
    """Read the annotations of a data set; the images stay where they are and are only listed.

    ============  =============================================================================== ======================
    layout        folders and files                                                               split
    ============  =============================================================================== ======================
    got10k        <split>/<name>/*.jpg, groundtruth.txt, absence.label; list.txt                  train, val, test
    otb           <name>/img/*.jpg, groundtruth_rect.txt or .1.txt, .2.txt, ...                   otb50, otb2013, otb100
    vot           <name>/*.jpg or color/*.jpg, groundtruth.txt (boxes or polygons); list.txt
    lasot         <class>/<name>/img/*.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt  train, test
    trackingnet   TRAIN_<i>/frames/<name>/*.jpg, anno/<name>.txt                                  train, TRAIN_0, test
    imagenet-vid  Data/VID/<split>/.../*.JPEG, Annotations/VID/<split>/.../*.xml                  train, val
    folder        <name>/*.jpg or img/*.jpg, groundtruth.txt
    ============  =============================================================================== ======================

    Boxes of GOT-10k, OTB, LaSOT and plain folders are 1-based in the files (those that `tracker track --results` writes
    too) and become 0-based; the others stay as they are. Frames whose target is absent, out of view or fully occluded
    count as absent. Without a split got10k takes `root` itself, lasot everything, trackingnet and imagenet-vid "train".

    Args:
        layout: one of the above.
        root: the folder that holds the data set.
        split: the part of it; only those above are there.
        skip_bad: leave out what is wrong: a frame where its line is malformed, else the sequence.
        skipped: gets a line for each that was left out; None: a warning sums them up.

    Raises:
        ValueError: when the layout or split is unknown, there are no sequences, or an annotation is wrong; the message
            names file and line.
        FileNotFoundError: when a folder or file is missing.

    Example:
        >>> open_dataset("got10k", "/data/got10k", "val")[0].name  # doctest: +SKIP
        'GOT-10k_Val_000001'
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"root must be an existing folder, got {root}")
    find, load, splits = LAYOUTS[layout]
    if split is not None and not any(fnmatchcase(split, known) for known in splits):
        known = f"one of {', '.join(splits)}" if splits else "left out"
        raise ValueError(f"split of {layout} must be {known}, got {split!r}")
    problems, sequences = Problems(skip_bad), []
    for place in find(root, split):
        try:
            sequences += load(place, problems)
        except (OSError, ValueError) as error:
            problems.add(error)
    if not sequences:
        where = f"{root} (split {split})" if split else f"{root}"
        left_out = f"; {len(problems.lines)} skipped, the first: {problems.lines[0]}" if problems.lines else ""
        raise ValueError(f"root must hold {layout} sequences, got none in {where}{left_out}")
    if skipped is not None:
        skipped += problems.lines
    elif problems.lines:
        warnings.warn(f"{summary(problems.lines)}", stacklevel=2)
    return sequences


def open_place(place: str, *, skip_bad: bool = False, skipped: list[str] | None = None) -> list[Sequence]:
    """`open_dataset` of "layout:root" or "layout:root:split".

    Raises:
        ValueError: when the place is of another form, and as `open_dataset`.

    Example:
        >>> open_place("lasot:/data/LaSOT:train")  # doctest: +SKIP
    """
    layout, _, rest = place.partition(":")
    if not layout or not rest:
        raise ValueError(f"place must be LAYOUT:ROOT or LAYOUT:ROOT:SPLIT, got {place!r}")
    root, _, split = rest.rpartition(":")
    if not root or Path(rest).is_dir() or "/" in split or "\\" in split:  # a colon may be part of a path
        root, split = rest, ""
    return open_dataset(layout, root, split or None, skip_bad=skip_bad, skipped=skipped)


def summary(lines: list[str], most: int = 3) -> str:
    """One line for what was left out: how much of it, and the first few."""
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return f"skipped {len(lines)}: {'; '.join(lines[:most])}{more}"


# ---- the layouts: where the sequences are, and how one is read -----------------------------------------------


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root} must be an existing folder")
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def _listed(root: Path) -> list[Path]:
    names = root / "list.txt"
    return [root / name for name in read_names(names)] if names.is_file() else _folders(root)


def _frames(*folders: Path) -> list[Path]:
    """The images of the first folder that has any."""
    for folder in folders:
        if frames := images_in(folder):
            return frames
    raise FileNotFoundError(f"{folders[0]}: folder must hold image files, got none")


def _one_per_frame(path: Path, boxes: np.ndarray, frames: list[Path], *also: int) -> None:
    if len(boxes) != len(frames) and len(boxes) not in also:
        raise ValueError(f"{path}:{len(boxes)}: file must hold one box per frame ({len(frames)}), got {len(boxes)}")


def _one_based(boxes: np.ndarray) -> np.ndarray:
    return boxes - (1, 1, 0, 0)


def _find_got10k(root: Path, split: str | None) -> list[Path]:
    return _listed(root / split if split else root)


def _load_got10k(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_box_or_absent, problems), _frames(folder)
    _one_per_frame(path, boxes, frames, 1)  # the test split tells the first box alone
    label = folder / "absence.label"
    absent = read_flags(label, len(frames))[: len(boxes)] if label.is_file() else None
    return [Sequence(folder.name, frames, _one_based(boxes), absent)]


def _find_otb(root: Path, split: str | None) -> list[Path]:
    _no_sequence(root, "img")
    if split is None:
        return _folders(root)
    missing = [name for name in OTB_LISTS[split] if not (root / name).is_dir()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(
            f"root must hold all sequences of {split}, got {root} without {', '.join(missing[:3])}{more}"
        )
    return [root / name for name in OTB_LISTS[split]]


def _no_sequence(root: Path, part: str) -> None:
    if (root / part).exists():
        raise ValueError(f"root must be the folder that holds the sequences, got the sequence {root}")


def _load_otb(folder: Path, problems: Problems) -> list[Sequence]:
    return [load_target(folder, target + 1, problems) for target in range(len(list_targets(folder)))]


def _find_vot(root: Path, split: str | None) -> list[Path]:
    _no_sequence(root, "groundtruth.txt")
    return _listed(root)


def _load_vot(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_region, problems), _frames(folder, folder / "color")
    _one_per_frame(path, boxes, frames)
    return [Sequence(folder.name, frames, boxes)]


def _find_lasot(root: Path, split: str | None) -> list[Path]:
    folders = [entry for entry in _folders(root) if (entry / "groundtruth.txt").is_file()]  # without the classes
    if not folders:
        folders = list(chain.from_iterable(_folders(entry) for entry in _folders(root)))
    if split is None:
        return folders
    names = read_names(root / f"{split}ing_set.txt")
    known = {folder.name: folder for folder in folders}
    return [known.get(name, root / name) for name in names]


def _load_lasot(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_box_or_absent, problems), _frames(folder / "img")
    _one_per_frame(path, boxes, frames)
    hidden, outside = (read_flags(folder / f"{name}.txt", len(boxes)) for name in ("full_occlusion", "out_of_view"))
    return [Sequence(folder.name, frames, _one_based(boxes), hidden | outside)]


def _find_trackingnet(root: Path, split: str | None) -> Iterator[Path]:
    if split in (None, "train"):
        parts = [part for part in _folders(root) if part.name.startswith("TRAIN_")]
    else:
        parts = [root / ("TEST" if split == "test" else split)]
    return chain.from_iterable(sorted((part / "anno").glob("*.txt"), key=natural_key) for part in parts)


def _load_trackingnet(path: Path, problems: Problems) -> list[Sequence]:
    boxes = read_rows(path, parse_box_or_absent, problems)
    frames = _frames(path.parents[1] / "frames" / path.stem)
    _one_per_frame(path, boxes, frames, 1)  # the test split tells the first box alone
    return [Sequence(path.stem, frames, boxes)]


def _find_imagenet_vid(root: Path, split: str | None) -> Iterator[Path]:
    return imagenet_vid.video_folders(root, split or "train")


def _load_imagenet_vid(folder: Path, problems: Problems) -> list[Sequence]:
    root = next(parent for parent in folder.parents if parent.name == "Annotations").parent
    return imagenet_vid.load_video(root, folder, problems)


def _find_folder(root: Path, split: str | None) -> list[Path]:
    return [root] if (root / "groundtruth.txt").is_file() else _folders(root)


def _load_folder(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_box_or_absent, problems), _frames(folder, folder / "img")
    if len(boxes) > len(frames):
        raise ValueError(
            f"{path}:{len(frames) + 1}: file must hold at most one box per frame ({len(frames)}), got {len(boxes)}"
        )
    return [Sequence(folder.resolve().name, frames, _one_based(boxes))]


class Layout(NamedTuple):
    """How a data set is read: its places under a root, the sequences at a place, and the splits it has."""

    find: Callable[[Path, str | None], Iterator[Path] | list[Path]]
    load: Callable[[Path, Problems], list[Sequence]]
    splits: tuple[str, ...] = ()


LAYOUTS = {
    "got10k": Layout(_find_got10k, _load_got10k, ("train", "val", "test")),
    "otb": Layout(_find_otb, _load_otb, tuple(OTB_LISTS)),
    "vot": Layout(_find_vot, _load_vot),
    "lasot": Layout(_find_lasot, _load_lasot, ("train", "test")),
    "trackingnet": Layout(_find_trackingnet, _load_trackingnet, ("train", "TRAIN_*", "test")),
    "imagenet-vid": Layout(_find_imagenet_vid, _load_imagenet_vid, ("train", "val")),
    "folder": Layout(_find_folder, _load_folder),
}
