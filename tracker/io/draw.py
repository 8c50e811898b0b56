"""What a run leaves for people to look at: annotated frames, videos and box files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import ArrayLike

from tracker.io.files import Replacement, behind_link, is_stream, replacing, why_not_whole

TRACKED, LOST, TRUTH, TEXT = (60, 220, 60), (235, 50, 50), (255, 205, 40), (255, 255, 255)
# H.264 plays in browsers, but many builds of OpenCV cannot write it; MPEG-4 part 2 is in all of them. VP8 plays in
# browsers too, and takes 25 times as long to write (55 ms of noisy 640x480).
CODECS = {".mp4": ("avc1", "mp4v"), ".avi": ("MJPG",), ".webm": ("VP80",)}
DEFAULT_FPS = 30.0


FPS_RANGE = (0.1, 1000.0)  # a header that says less or more does not know: time bases of 90,000 are common
ASPECT_RANGE = (0.25, 4.0)  # width over height of a pixel: anamorphic film has 2


class VideoError(OSError):
    """A video that cannot be written; the message is one line."""


def usable_fps(fps: float | None) -> float | None:
    """A frame rate as it is, or None for one that no video has: not finite, below .1 or above 1000.

    Example:
        >>> usable_fps(29.97), usable_fps(90000.0)
        (29.97, None)
    """
    low, high = FPS_RANGE
    return float(fps) if fps is not None and low <= fps <= high else None


def usable_aspect(aspect: float) -> float:
    """The width of a pixel over its height as it is, or 1 where no video has it: not finite, below 1/4 or above 4.

    Example:
        >>> usable_aspect(64 / 45), usable_aspect(65535.0)
        (1.4222222222222223, 1.0)
    """
    low, high = ASPECT_RANGE
    return float(aspect) if low <= aspect <= high else 1.0


def annotate(
    image: np.ndarray,
    box: ArrayLike,
    *,
    score: float | None = None,
    lost: bool = False,
    frame: int | None = None,
    fps: float | None = None,
    truth: ArrayLike | None = None,
) -> np.ndarray:
    """Return a copy of an RGB uint8 image [H, W, 3] with the tracked box and what is known about it.

    Args:
        image: the frame; it is not changed.
        box: x, y, w, h in pixels, 0-based; green, or red when `lost`. One that is not finite or has no area marks an
            absent target: nothing is drawn for it.
        score: written above the box.
        frame: frame number, written in the corner together with `fps`.
        truth: the true box, in yellow, under the tracked one.
    """
    image = image.copy()
    unit = max(1, round(min(image.shape[:2]) / 240))  # line width that suits the image
    if truth is not None:
        _rectangle(image, truth, TRUTH, unit)
    color = LOST if lost else TRACKED
    corner = _rectangle(image, box, color, 2 * unit)
    label = ("lost" if lost else "") if score is None else f"{'lost ' if lost else ''}{score:.2f}"
    if label and corner is not None:
        left, top = corner
        _text(image, label, left, top - 5 * unit, color, unit)
    words = [] if frame is None else [f"frame {frame}"]
    if fps is not None:
        words.append(f"{fps:.0f} fps")
    if words:
        _text(image, "   ".join(words), 4 * unit, 16 * unit, TEXT, unit)
    return image


def _rectangle(
    image: np.ndarray, box: ArrayLike, color: tuple[int, int, int], thickness: int
) -> tuple[int, int] | None:
    """Draw a box and return its left top corner; None, and nothing drawn, for the box of an absent target."""
    x, y, w, h = np.asarray(box, np.float64)
    if not np.isfinite([x, y, w, h]).all() or min(w, h) <= 0:
        return None
    # OpenCV draws with 32-bit coordinates: a box far outside is cut to just beyond the image.
    height, width = image.shape[:2]
    left, right = (int(round(float(np.clip(v, -thickness, width + thickness)))) for v in (x, x + w - 1))
    top, bottom = (int(round(float(np.clip(v, -thickness, height + thickness)))) for v in (y, y + h - 1))
    cv2.rectangle(image, (left, top), (right, bottom), color, thickness)
    return left, top


def _text(image: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int], unit: int) -> None:
    scale = 0.5 * unit
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    x = min(max(x, 2), max(2, image.shape[1] - width - 2))
    y = min(max(y, height + 2), image.shape[0] - 3)
    # On a dark plate: readable over any image.
    cv2.rectangle(image, (x - 2, y - height - 2), (x + width + 2, y + below), (0, 0, 0), cv2.FILLED)
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, unit, cv2.LINE_AA)


def check_writable(path: Path, name: str) -> None:
    """Raise `OSError`, in one line that begins with `name`, unless a file `path` can be made or replaced.

    A file that is removed at once is made for it: permissions alone do not tell (read-only mounts, the superuser).
    """
    if is_stream(path):  # nothing is made beside it
        return
    path = behind_link(path)
    if not path.parent.is_dir():
        raise OSError(f"{name} must lie in an existing folder, got {str(path)!r}")
    if path.is_dir():
        raise OSError(f"{name} must be a file, got the folder {str(path)!r}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(
            f"{name} must lie in a folder that can be written, got {str(path)!r} ({error.strerror})"
        ) from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what C code prints on the standard error."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


class VideoWriter:
    """Writes RGB uint8 frames to an .mp4 (H.264 where OpenCV has it, else MPEG-4), .avi (Motion JPEG) or .webm (VP8).

    The video grows under a temporary name in the same folder. `close` reads it back and gives it its own name if all
    frames are there. Left by an exception, or by Ctrl-C, the context manager removes it instead. A video of no frames
    is removed too.

    The codecs store even sizes only. A frame of an odd width or height is padded by a copy of its last column or row.
    The pixels of the file are square: frames of other pixels are stretched along one side, so that they look the same.

    Args:
        path: ends in .mp4, .avi or .webm; an existing file is replaced when the new one is whole.
        size: (width, height) of the frames in pixels.
        fps: frames per second; None, and a rate that no video has (see `usable_fps`), stand for 30.
        pixel_aspect: width of a pixel of the frames over its height; one that no video has (see `usable_aspect`)
            stands for 1.

    Attributes:
        codec: the four-character code in use.
        frames: number of frames written.

    Raises:
        ValueError: the suffix is another one.
        OSError: the folder is missing or cannot be written, or `path` is a folder.
        VideoError: OpenCV has no codec for the format, or (in `close`) the file is not whole, for example because the
            disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with VideoWriter(f"{folder}/out.avi", (64, 48), fps=25) as video:
        ...         video.write(np.zeros((48, 64, 3), np.uint8))
        ...     video.path.is_file()
        True
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: tuple[int, int],
        fps: float | None = None,
        *,
        pixel_aspect: float = 1.0,
    ) -> None:
        self.path, self.size, self.frames = Path(path), (int(size[0]), int(size[1])), 0
        suffix = self.path.suffix.lower()
        if suffix not in CODECS:
            raise ValueError(f"path must end in .mp4, .avi or .webm, got {str(path)!r}")
        check_writable(self.path, "path")
        if is_stream(self.path):
            raise OSError(f"path must be a file, got the device or pipe {str(path)!r}")
        (width, height), aspect = self.size, usable_aspect(pixel_aspect)
        width, height = round(width * max(1, aspect)), round(height * max(1, 1 / aspect))
        self._stretched = None if (width, height) == self.size else (width, height)
        self._pad = (width % 2, height % 2)
        self._coded = (width + width % 2, height + height % 2)
        self._new = Replacement(self.path)
        for self.codec in CODECS[suffix]:
            fourcc = cv2.VideoWriter_fourcc(*self.codec)
            # OpenCV prints that .webm knows no tag "VP80", and writes the video all the same.
            with _without_stderr() if suffix == ".webm" else nullcontext():
                self._writer = cv2.VideoWriter(
                    str(self._new.temporary), fourcc, usable_fps(fps) or DEFAULT_FPS, self._coded
                )
            if self._writer.isOpened():
                return
            self._writer.release()
        error = why_not_whole(self._new.temporary)
        self._new.discard()
        if error is not None:
            raise VideoError(f"{str(path)!r} cannot be written: {error.strerror}")
        raise VideoError(f"OpenCV must have one of the codecs {', '.join(CODECS[suffix])}, got none for {str(path)!r}")

    def write(self, image: np.ndarray) -> None:
        """Append one RGB uint8 frame [H, W, 3] of the writer's size."""
        width, height = self.size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(f"image must be uint8 {[height, width, 3]}, got {image.dtype} {list(image.shape)}")
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self._stretched is not None:
            image = cv2.resize(image, self._stretched)
        if any(self._pad):
            image = cv2.copyMakeBorder(image, 0, self._pad[1], 0, self._pad[0], cv2.BORDER_REPLICATE)
        self._writer.write(image)
        self.frames += 1

    def close(self) -> None:
        """Finish the file, check it and give it its name; does nothing when the writer was closed or aborted before."""
        self._writer.release()
        frames, self.frames = self.frames, 0
        if frames:
            self._new.commit(lambda temporary: self._check(temporary, frames))
        else:
            self._new.discard()

    def abort(self) -> None:
        """Drop what was written; a file that had the name before stays as it was."""
        self._writer.release()
        self.frames = 0
        self._new.discard()

    def _check(self, temporary: Path, frames: int) -> None:
        """Decode the file once: OpenCV does not tell when a frame could not be written."""
        capture = cv2.VideoCapture(str(temporary))
        try:
            size = tuple(int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            found = 0
            while capture.grab():
                found += 1
        finally:
            capture.release()
        if found != frames or size != self._coded:
            error = why_not_whole(temporary)
            reason = f"{found} of {frames} frames can be read back" if error is None else error.strerror
            raise VideoError(f"{str(self.path)!r} cannot be written whole: {reason}")

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_boxes(path: str | os.PathLike[str], boxes: ArrayLike) -> None:
    """Write 0-based boxes [N, 4] as an OTB result file: one "x,y,w,h" per line, 1-based, two decimals.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_boxes(f"{folder}/boxes.txt", [[0, 0, 10, 20]])
        ...     Path(f"{folder}/boxes.txt").read_text()
        '1.00,1.00,10.00,20.00\\n'
    """
    rows = np.asarray(boxes, np.float64).reshape(-1, 4) + (1, 1, 0, 0)
    with replacing(Path(path)) as temporary:
        temporary.write_text("".join("{:.2f},{:.2f},{:.2f},{:.2f}\n".format(*row) for row in rows))
