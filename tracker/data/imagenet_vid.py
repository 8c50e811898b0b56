"""ImageNet-VID: one XML file per frame, in which each target of the video has a track id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

import numpy as np

from tracker.data.annotations import Problems
from tracker.data.sequence import Sequence
from tracker.io.sources import images_in, natural_key

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def video_folders(root: Path, split: str) -> Iterator[Path]:
    """The folders of a split that hold a video's annotations: directly (val) or one folder further down (train)."""
    for folder in _folders(root / "Annotations" / "VID" / split):
        inner = _folders(folder)
        yield from inner if inner else [folder]


def load_video(root: Path, folder: Path, problems: Problems) -> list[Sequence]:
    """One sequence per track of the video whose annotations are in `folder`, from its first to its last frame.

    Raises:
        ValueError: an XML file is malformed or has no image; the message names file and line.
        FileNotFoundError: there are no images.
    """
    annotations = sorted(folder.glob("[!.]*.xml"), key=natural_key)
    if not annotations:
        raise FileNotFoundError(f"{folder}: folder must hold XML files, got none")
    images = root / "Data" / folder.relative_to(root / "Annotations")
    frames = images_in(images)
    if not frames:
        raise FileNotFoundError(f"{images}: folder must hold image files, got none")
    numbers = {path.stem: index for index, path in enumerate(frames)}
    tracks: dict[str, np.ndarray] = {}
    for path in annotations:
        try:
            boxes = read_objects(path)
            if path.stem not in numbers:
                raise ValueError(f"{path}:1: file must have an image of its name in {images}, got none")
        except ValueError as error:
            problems.add(error)
            continue
        for track, box in boxes.items():
            tracks.setdefault(track, np.full((len(frames), 4), np.nan))[numbers[path.stem]] = box
    sequences = []
    for track in sorted(tracks, key=lambda name: natural_key(Path(name))):
        seen = np.flatnonzero(~np.isnan(tracks[track][:, 0]))
        span = slice(seen[0], seen[-1] + 1)
        sequences.append(Sequence(f"{folder.name}.{track}", frames[span], tracks[track][span]))
    return sequences


def read_objects(path: Path) -> dict[str, list[float]]:
    """The boxes x, y, w, h of one frame by track id. The corners in the file are 0-based already.

    Raises:
        ValueError: the file is malformed; the message names file and line.
    """
    objects: dict[str, list[float]] = {}
    current: dict[str, str] = {}
    inside: list[str] = []
    text: list[str] = []
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        text.clear()
        if name == "object":
            current.clear()

    def end(name: str) -> None:
        inside.pop()
        if name == "trackid" or name in _SIDES:
            current[name] = "".join(text).strip()
        elif name == "object":
            try:
                track, (x1, y1, x2, y2) = current["trackid"], [float(current[side]) for side in _SIDES]
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"object must have a trackid and numbers xmin, ymin, xmax, ymax, got {current}"
                ) from error
            if not np.isfinite([x1, y1, x2, y2]).all() or x2 < x1 or y2 < y1:
                raise ValueError(f"object must have xmin <= xmax and ymin <= ymax, got {current}")
            if track in objects:
                raise ValueError(f"object must have a trackid of its own, got {track!r} again")
            objects[track] = [x1, y1, x2 - x1, y2 - y1]

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"{path}:{error.lineno}: file must be XML, got {expat.errors.messages[error.code]}") from error
    except ValueError as error:
        raise ValueError(f"{path}:{parser.CurrentLineNumber}: {error}") from error
    return objects


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=natural_key
    )
