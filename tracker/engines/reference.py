"""The baseline of the benchmarks: SiamFC tracking like the usual PyTorch implementation."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from tracker.config import TrackerConfig
from tracker.engines.target import TrackResult
from tracker.network.checkpoint import load_model
from tracker.network.model import SiamFC


def crop_padded_image(
    image: np.ndarray, center: np.ndarray, size: float, out_size: int, color: np.ndarray
) -> np.ndarray:
    """Pad a copy of the whole image with `color`, and crop the square of side `size` at `center` (y, x)."""
    side = round(float(size))
    top_left = np.round(center - (side - 1) / 2)
    corners = np.concatenate((top_left, top_left + side)).astype(int)
    padding = max(0, int(np.concatenate((-corners[:2], corners[2:] - image.shape[:2])).max()))
    if padding > 0:
        image = cv2.copyMakeBorder(image, padding, padding, padding, padding, cv2.BORDER_CONSTANT, value=color.tolist())
        corners += padding
    patch = image[corners[0] : corners[2], corners[1] : corners[3]]
    return cv2.resize(patch, (out_size, out_size), interpolation=cv2.INTER_LINEAR)


class ReferenceTracker:
    """SiamFC tracker in stock PyTorch, OpenCV and NumPy, where nothing is fused, cached or limited.

    For each frame it pads the whole image, crops and resizes one region per scale, stacks the crops and casts them to
    float. Then it runs the eager backbone with its batch norm layers, correlates by a grouped convolution, upsamples
    each map and updates the box in NumPy. `Tracker` must give the same boxes. Speed-ups are relative to this class.

    Args:
        model: a `SiamFC(ops="reference")` with the score-map head, which is moved to `device` and put into eval mode.
            Or give `weights`, the path of a checkpoint.
        config: settings. The limits and the lost signal of `TrackerConfig` do not apply here.
        device: where the network runs; None keeps the model's device.
        compile: wrap the network, with the correlation, in `torch.compile`; a string is the mode.

    Example:
        >>> tracker = ReferenceTracker(SiamFC(width=0.25, ops="reference"))
        >>> image = np.zeros((120, 160, 3), np.uint8)
        >>> tracker.init(image, (60, 40, 30, 20))
        >>> tracker.update(image).box.shape
        (4,)
    """

    def __init__(
        self,
        model: SiamFC | None = None,
        *,
        weights: str | None = None,
        config: TrackerConfig | None = None,
        device: torch.device | str | None = None,
        compile: bool | str = False,
    ) -> None:
        if (model is None) == (weights is None):
            got = "neither" if model is None else "both"
            raise ValueError(f"one of model and weights must be given, got {got}")
        self.config = config or TrackerConfig()
        if model is None:
            model = load_model(weights, ops="reference", out_scale=self.config.out_scale)
        if model.ops != "reference":
            raise ValueError(f'model must have ops="reference", got {model.ops!r}')
        if model.head != "xcorr":
            raise ValueError(f'model must have head="xcorr", got {model.head!r}')
        if fused := [name for name, module in model.named_modules() if type(module).__module__.startswith("fastops.")]:
            raise ValueError(f"model must not be accelerated (fastops.restore undoes it), got fused {fused[0]}")
        self.device = torch.device(device or next(model.parameters()).device)
        self.model = model.to(self.device).eval()
        self._features, self._score = self.model.features, self.model.score
        if compile:
            # One graph per input size: templates and searches differ in size, and a graph for any size is slower.
            options = {"dynamic": False, "mode": compile if isinstance(compile, str) else None}
            self._features = torch.compile(self._features, **options)
            self._score = torch.compile(self._score, **options)

    @torch.no_grad()
    def init(self, image: np.ndarray, box: np.ndarray) -> None:
        """Start on the target `box`, x, y, w, h, 0-based, of an RGB uint8 image [H, W, 3]."""
        cfg = self.config
        x, y, w, h = (float(v) for v in box)
        self._center = np.array([y + (h - 1) / 2, x + (w - 1) / 2], dtype=np.float32)
        self._size = np.array([h, w], dtype=np.float32)

        side = cfg.response_up * cfg.response_size
        window = np.outer(np.hanning(side), np.hanning(side))
        self._window = window / window.sum()
        half = cfg.scale_num // 2
        self._scales = cfg.scale_step ** np.linspace(-half, half, cfg.scale_num)

        context = cfg.context * np.sum(self._size)
        self._z_size = np.sqrt(np.prod(self._size + context))
        self._x_size = self._z_size * cfg.instance_size / cfg.exemplar_size
        self._color = np.mean(image, axis=(0, 1))
        z = crop_padded_image(image, self._center, self._z_size, cfg.exemplar_size, self._color)
        z = torch.from_numpy(z).to(self.device).permute(2, 0, 1).unsqueeze(0).float()
        self._template = self._features(z).clone()  # the next replay of a captured graph overwrites its result

    @torch.no_grad()
    def update(self, image: np.ndarray) -> TrackResult:
        """Find the target in the next image. The score is the raw peak response, and `lost` is never set."""
        cfg = self.config
        x = np.stack(
            [
                crop_padded_image(image, self._center, self._x_size * scale, cfg.instance_size, self._color)
                for scale in self._scales
            ]
        )
        x = torch.from_numpy(x).to(self.device).permute(0, 3, 1, 2).float()
        responses = self._score(self._template, self._features(x)).squeeze(1).cpu().numpy()

        side = cfg.response_up * cfg.response_size
        responses = np.stack([cv2.resize(r, (side, side), interpolation=cv2.INTER_CUBIC) for r in responses])
        half = cfg.scale_num // 2
        responses[:half] *= cfg.scale_penalty
        responses[half + 1 :] *= cfg.scale_penalty
        best = int(np.argmax(np.amax(responses, axis=(1, 2))))
        response = responses[best]
        peak = float(response.max())
        response -= response.min()
        response /= response.sum() + 1e-16
        response = (1 - cfg.window_influence) * response + cfg.window_influence * self._window
        location = np.unravel_index(response.argmax(), response.shape)

        in_response = np.array(location) - (side - 1) / 2
        in_instance = in_response * cfg.total_stride / cfg.response_up
        self._center += in_instance * self._x_size * self._scales[best] / cfg.instance_size
        growth = (1 - cfg.scale_lr) * 1.0 + cfg.scale_lr * self._scales[best]
        self._size *= growth
        self._z_size *= growth
        self._x_size *= growth

        top_left = self._center.astype(np.float64) - (self._size.astype(np.float64) - 1) / 2
        return TrackResult(np.array([top_left[1], top_left[0], self._size[1], self._size[0]], np.float64), peak, False)
