"""Sources of frames: video files, image folders, glob patterns, cameras, streams, arrays and iterables."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracker.io.background import DEPTH, ReadAhead
from tracker.io.draw import usable_aspect, usable_fps
from tracker.io.images import ImageError, from_pil, is_pil, read_image

_CAMERA = re.compile(r"(?:camera:)?(\d+)")
_LAST_CAMERA = 2**31 - 1
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Containers round their frame count and length, so a video is only truncated if it ends at least this much too early.
TRUNCATED_BELOW = 0.9
# Protocols in real time, without a known length. Over http a file may arrive as fast as it is read.
LIVE_PROTOCOLS = frozenset({"rtsp", "rtsps", "rtp", "rtmp", "rtmps", "srt", "udp"})
#: The time limits for opening a stream and for its next frame.
STREAM_SECONDS = 10.0


class SourceError(ValueError):
    """A source of frames that cannot be opened or read; the message is one line."""


class Source:
    """An iterator over RGB uint8 frames [H, W, 3], and a context manager that closes the source.

    The first frame is read at once, so an unreadable source fails when it is opened. After that frame, up to
    `read_ahead` frames are decoded in advance in a thread, which ends with the frames or in `close`. With `read_ahead`
    0 every frame is decoded on demand. For a `live` source the thread keeps only the newest frame: a consumer that is
    slower than the camera misses frames and does not lag behind.

    Attributes:
        name: what the frames were read from, for messages and file names.
        fps: frames per second, or None where the source does not say.
        size: (width, height) in pixels; every frame has it.
        frame_count: number of frames, or None where it is not known; of a video file it is what its header says.
        pixel_aspect: width of a pixel over its height, for showing the frames; 1 where the source does not say.
    """

    def __init__(
        self,
        frames: Iterator[np.ndarray],
        name: str,
        *,
        fps: float | None = None,
        frame_count: int | None = None,
        close: Callable[[], None] | None = None,
        read_ahead: int = 0,
        live: bool = False,
        pixel_aspect: float = 1.0,
    ) -> None:
        self.name, self.fps, self.frame_count, self.pixel_aspect = name, fps, frame_count, pixel_aspect
        self._frames, self._close, self._index = frames, close, 0
        self._read_ahead, self._live = read_ahead, live
        try:
            first = next(frames, None)
            if first is None:
                raise SourceError(f"source must hold at least one frame, got none in {name}")
            first = _checked(first, name, 0)
        except BaseException:
            self.close()
            raise
        self.size: tuple[int, int] = (first.shape[1], first.shape[0])
        self._first: np.ndarray | None = first

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> np.ndarray:
        if self._first is not None:
            frame, self._first = self._first, None
            if self._read_ahead:
                # The reader closes the source. From here on that is the thread.
                self._frames = ReadAhead(self._frames, depth=self._read_ahead, newest=self._live, close=self._close)
                self._close = self._frames.close
        else:
            frame = _checked(next(self._frames), self.name, self._index)
            width, height = self.size
            if frame.shape[:2] != (height, width):
                raise SourceError(
                    f"frame {self._index} of {self.name} must be {width}x{height} like the first, "
                    f"got {frame.shape[1]}x{frame.shape[0]}"
                )
        self._index += 1
        return frame

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file, camera or generator. Further iteration gives nothing. May be called twice."""
        close, self._close = self._close, None
        self._frames, self._first = iter(()), None
        if close is not None:
            close()


def open_source(source: Any, *, read_ahead: int = DEPTH) -> Source:
    """Open frames for tracking: `source` may be any of

    * a video file;
    * a folder of images, or an OTB-style sequence folder with the images in `img/` (natural order: 2 before 10);
    * a glob pattern of images, such as `"frames/*.png"`, or one image;
    * a camera: an int, `"0"` or `"camera:0"`;
    * a stream address, such as `"rtsp://..."`, which must answer within 10 s;
    * an open `cv2.VideoCapture`, from its next frame on; it stays open;
    * an array [N, H, W, 3] or any iterable of uint8 arrays, RGB [H, W, 3] or grey [H, W] (which become RGB), of PIL
      images or of paths of image files;
    * a `Source`, which is returned as it is.

    `~` in a path is the home folder. Image files of more than 8 bits are scaled (`tracker.io.images.to_uint8`). A frame
    rate below .1 or above 1000 counts as unknown. Frames, and the boxes in them, are in the pixels that the file
    stores, square or not; a pixel whose width is below 1/4 or above 4 of its height counts as square.

    Args:
        source: see above.
        read_ahead: number of frames decoded in advance, in a thread; 0 decodes every frame on demand. For cameras and
            endless streams in real time (rtsp, rtmp, rtp, srt, udp) the thread keeps the newest frame and drops the
            others, so a slow consumer does not lag behind. Arrays and iterables are never read in advance, because an
            iterable may reuse one buffer.

    Raises:
        ValueError: if `read_ahead` is negative.
        SourceError: if a path, frame or camera is missing, has no frame, cannot be decoded, ends too early or changes
            its size. The message names it. Frames are decoded on demand, so a damaged frame raises the error when it is
            reached. A video ends too early if both its frames and their times end before the header's values. If the
            container has no frame count, the header's count is an estimate, which is wrong for variable frame rates.

    Example:
        >>> with open_source(np.zeros((3, 48, 64, 3), np.uint8)) as frames:
        ...     print(frames.size, frames.frame_count, sum(1 for _ in frames))
        (64, 48) 3 3
    """
    if isinstance(source, Source):
        return source
    if read_ahead < 0:
        raise ValueError(f"read_ahead must be at least 0, got {read_ahead}")
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return _camera(int(source), read_ahead)
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if not text:
            raise SourceError("source must be a path, a glob pattern, a camera number or a stream, got ''")
        if camera := _CAMERA.fullmatch(text):
            return _camera(int(camera[1]), read_ahead)
        if _ADDRESS.match(text):
            return _video(text, read_ahead)
        return _path(Path(text).expanduser(), read_ahead)
    if isinstance(source, cv2.VideoCapture):
        if not source.isOpened():
            raise SourceError("source must be an open cv2.VideoCapture, got one that is closed or failed to open")
        frames = _read_capture(source, None, "")
        return Source(frames, "VideoCapture", fps=_fps(source), pixel_aspect=_pixel_aspect(source))
    if is_pil(source):
        raise SourceError(f"source must be frames, got a single PIL image {source.size[0]}x{source.size[1]}")
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, (str, os.PathLike)) for item in source):
        return open_images([Path(item).expanduser() for item in source], "list of paths", read_ahead=read_ahead)
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] in (1, 3):
        raise SourceError(f"source must be frames [N, H, W, 3] or [N, H, W], got a single image {list(source.shape)}")
    if isinstance(source, Iterable):
        count = len(source) if hasattr(source, "__len__") else None
        frames = iter(source)
        return Source(frames, type(source).__name__, frame_count=count, close=getattr(frames, "close", None))
    raise SourceError(
        f"source must be a path, a glob pattern, a camera number or an iterable of frames, got {type(source).__name__}"
    )


def is_path(text: str) -> bool:
    """Whether the name of a source is that of a file or folder, not of a camera, a stream or a pattern."""
    return Path(text).expanduser().exists() or not (
        _CAMERA.fullmatch(text) or _ADDRESS.match(text) or any(c in text for c in "*?[")
    )


def natural_key(path: Path) -> list[tuple[bool, int, str]]:
    """Sort key that orders digits by value: `img2.png` before `img10.png`."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder in natural order, or none if the folder does not exist."""
    if not folder.is_dir():
        return []
    # Dot files are the resource forks some systems leave beside each image.
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(images, key=natural_key)


def open_images(paths: list[Path], name: str, *, read_ahead: int = DEPTH) -> Source:
    """Open image files as the frames of a source, in the order given."""
    return Source(_read_images(paths), name, frame_count=len(paths), read_ahead=read_ahead)


def _path(path: Path, read_ahead: int) -> Source:
    if path.is_dir():
        images = images_in(path) or images_in(path / "img")
        if not images:
            raise SourceError(f"source must be a folder that holds images, got none in {str(path)!r}")
        return open_images(images, str(path), read_ahead=read_ahead)
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return open_images([path], str(path), read_ahead=read_ahead)
        with path.open("rb") as file:
            head = file.read(1024)
        # FFmpeg opens plain text as a video of characters, so text is refused here; raw video may look like text.
        if head and not head.startswith(b"YUV4MPEG2 ") and not any(byte < 9 for byte in head):
            raise SourceError(f"source must be a video or an image, got the text file {str(path)!r}")
        return _video(str(path), read_ahead)
    if glob.has_magic(str(path)):
        # A folder may be called "run [1]", so an existing path is not a pattern.
        literal = next(parent for parent in path.parents if parent.is_dir() or not glob.has_magic(str(parent)))
        pattern = str(Path(glob.escape(str(literal)), path.relative_to(literal)))
        matches = sorted((Path(match) for match in glob.glob(pattern, recursive=True)), key=natural_key)
        images = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise SourceError(f"source must be a pattern that matches images, got {str(path)!r}")
        return open_images(images, str(path), read_ahead=read_ahead)
    raise SourceError(f"source must be an existing file, folder, pattern or camera, got {str(path)!r}")


def _read_images(paths: list[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        yield _read_frame(path)


def _read_frame(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise SourceError(f"{str(path)!r} must be an image that can be decoded: {reason}") from error


def _camera(index: int, read_ahead: int) -> Source:
    if not 0 <= index <= _LAST_CAMERA:
        raise SourceError(f"camera must be a number from 0 to {_LAST_CAMERA}, got {index}")
    capture = cv2.VideoCapture(index)
    if not capture.isOpened():
        raise SourceError(f"camera {index} must be connected and free, it could not be opened")
    frames, name = _read_capture(capture, None, ""), f"camera {index}"
    return Source(frames, name, fps=_fps(capture), close=capture.release, read_ahead=read_ahead, live=True)


def _video(address: str, read_ahead: int) -> Source:
    capture = _open_stream(address) if _ADDRESS.match(address) else cv2.VideoCapture(address)
    if not capture.isOpened():
        raise SourceError(
            f"{address!r} must be a video that can be decoded (it is truncated, empty or of a format "
            "OpenCV does not read)"
        )
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frame_count = count if count > 0 else None  # streams report 0 or less
    live = frame_count is None and address.split("://")[0].lower() in LIVE_PROTOCOLS
    return Source(
        _read_capture(capture, frame_count, address),
        address,
        fps=_fps(capture),
        frame_count=frame_count,
        close=capture.release,
        read_ahead=read_ahead,
        live=live,
        pixel_aspect=_pixel_aspect(capture),
    )


def _open_stream(address: str) -> cv2.VideoCapture:
    if cv2.CAP_FFMPEG not in cv2.videoio_registry.getStreamBackends():  # a build with only GStreamer
        return cv2.VideoCapture(address)
    milliseconds = round(STREAM_SECONDS * 1e3)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
    began = time.monotonic()
    # Only FFmpeg, because other backends would be tried one after the other, each with its own time limit.
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        seconds = time.monotonic() - began
        what = f"no answer in {seconds:.0f} s" if seconds >= 0.9 * STREAM_SECONDS else "no video"
        raise SourceError(f"stream {address!r} must be reachable and send a video, got {what}")
    return capture


def _fps(capture: cv2.VideoCapture) -> float | None:
    return usable_fps(capture.get(cv2.CAP_PROP_FPS))


def _pixel_aspect(capture: cv2.VideoCapture) -> float:
    above, below = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    return usable_aspect(above / below) if below else 1.0


def _read_capture(capture: cv2.VideoCapture, frame_count: int | None, name: str) -> Iterator[np.ndarray]:
    index, position = 0, 0.0
    while True:
        ok, image = capture.read()
        if not ok:
            break
        index, position = index + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if not index or not frame_count:
        return
    # Where the container stores no count, OpenCV reports length x frame rate. A whole file of variable rate then has
    # fewer frames than that, but its last one lies at the end of that length.
    fps = _fps(capture)
    at_end = fps is not None and position >= TRUNCATED_BELOW * frame_count / fps
    if index < TRUNCATED_BELOW * frame_count and not at_end:
        raise SourceError(f"{name!r} must hold {frame_count} frames as its header says, got {index}")


def _checked(frame: Any, name: str, index: int) -> np.ndarray:
    if isinstance(frame, (str, os.PathLike)):
        return _read_frame(Path(frame).expanduser())
    array = from_pil(frame) if is_pil(frame) else np.asarray(frame)
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    rgb = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise SourceError(
            f"frame {index} of {name} must be a uint8 array [H, W, 3] or [H, W], got {array.dtype} {list(array.shape)}"
        )
    return rgb
