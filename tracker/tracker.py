"""The tracker: one target, one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from tracker.checkpoint import load_model
from tracker.config import TrackerConfig
from tracker.model import EagerNetwork, SiamFC

BACKENDS = ("fastops", "eager")
MAX_BOX_SIDE = 1e6  # float32 still places a region this large to a fraction of a pixel
SAMPLED_SIDE = 2048  # a partly hidden region above this side is sampled: copying it to pad it would cost more


@dataclass(frozen=True, eq=False)
class TrackResult:
    """Where the target is in one frame.

    Attributes:
        box: x, y, w, h in pixels, 0-based, float64 [4]; (x, y) is the left top corner.
        score: contrast of the response against the first frame's own, 0 to 1; see `Tracker`.
        lost: the score has stayed below `TrackerConfig.lost_score` for `TrackerConfig.lost_frames` frames.
    """

    box: np.ndarray
    score: float
    lost: bool


class Network(Protocol):
    """What `Tracker` asks of a network."""

    def exemplar(self, crop: np.ndarray) -> None:
        """Store the template of an exemplar crop, uint8 [127, 127, 3]."""

    def responses(self, crops: np.ndarray) -> np.ndarray:
        """Return score maps, float32 [S, 17, 17], of search crops, uint8 [S, 255, 255, 3]."""


def crop_region(image: np.ndarray, center: np.ndarray, size: float, color: np.ndarray, out: np.ndarray) -> None:
    """Cut a square out of an image, fill what lies outside it with `color` and resize it bilinearly into `out`.

    The result equals, bit for bit, the same cut from a copy of the whole image padded with `color`, but at most the
    region itself is copied, and a large region that leaves the image costs the same at any size.

    Args:
        image: uint8 [H, W, 3].
        center: (y, x) in pixels, 0-based.
        size: side of the square in pixels; corners are rounded to whole pixels.
        color: uint8 [3].
        out: uint8 [side, side, 3], contiguous; written.
    """
    side = max(1, round(float(size)))
    top, left = (int(v) for v in np.round(center - (side - 1) / 2))
    height, width = image.shape[:2]
    y0, y1 = max(top, 0), min(top + side, height)
    x0, x1 = max(left, 0), min(left + side, width)
    if y0 >= y1 or x0 >= x1:
        out[:] = color
        return
    inside = y1 - y0 == side and x1 - x0 == side
    if not inside and side > max(SAMPLED_SIDE, 2 * len(out)):
        _sample_region(image, top, left, side, color, out)
        return
    patch = image[y0:y1, x0:x1]
    if not inside:
        borders = (y0 - top, top + side - y1, x0 - left, left + side - x1)
        patch = cv2.copyMakeBorder(patch, *borders, cv2.BORDER_CONSTANT, value=color.tolist())
    cv2.resize(patch, (len(out), len(out)), dst=out, interpolation=cv2.INTER_LINEAR)


def _sample_region(image: np.ndarray, top: int, left: int, side: int, color: np.ndarray, out: np.ndarray) -> None:
    """Resize a padded region like `cv2.resize`, reading only the four pixels under each pixel of the result.

    OpenCV's fixed point is followed exactly: weights of 11 bits, 4 bits dropped before the vertical pass and 18 after.
    """
    n = len(out)
    position = ((np.arange(n) + 0.5) * (side / n) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    low, high = (np.rint(w * 2048).astype(np.int32)[:, None] for w in (1 - fraction, fraction))

    index = np.concatenate((first, first + 1))
    rows, columns = index + top, index + left
    in_rows = (rows >= 0) & (rows < image.shape[0])
    in_columns = (columns >= 0) & (columns < image.shape[1])
    pixels = np.empty((2 * n, 2 * n, 3), np.int32)
    pixels[:] = color
    pixels[np.ix_(in_rows, in_columns)] = image[np.ix_(rows[in_rows], columns[in_columns])]

    horizontal = (pixels[:, :n] * low + pixels[:, n:] * high) >> 4  # [2n, n, 3]
    low, high = low[:, None], high[:, None]
    out[:] = (((low * horizontal[:n]) >> 16) + ((high * horizontal[n:]) >> 16) + 2) >> 2


class Tracker:
    """SiamFC tracker with clamped boxes, a score and a lost signal.

    The boxes are those of the well-known PyTorch SiamFC (`ReferenceTracker`) as long as no clamp acts: the centre stays
    within the image, the shorter side at or above `min_target_size`, both sides at or below `max_target_ratio` times
    the image's; a target that starts beyond a limit may stay as it started. A lost target so neither drifts off nor
    slows the tracker down.

    The score is (peak - mean) of the best scale's score map over the same of the first frame searched with its own
    template, cut to 0..1. With the published weights on 13 real targets, 1,640 frames of overlap above .4 against 251
    bad ones (56 of overlap below .05, 195 of another video): medians .74 and .28, area under the ROC curve .95. The
    peak-to-sidelobe ratio gave .89, the geometric mean of both .92, the peak alone .97; contrast was preferred to the
    peak because a constant offset of the response does not change it. The defaults of `lost` were chosen on these same
    frames, so expect less elsewhere: they hold for 2 % of the good ones (most of them a motorbike upside down) and 57 %
    of the bad ones; the first four frames of a miss never count.

    Args:
        model: the network; the tracker works on a copy of it.
        weights: path of a checkpoint, in place of `model`; see `tracker.checkpoint.load_model`.
        activation: "relu" or "mish", for `weights` that do not tell it, such as any .pth file; None is what they say,
            and ReLU where they say nothing.
        config: settings.
        device: where the network runs; None is the model's own, or with `weights` a GPU where there is one.
        dtype: floating-point type of the network; None is the model's own.
        backend: "fastops" for the fused inference path, "eager" for the model run op by op: in plain PyTorch with
            `weights`, with the ops it was made with where a model is passed in.

    Raises:
        ValueError: when an argument is out of its range, or not exactly one of `model` and `weights` is given.

    Example:
        >>> tracker = Tracker(SiamFC(width=0.25, ops="reference"), backend="eager")
        >>> image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        >>> tracker.init(image, (60, 40, 30, 20))
        >>> tracker.update(image).box.shape
        (4,)
    """

    def __init__(
        self,
        model: SiamFC | None = None,
        *,
        weights: str | os.PathLike[str] | None = None,
        activation: str | None = None,
        config: TrackerConfig | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "fastops",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"Tracker: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if (model is None) == (weights is None):
            got = "neither (no trained weights are part of this package)" if model is None else "both"
            raise ValueError(f"Tracker: one of model and weights must be given, got {got}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"Tracker: dtype must be a floating-point type, got {dtype}")
        self.config = config or TrackerConfig()
        if model is None:
            ops = "fastops" if backend == "fastops" else "reference"
            model = load_model(weights, activation=activation, ops=ops, out_scale=self.config.out_scale)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if backend == "fastops":
            from tracker.pipeline import FusedNetwork  # imported here: "eager" must work without the compiled library

            self.network: Network = FusedNetwork(model, device=device, dtype=dtype)
        else:
            self.network = EagerNetwork(model, device=device, dtype=dtype)

        cfg = self.config
        half, side = cfg.scale_num // 2, cfg.response_up * cfg.response_size
        self._scales = cfg.scale_step ** np.linspace(-half, half, cfg.scale_num)
        self._penalties = np.full(cfg.scale_num, cfg.scale_penalty, np.float32)
        self._penalties[half] = 1
        window = np.outer(np.hanning(side), np.hanning(side))
        self._window = cfg.window_influence * (window / window.sum())
        self._crops = np.empty((cfg.scale_num, cfg.instance_size, cfg.instance_size, 3), np.uint8)
        self._center: np.ndarray | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "fastops",
        activation: str | None = None,
        **overrides: Any,
    ) -> Tracker:
        """Build a tracker from a checkpoint; `overrides` replace defaults of `TrackerConfig`.

        Example:
            >>> Tracker.from_pretrained("siamfc.safetensors", scale_num=5)  # doctest: +SKIP
        """
        config = TrackerConfig.from_dict(overrides)
        return cls(weights=path, activation=activation, config=config, device=device, dtype=dtype, backend=backend)

    def init(self, image: np.ndarray | torch.Tensor, box: Sequence[float] | np.ndarray) -> None:
        """Start on a target.

        Args:
            image: RGB uint8 [H, W, 3], or grey [H, W]; NumPy array or tensor.
            box: x, y, w, h in pixels, 0-based; may leave the image but must overlap it.

        Raises:
            ValueError: when the image or the box is not of this kind.
        """
        cfg = self.config
        image = _as_rgb(image, "init")
        x, y, w, h = _as_box(box, image.shape)
        # float32, as the well-known implementation keeps them: a tie in rounding the corners then falls the same way.
        center = np.array([y + (h - 1) / 2, x + (w - 1) / 2], np.float32)
        self._size = np.array([h, w], np.float32)
        z_size = np.sqrt(np.prod(self._size + cfg.context * np.sum(self._size)))
        self._search_size = z_size * cfg.instance_size / cfg.exemplar_size
        self._min_side = min(cfg.min_target_size, float(self._size.min()))
        self._max_size = np.maximum(cfg.max_target_ratio * np.array(image.shape[:2]), self._size)
        self._color = np.rint(np.mean(image, axis=(0, 1))).astype(np.uint8)
        self._misses = 0

        exemplar = np.empty((cfg.exemplar_size, cfg.exemplar_size, 3), np.uint8)
        crop_region(image, center, z_size, self._color, exemplar)
        self.network.exemplar(exemplar)
        self._center = center
        self._own_contrast = _contrast(self._search(image)[cfg.scale_num // 2])

    def update(self, image: np.ndarray | torch.Tensor) -> TrackResult:
        """Find the target in the next image.

        Raises:
            RuntimeError: when `init` was not called before.
            ValueError: when the image is not RGB uint8 [H, W, 3] or grey [H, W].
            FloatingPointError: when the network's response is not finite.
        """
        if self._center is None:
            raise RuntimeError("Tracker: init must be called before update, got no target")
        cfg = self.config
        image = _as_rgb(image, "update")
        maps = self._search(image)
        side = cfg.response_up * cfg.response_size
        responses = [cv2.resize(m, (side, side), interpolation=cv2.INTER_CUBIC) for m in maps]
        for response, penalty in zip(responses, self._penalties, strict=True):
            response *= penalty
        best = int(np.argmax([response.max() for response in responses]))
        row, column = self._locate(responses[best])

        offset = (np.array([row, column]) - (side - 1) / 2) * cfg.total_stride / cfg.response_up
        self._center += offset * self._search_size * self._scales[best] / cfg.instance_size
        growth = (1 - cfg.scale_lr) * 1.0 + cfg.scale_lr * self._scales[best]
        # Clamps: identities on a target that is in view and of a plausible size.
        np.clip(self._center, 0, np.array(image.shape[:2]) - 1, out=self._center)
        growth = min(max(growth, self._min_side / self._size.min()), (self._max_size / self._size).min())
        self._size *= growth
        self._search_size *= growth

        # A response without contrast in the first frame tells nothing about the target: every score is then 0.
        score = min(max(_contrast(maps[best]) / max(self._own_contrast, 1e-12), 0.0), 1.0)
        self._misses = self._misses + 1 if score < cfg.lost_score else 0
        (y, x), (h, w) = self._center.astype(np.float64), self._size.astype(np.float64)
        box = np.array([x - (w - 1) / 2, y - (h - 1) / 2, w, h])
        return TrackResult(box, score, self._misses >= cfg.lost_frames)

    def track(self, source: Any, box: Sequence[float] | np.ndarray) -> Iterator[TrackResult]:
        """Yield a result for every frame of `source`; the first is the given box.

        Args:
            source: a video file, image folder, camera or iterable of images; see `tracker.data.sources.open_source`.
            box: x, y, w, h of the target in the first frame.
        """
        from tracker.data.sources import open_source

        with open_source(source) as frames:
            self.init(next(frames), box)
            yield TrackResult(np.array(box, np.float64), 1.0, False)
            for frame in frames:
                yield self.update(frame)

    def _search(self, image: np.ndarray) -> np.ndarray:
        """Return the score maps [S, 17, 17] of the crops around the target, one per scale."""
        for scale, crop in zip(self._scales, self._crops, strict=True):
            crop_region(image, self._center, self._search_size * scale, self._color, crop)
        maps = self.network.responses(self._crops)
        cfg = self.config
        expected = (cfg.scale_num, cfg.response_size, cfg.response_size)
        if maps.shape != expected:
            raise ValueError(f"Tracker: network must give score maps {list(expected)}, got {list(maps.shape)}")
        if not np.isfinite(maps).all():
            raise FloatingPointError("Tracker: the network's response must be finite, got NaN or infinity")
        return maps

    def _locate(self, response: np.ndarray) -> tuple[int, int]:
        """Return row and column of the peak of an upsampled response, normalised in place and windowed."""
        response -= response.min()
        response /= response.sum() + 1e-16
        blended = (1 - self.config.window_influence) * response + self._window
        return divmod(int(blended.argmax()), blended.shape[1])


def _contrast(score_map: np.ndarray) -> float:
    return float(score_map.max() - score_map.mean())


def _as_rgb(image: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: image must be a NumPy array or a tensor, got {type(image).__name__}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.size == 0 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(f"{name}: image must be uint8 [H, W, 3] or [H, W], got {array.dtype} {list(array.shape)}")
    return np.repeat(array[..., None], 3, axis=2) if array.ndim == 2 else array


def _as_box(box: Sequence[float] | np.ndarray, image_shape: tuple[int, ...]) -> tuple[float, ...]:
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f"init: box must be four finite numbers x, y, w, h, got {box!r}")
    x, y, w, h = (float(v) for v in values)
    if not (0 < w <= MAX_BOX_SIDE and 0 < h <= MAX_BOX_SIDE):
        raise ValueError(f"init: box must have sides above 0 and at most {MAX_BOX_SIDE:g} px, got {w:g} x {h:g}")
    height, width = image_shape[:2]
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"init: box must overlap the image of {width} x {height} px, got {x:g}, {y:g}, {w:g}, {h:g}")
    return x, y, w, h
