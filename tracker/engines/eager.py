"""Tracking on the host: OpenCV makes the crops, the network runs op by op, NumPy updates the box."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from fastops.reference import box_peak
from tracker.config import TrackerConfig, box_settings
from tracker.engines.calibration import calibrated, calibration
from tracker.engines.redetect import Redetection
from tracker.engines.target import Start, TrackResult
from tracker.geometry import region_side

SEARCH_SIZE, OWN_CONTRAST = 4, 5  # columns of fastops.ops.response.State, which needs the compiled library
SAMPLED_SIDE = 2048  # larger regions that leave the image are sampled, because a padded copy costs more


class Network(Protocol):
    """The interface of a network for `EagerEngine`."""

    def exemplar(self, crop: np.ndarray) -> None:
        """Store the template of an exemplar crop, uint8 [127, 127, 3]."""

    def responses(self, crops: np.ndarray) -> np.ndarray:
        """Return score maps, float32 [S, 17, 17], of search crops, uint8 [S, 255, 255, 3]."""


def crop_region(image: np.ndarray, center: np.ndarray, size: float, color: np.ndarray, out: np.ndarray) -> None:
    """Crop a square of an image and resize it bilinearly into `out`. Pixels outside the image have `color`.

    The result equals, bit for bit, a crop from a copy of the whole image padded with `color`. But this function copies
    at most the region itself, and a large region that leaves the image takes the same time at any size.

    Args:
        image: uint8 [H, W, 3].
        center: (y, x) in pixels, 0-based.
        size: side of the square in pixels; corners are rounded to whole pixels.
        color: uint8 [3].
        out: uint8 [side, side, 3], contiguous; the result.
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
    """Resize a padded region like `cv2.resize`, but read only the four pixels for each pixel of the result.

    It follows OpenCV's fixed-point arithmetic exactly. Weights have 11 bits. 4 bits are dropped before the vertical
    pass, and 18 after it.
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


class EagerEngine:
    """Follows one target on the host with the algorithm of `tracker.engines.fused.FusedEngine`. Its state is in NumPy.

    Args:
        network: embeds and correlates the crops.
        config: settings.
    """

    def __init__(self, network: Network, config: TrackerConfig) -> None:
        self.network, self.config = network, config
        cfg = config
        half, side = cfg.scale_num // 2, cfg.response_up * cfg.response_size
        self._scales = cfg.scale_step ** np.linspace(-half, half, cfg.scale_num)
        self._penalties = np.full(cfg.scale_num, cfg.scale_penalty, np.float32)
        self._penalties[half] = 1
        window = np.outer(np.hanning(side), np.hanning(side))
        self._window = cfg.window_influence * (window / window.sum())
        self._crops = np.empty((cfg.scale_num, cfg.instance_size, cfg.instance_size, 3), np.uint8)

    def start(self, image: np.ndarray, start: Start) -> None:
        """Take the template from `image`, uint8 [H, W, 3]."""
        cfg = self.config
        self._center, self._size = start.center.copy(), start.size.copy()  # (y, x), (h, w)
        self._search_size, self._color = start.search_size, start.color
        self._min_side, self._max_size = start.min_side, start.max_size
        self._misses = 0
        exemplar = np.empty((cfg.exemplar_size, cfg.exemplar_size, 3), np.uint8)
        crop_region(image, self._center, start.exemplar_size, self._color, exemplar)
        self.network.exemplar(exemplar)
        self._own_contrast = _contrast(self._search(image)[cfg.scale_num // 2])
        self._memory = Redetection(cfg, self._box())

    def step(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image, and search for it where it is lost."""
        result = self._step(image)
        if result.lost and self.config.redetect:
            look = partial(_look, self.network, image, self._color, self.config.instance_size)
            attempt = partial(self._attempt, image)
            result = self._memory.search(image.shape[:2], self._own_contrast, look, attempt) or result
        self._memory.note(result.box, result.score)
        return result

    def _attempt(self, image: np.ndarray, x: float, y: float, w: float, h: float) -> TrackResult | None:
        """A step from another place; the state is put back where its score is too low."""
        cfg = self.config
        before = self._center.copy(), self._size.copy(), self._search_size, self._misses
        self._center, self._size = np.array([y, x], np.float32), np.array([h, w], np.float32)
        self._search_size = region_side(w, h, cfg.context) * cfg.instance_size / cfg.exemplar_size
        result = self._step(image)
        if result.score >= cfg.redetect_score:
            return result
        self._center, self._size, self._search_size, self._misses = before
        return None

    def _box(self) -> np.ndarray:
        (y, x), (h, w) = self._center.astype(np.float64), self._size.astype(np.float64)
        return np.array([x - (w - 1) / 2, y - (h - 1) / 2, w, h])

    def _step(self, image: np.ndarray) -> TrackResult:
        cfg = self.config
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
        # The limits do not affect a target in the image with a plausible size.
        np.clip(self._center, 0, np.array(image.shape[:2]) - 1, out=self._center)
        growth = min(max(growth, self._min_side / self._size.min()), (self._max_size / self._size).min())
        self._size *= growth
        self._search_size *= growth

        # Without contrast in the first frame, responses contain no information about the target, so every score is 0.
        score = min(max(_contrast(maps[best]) / max(self._own_contrast, 1e-12), 0.0), 1.0)
        self._misses = self._misses + 1 if score < cfg.lost_score else 0
        return TrackResult(self._box(), score, self._misses >= cfg.lost_frames)

    def _search(self, image: np.ndarray) -> np.ndarray:
        """Return the score maps [S, 17, 17] of the crops around the target, one per scale."""
        for scale, crop in zip(self._scales, self._crops, strict=True):
            crop_region(image, self._center, self._search_size * scale, self._color, crop)
        maps = self.network.responses(self._crops)
        cfg = self.config
        expected = (cfg.scale_num, cfg.response_size, cfg.response_size)
        if maps.shape != expected:
            raise ValueError(f"network must give score maps {list(expected)}, got {list(maps.shape)}")
        if not np.isfinite(maps).all():
            raise FloatingPointError("the network's response must be finite, got NaN or infinity")
        return maps

    def _locate(self, response: np.ndarray) -> tuple[int, int]:
        """Normalise an upsampled response in place, apply the window and return the peak's row and column."""
        response -= response.min()
        response /= response.sum() + 1e-16
        blended = (1 - self.config.window_influence) * response + self._window
        return divmod(int(blended.argmax()), blended.shape[1])


class EagerBoxEngine:
    """Follows one target on the host with a box head.

    OpenCV makes the crops, the network runs op by op, and `fastops.reference.box_peak` updates the box.

    Args:
        network: embeds and correlates the crops. Its maps are [1, 5, 17, 17]: score, l, t, r and b.
        config: settings.
    """

    def __init__(self, network: Network, config: TrackerConfig) -> None:
        self.network, self.config = network, config
        self._crop = np.empty((config.instance_size, config.instance_size, 3), np.uint8)

    def start(self, image: np.ndarray, start: Start) -> None:
        """Take the template from `image`, uint8 [H, W, 3]."""
        cfg = self.config
        self._color = start.color
        exemplar = np.empty((cfg.exemplar_size, cfg.exemplar_size, 3), np.uint8)
        crop_region(image, start.center, start.exemplar_size, self._color, exemplar)
        self.network.exemplar(exemplar)
        self._state = torch.tensor([start.row()], dtype=torch.float32, device="cpu")
        self._calibration = torch.eye(4, dtype=torch.float32, device="cpu")
        if cfg.box_calibrate:
            h, w = (start.size * (cfg.instance_size / start.search_size)).tolist()
            self._calibration = calibration(self._maps(image)[:, 1:], w, h)
        first = self._step(image)  # for its own contrast
        self._memory = Redetection(replace(cfg, scale_num=1), first.box)

    def step(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image, and search for it where it is lost."""
        result = self._step(image)
        if result.lost and self.config.redetect:
            look = partial(_look, self.network, image, self._color, self.config.instance_size)
            own_contrast = float(self._state[0, OWN_CONTRAST])
            attempt = partial(self._attempt, image)
            result = self._memory.search(image.shape[:2], own_contrast, look, attempt) or result
        self._memory.note(result.box, result.score)
        return result

    def _attempt(self, image: np.ndarray, x: float, y: float, w: float, h: float) -> TrackResult | None:
        """A step from another place; the state is put back where its score is too low."""
        cfg, before = self.config, self._state.clone()
        search_size = float(region_side(w, h, cfg.context)) * cfg.instance_size / cfg.exemplar_size
        self._state[0, : SEARCH_SIZE + 1] = torch.tensor([x, y, w, h, search_size], dtype=torch.float32, device="cpu")
        result = self._step(image)
        if result.score >= cfg.redetect_score:
            return result
        self._state = before
        return None

    def _maps(self, image: np.ndarray) -> Tensor:
        """The network's maps [1, 5, h, w] for the region around the target."""
        cfg = self.config
        x, y, size = self._state[0, [0, 1, 4]].numpy()
        crop_region(image, np.array([y, x]), size, self._color, self._crop)
        maps = self.network.responses(self._crop[None])
        expected = (1, 5, cfg.response_size, cfg.response_size)
        if maps.shape != expected:
            raise ValueError(f"network must give maps {list(expected)}, got {list(maps.shape)}")
        if not np.isfinite(maps).all():
            raise FloatingPointError("the network's response must be finite, got NaN or infinity")
        return torch.from_numpy(maps)

    def _step(self, image: np.ndarray) -> TrackResult:
        cfg, state = self.config, self._state
        state[0, -2], state[0, -1] = image.shape[1], image.shape[0]
        scores, ltrb = self._maps(image).split([1, 4], 1)
        ltrb = calibrated(ltrb, self._calibration[None])
        *box, score, lost = box_peak(scores, ltrb, state, **box_settings(cfg))[0].tolist()
        return TrackResult(np.array(box), score, bool(lost))


def _look(
    network: Network, image: np.ndarray, color: np.ndarray, size: int, centers: np.ndarray, side: float
) -> np.ndarray:
    """The score maps [R, h, w] of the regions around `centers`, [R, 2], x and y."""
    crops = np.empty((len(centers), size, size, 3), np.uint8)
    for (x, y), crop in zip(centers, crops, strict=True):
        crop_region(image, np.array([y, x]), side, color, crop)
    maps = network.responses(crops)
    return maps[:, 0] if maps.ndim == 4 else maps


def _contrast(score_map: np.ndarray) -> float:
    return float(score_map.max() - score_map.mean())
