"""OTB-style sequences: a folder `img/` of frames and `groundtruth_rect*.txt` with one box per line."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import numpy as np

from tracker.data.annotations import Problems, parse_region, read_rows
from tracker.data.sequence import Sequence
from tracker.io.sources import images_in

# First annotated frame, 1-based, from the OTB toolkit's configuration, if it is not the first image.
START_FRAMES = {"BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18, "David": 300}


def list_targets(folder: str | PathLike[str]) -> list[Path]:
    """Return the ground-truth files of a sequence, one per target.

    `groundtruth_rect.txt` holds the only target; several targets are `groundtruth_rect.1.txt`, `.2.txt` and so on. Of
    these, empty files are left out if another one holds boxes: Human4 of OTB-100 comes with an empty first file.

    Raises:
        FileNotFoundError: the folder or a ground-truth file is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be an existing directory, got {folder}")
    single = folder / "groundtruth_rect.txt"
    if single.is_file():
        return [single]
    numbered = [p for p in folder.glob("groundtruth_rect.*.txt") if p.name.split(".")[1].isdigit()]
    if not numbered:
        raise FileNotFoundError(f"folder must hold groundtruth_rect.txt or .1.txt, got {folder}")
    filled = [p for p in numbered if p.read_bytes().strip()]
    return sorted(filled or numbered, key=lambda p: int(p.name.split(".")[1]))


def read_boxes(path: str | PathLike[str]) -> np.ndarray:
    """Read the boxes of an OTB file as they are (1-based): float64 [N, 4], four NaN where the target is absent.

    See `tracker.data.annotations.parse_region` for the lines. Empty lines at the end are skipped.

    Raises:
        ValueError: names the file and line that is neither a box nor the mark of an absent target.
    """
    return read_rows(Path(path), parse_region)


def load_sequence(
    folder: str | PathLike[str], target: int = 1, start_frame: int | None = None, problems: Problems | None = None
) -> Sequence:
    """Load one target of an OTB-style sequence; boxes become 0-based (the files are 1-based).

    Fewer boxes than images is allowed: the first box belongs to image `start_frame`, the images before it are left out
    and those after the last box are not annotated. More boxes than frames is an error: frames are missing then.

    Args:
        folder: holds `img/` with the frames, in natural order of their names, and the ground truth.
        target: 1 for the first target, 2 for the second and so on.
        start_frame: which image, counted from 1, the first box belongs to. None is the first image. The sequences in
            `START_FRAMES`, known by the folder's name, start there if they have fewer boxes than images.
        problems: gets malformed lines and frames without a box; None: the former are errors, the latter a warning.

    Raises:
        FileNotFoundError: the folder, the frames or the ground truth are missing.
        ValueError: the target or start frame does not exist, a line is malformed or there are more boxes than frames.

    Example:
        >>> sequence = load_sequence("OTB/Jogging", target=2)  # doctest: +SKIP
        >>> sequence.name, len(sequence.frames), sequence.boxes.shape  # doctest: +SKIP
        ('Jogging.2', 307, (307, 4))
    """
    folder = Path(folder)
    files = list_targets(folder)
    if not 1 <= target <= len(files):
        raise ValueError(f"target must be from 1 to {len(files)} in {folder}, got {target}")
    frames = images_in(folder / "img")
    if not frames:
        raise FileNotFoundError(f"{folder / 'img'} must hold image files, got none")
    boxes = read_rows(files[target - 1], parse_region, problems)
    name = folder.resolve().name
    if start_frame is None:
        start_frame = START_FRAMES.get(name, 1) if len(boxes) < len(frames) else 1
    if not 1 <= start_frame <= len(frames):
        raise ValueError(f"start_frame must be from 1 to {len(frames)} in {folder}, got {start_frame}")
    frames = frames[start_frame - 1 :]
    if len(boxes) > len(frames):
        raise ValueError(
            f"{files[target - 1]} must have at most one box per frame ({len(frames)}), got {len(boxes)} "
            f"from image {start_frame} on"
        )
    if len(boxes) < len(frames):
        line = f"{files[target - 1]}: {len(boxes)} boxes for {len(frames)} images, the last images are not annotated"
        if problems is None:
            warnings.warn(line, stacklevel=2)
        else:
            problems.note(line)
    boxes[:, :2] -= 1
    return Sequence(f"{name}.{target}" if len(files) > 1 else name, frames, boxes)
