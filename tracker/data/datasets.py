"""Reads data sets as sequences, in the layouts of their authors.

A new data set goes here: a function that finds its sequences, a function that loads one, and an entry in `LAYOUTS`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tracker.data import imagenet_vid
from tracker.data.annotations import Problems, parse_region, read_flags, read_names, read_rows
from tracker.data.otb import list_targets, load_sequence
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
    """Read the annotations of a data set. Its images are only listed.

    | layout | folders and files | split |
    |---|---|---|
    | got10k | <split>/<name>/*.jpg, groundtruth.txt, absence.label; list.txt | train, val, test |
    | otb | <name>/img/*.jpg, groundtruth_rect.txt or .1.txt, .2.txt, ... | otb50, otb2013, otb100 |
    | vot | <name>/*.jpg or color/*.jpg, groundtruth.txt (boxes or polygons); list.txt | |
    | lasot | <class>/<name>/img/*.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt | train, test |
    | trackingnet | TRAIN_<i>/frames/<name>/*.jpg, anno/<name>.txt | train, TRAIN_0, test |
    | imagenet-vid | Data/VID/<split>/.../*.JPEG, Annotations/VID/<split>/.../*.xml | train, val |
    | folder | <name>/*.jpg or img/*.jpg, groundtruth.txt | |

    Boxes of GOT-10k, OTB, LaSOT and plain folders are 1-based in the files, like those of `tracker track --results`,
    and become 0-based; the others are kept. In every layout a line holds a box, a polygon or the mark of an absent
    target (`tracker.data.annotations.parse_region`). Frames in which the target is absent, out of view or fully
    occluded count as absent. Without a split got10k reads `root` itself, lasot everything, trackingnet and imagenet-
    vid "train".

    Folders that hold neither ground truth nor images, such as `__MACOSX`, are left out with a note, and so are names in
    `list.txt` without a folder.

    Args:
        layout: one of the above.
        root: the folder that holds the data set.
        split: a part of the data set, as above.
        skip_bad: leave out what is wrong: a frame if its line is malformed, else the sequence.
        skipped: gets a line for everything that was left out; None: a warning sums them up.

    Raises:
        ValueError: the layout or split is unknown, there are no sequences, or an annotation is wrong; the message names
            file and line.
        FileNotFoundError: a folder or file is missing.

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
    for location in find(root, split, problems):
        try:
            sequences += load(location, problems)
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
        ValueError: the text has another form, and as `open_dataset`.

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


def open_places(places: Iterable[str], only: Collection[str] = (), frames: int | None = None) -> list[Sequence]:
    """The sequences of several places, see `open_place`.

    Args:
        only: names of the sequences to take; all of them when empty.
        frames: how many frames of each, from the first on; None: all.

    Raises:
        ValueError, OSError: as `open_place`, and for names that are not there.

    Example:
        >>> open_places(["otb:OTB", "got10k:got10k:val"], ["Deer"], frames=200)  # doctest: +SKIP
    """
    found = [sequence for place in places for sequence in open_place(place)]
    if missing := set(only) - {sequence.name for sequence in found}:
        raise ValueError(f"names must be those of sequences, got {', '.join(sorted(missing))}")
    if frames is not None and frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    return [
        Sequence(sequence.name, sequence.frames, sequence.boxes[:frames], sequence.absent[:frames])
        for sequence in found
        if not only or sequence.name in only
    ]


def summary(lines: list[str], limit: int = 3) -> str:
    """One line for what was left out: how much of it, and the first few.

    Example:
        >>> summary(["a", "b"])
        'skipped 2: a; b'
    """
    more = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return f"skipped {len(lines)}: {'; '.join(lines[:limit])}{more}"


# ---- layouts: finding sequences and reading one --------------------------------------------------------------


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"{root} must be an existing folder")
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def _sequence_folders(root: Path, problems: Problems, images: str | None = None) -> list[Path]:
    """The folders in `root` that hold ground truth or images (in `images`, None: in the folder itself)."""
    found = []
    for folder in _folders(root):
        inner = [folder / name for name in (images,) if name] or [folder, folder / "img", folder / "color"]
        if any(folder.glob("groundtruth*.txt")) or any(path.is_dir() and images_in(path) for path in inner):
            found.append(folder)
        else:
            problems.note(f"{folder}: folder left out, it holds neither ground truth nor images")
    return found


def _named(names: Path, folder_of: Callable[[str], Path], problems: Problems) -> list[Path]:
    """The folders of a list of sequences, without those that are not there."""
    found = []
    for name in read_names(names):
        if folder_of(name).is_dir():
            found.append(folder_of(name))
        else:
            problems.note(f"{names}: {name} left out, there is no such folder")
    return found


def _listed(root: Path, problems: Problems) -> list[Path]:
    names = root / "list.txt"
    if names.is_file():
        return _named(names, lambda name: root / name, problems)
    return _sequence_folders(root, problems)


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


def _find_got10k(root: Path, split: str | None, problems: Problems) -> list[Path]:
    return _listed(root / split if split else root, problems)


def _load_got10k(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_region, problems), _frames(folder)
    _one_per_frame(path, boxes, frames, 1)  # the test split has the first box only
    label = folder / "absence.label"
    absent = read_flags(label, len(frames))[: len(boxes)] if label.is_file() else None
    return [Sequence(folder.name, frames, _one_based(boxes), absent)]


def _find_otb(root: Path, split: str | None, problems: Problems) -> list[Path]:
    _no_sequence(root, "img")
    if split is None:
        return _sequence_folders(root, problems, "img")
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
    return [load_sequence(folder, target + 1, None, problems) for target in range(len(list_targets(folder)))]


def _find_vot(root: Path, split: str | None, problems: Problems) -> list[Path]:
    _no_sequence(root, "groundtruth.txt")
    return _listed(root, problems)


def _load_vot(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_region, problems), _frames(folder, folder / "color")
    _one_per_frame(path, boxes, frames)
    return [Sequence(folder.name, frames, boxes)]


def _find_lasot(root: Path, split: str | None, problems: Problems) -> list[Path]:
    folders = [entry for entry in _folders(root) if (entry / "groundtruth.txt").is_file()]  # without the classes
    if not folders:
        folders = list(chain.from_iterable(_sequence_folders(entry, problems, "img") for entry in _folders(root)))
    if split is None:
        return folders
    known = {folder.name: folder for folder in folders}
    return _named(root / f"{split}ing_set.txt", lambda name: known.get(name, root / name), problems)


def _load_lasot(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_region, problems), _frames(folder / "img")
    _one_per_frame(path, boxes, frames)
    hidden, outside = (read_flags(folder / f"{name}.txt", len(boxes)) for name in ("full_occlusion", "out_of_view"))
    return [Sequence(folder.name, frames, _one_based(boxes), hidden | outside)]


def _find_trackingnet(root: Path, split: str | None, problems: Problems) -> Iterator[Path]:
    if split in (None, "train"):
        parts = [part for part in _folders(root) if part.name.startswith("TRAIN_")]
    else:
        parts = [root / ("TEST" if split == "test" else split)]
    # The pattern leaves out the dot files that some systems leave beside each file.
    return chain.from_iterable(sorted((part / "anno").glob("[!.]*.txt"), key=natural_key) for part in parts)


def _load_trackingnet(path: Path, problems: Problems) -> list[Sequence]:
    boxes = read_rows(path, parse_region, problems)
    frames = _frames(path.parents[1] / "frames" / path.stem)
    _one_per_frame(path, boxes, frames, 1)  # the test split has the first box only
    return [Sequence(path.stem, frames, boxes)]


def _find_imagenet_vid(root: Path, split: str | None, problems: Problems) -> Iterator[Path]:
    return imagenet_vid.video_folders(root, split or "train")


def _load_imagenet_vid(folder: Path, problems: Problems) -> list[Sequence]:
    root = next(parent for parent in folder.parents if parent.name == "Annotations").parent
    return imagenet_vid.load_video(root, folder, problems)


def _find_folder(root: Path, split: str | None, problems: Problems) -> list[Path]:
    return [root] if (root / "groundtruth.txt").is_file() else _sequence_folders(root, problems)


def _load_folder(folder: Path, problems: Problems) -> list[Sequence]:
    path = folder / "groundtruth.txt"
    boxes, frames = read_rows(path, parse_region, problems), _frames(folder, folder / "img")
    if len(boxes) > len(frames):
        raise ValueError(
            f"{path}:{len(frames) + 1}: file must hold at most one box per frame ({len(frames)}), got {len(boxes)}"
        )
    return [Sequence(folder.resolve().name, frames, _one_based(boxes))]


class Layout(NamedTuple):
    """How to read a layout: `find` lists the locations of sequences under a root, `load` loads those at a location."""

    find: Callable[[Path, str | None, Problems], Iterator[Path] | list[Path]]
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
