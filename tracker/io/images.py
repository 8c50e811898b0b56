"""Reads image files and images of other libraries as RGB uint8 arrays, for all commands."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np

JPEG = b"\xff\xd8"  # how such a file starts
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras whose files have 16 bits


class ImageError(ValueError):
    """An image file that is missing, empty, truncated or of no known format; the message starts with its path."""


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read an image file as RGB uint8 [H, W, 3]. `to_uint8` scales more than 8 bits.

    Raises:
        ImageError: if the file is missing or incomplete, or cannot be decoded. (OpenCV fills a truncated JPEG with
            grey.)
    """
    return read_reduced(path, 1)[0]


def read_reduced(path: str | PathLike[str], reduce: int) -> tuple[np.ndarray, int]:
    """Read a JPEG at 1/`reduce` of its sides (1, 2, 4 or 8), and other formats in full size.

    A reduced JPEG is never decoded in full size, which is faster (1280 x 720: 4.1 ms in full size, 0.9 ms at one half).
    Its pixel i covers the pixels reduce i to reduce (i + 1) of the full image.

    Returns:
        The image and its reduction.

    Raises:
        ImageError: the same as `read_image`.
    """
    try:
        data = Path(path).read_bytes()
        if not data.startswith(JPEG):
            reduce = 1
        return decode_image(data, reduce), reduce
    except OSError as error:
        raise ImageError(f"{path}: image must be a readable file, got {error.strerror or error}") from error
    except ValueError as error:
        raise ImageError(f"{path}: {error}") from error


def decode_image(data: bytes, reduce: int = 1) -> np.ndarray:
    """Decode the bytes of an image file to RGB uint8 [H, W, 3].

    Raises:
        ValueError: if the bytes are damaged or have no known format.
    """
    # The coded pixels contain neither marker, so a complete JPEG has an end after the start of its last scan.
    if data.startswith(JPEG) and data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise ValueError("image must be a whole JPEG, got a truncated one")
    flags = _REDUCED.get(reduce, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
        if image is None and data:  # grey floating-point numbers, which OpenCV does not convert to colours
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # more pixels than OpenCV takes
        image = None
    if image is None:
        raise ValueError(f"image must be of a format that OpenCV decodes, got {len(data)} bytes that are not")
    image = to_uint8(image)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    image = np.ascontiguousarray(image[..., :3])
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert an image with any number of bits to 8 bits.

    Cameras with 10, 12 or 14 bits write files with 16 bits. The depth of the image is the smallest of these that can
    hold its largest value, so a 12-bit image does not become almost black. Floating-point numbers are from 0 to 1 if
    none is larger, else from 0 to 255.

    Example:
        >>> to_uint8(np.array([[0, 2048, 4095]], np.uint16)).tolist()
        [[0, 128, 255]]
    """
    if image.dtype == np.uint8:
        return image
    if np.issubdtype(image.dtype, np.floating):
        image = np.nan_to_num(image)
        scale = 255.0 if image.max() <= 1 else 1.0
        return np.clip(np.rint(image * scale), 0, 255).astype(np.uint8)
    largest = int(image.max())
    bits = next((bits for bits in _DEPTHS if largest < 1 << bits), 32)
    return (np.maximum(image, 0) >> (bits - 8)).astype(np.uint8)


def is_pil(image: Any) -> bool:
    """Whether `image` is an image of PIL, which need not be installed."""
    return type(image).__module__.partition(".")[0] == "PIL" and hasattr(image, "convert")


def from_pil(image: Any) -> np.ndarray:
    """A PIL image of any mode as RGB uint8 [H, W, 3]. `to_uint8` scales the modes I;16 and F."""
    if image.mode.startswith("I") or image.mode == "F":
        return to_uint8(np.asarray(image))[..., None].repeat(3, axis=2)
    return np.asarray(image.convert("RGB"))
