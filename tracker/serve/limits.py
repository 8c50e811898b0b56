"""Limits of uploads: size, length, and only files that contain a video themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tracker.engines.target import as_box
from tracker.io.draw import DEFAULT_FPS, usable_fps
from tracker.io.sources import SourceError, open_source

NOT_A_VIDEO = "this file is not a video that can be read here: MP4, MOV, WebM, MKV, AVI, MPEG, FLV, OGG or WMV"
# Containers that hold their pictures themselves. Playlists, manifests, session descriptions and concatenation scripts
# refer to other files or addresses, which FFmpeg would read for the sender.
CAPTURE_OPTIONS = "protocol_whitelist;file|format_whitelist;mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf"


class Refused(Exception):
    """A refused request: one line for the page, and the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limits of a server, for one video and for all stored videos."""

    upload_bytes: int = 200_000_000
    stall_seconds: float = 30.0  # the longest time that an upload may pause or be slower than the rate
    least_rate: float = 50_000.0  # of an upload, bytes per second
    seconds: float = 120.0
    frames: int = 7200
    pixels: int = 4096 * 2304  # of a frame: a small file may contain pictures that exceed the memory
    compared_frames: int = 100
    jobs: int = 8  # waiting
    videos: int = 12
    videos_per_owner: int = 3
    unwatched_seconds: float = 180.0  # without a request for a job; a hidden tab asks once a minute


@dataclass(frozen=True, eq=False)
class Facts:
    """Properties of a video; `frames` is None if the container does not say."""

    size: tuple[int, int]
    fps: float
    frames: int | None
    first: np.ndarray


def check_upload_size(count: int, limits: Limits) -> None:
    """Refuse an upload of more bytes than allowed."""
    if count > limits.upload_bytes:
        raise Refused(f"the file must have at most {limits.upload_bytes / 1e6:g} MB", 413)


def check_video(path: Path, limits: Limits) -> Facts:
    """Read the header and the first frame of an uploaded file. Messages contain no path.

    Raises:
        Refused: the file is not a video, or is larger or longer than allowed.
    """
    with path.open("rb") as file:
        if not _is_container(file.read(512)):
            raise Refused(NOT_A_VIDEO, 415)
    capture = cv2.VideoCapture(str(path))
    width, height, count = (
        int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)
    )
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    _check_pixels((width, height), limits)
    fps = usable_fps(fps) or DEFAULT_FPS
    if count > limits.frames:
        raise Refused(f"the video must have at most {limits.frames} frames, got {count}")
    if count > limits.seconds * fps:
        raise Refused(f"the video must last at most {limits.seconds:g} seconds, got {count / fps:.0f}")
    try:
        with open_source(path, read_ahead=0) as frames:
            first = next(frames)
    except SourceError:
        raise Refused(NOT_A_VIDEO, 415) from None
    size = first.shape[1], first.shape[0]
    _check_pixels(size, limits)  # the header may announce a smaller picture
    return Facts(size, fps, count if count > 0 else None, first)


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise Refused(f"frames must have at most {limits.pixels / 1e6:.2g} million pixels, got {size[0]} x {size[1]}")


def check_box(box: object, size: tuple[int, int]) -> np.ndarray:
    """Return the box that was drawn on a frame of `size` (width, height) as float64 [4]: x, y, w, h.

    Raises:
        Refused: there is none, or it lies outside the frame.
    """
    if box is None:
        raise Refused("draw a box around the target first")
    try:
        return np.array(as_box(box, (size[1], size[0])))  # type: ignore[arg-type]
    except ValueError as error:
        raise Refused(str(error)) from None


@contextmanager
def only_whole_videos() -> Iterator[None]:
    """In the block, OpenCV's FFmpeg opens local files of the known containers only."""
    name = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    before = os.environ.get(name)
    os.environ[name] = CAPTURE_OPTIONS
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _is_container(head: bytes) -> bool:
    starts = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"0&\xb2u", b"\0\0\1\xba", b"\0\0\1\xb3")
    return (
        head.startswith(starts)
        or head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head[0:377:188] == b"GGG"  # packets of a transport stream
    )
