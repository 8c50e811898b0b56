"""`Tracker`: one target, one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from tracker.config import TrackerConfig
from tracker.engines.eager import EagerBoxEngine, EagerEngine, Network
from tracker.engines.target import Image, Start, TrackResult, as_box, as_rgb, to_array, to_tensor
from tracker.network.checkpoint import load_model
from tracker.network.model import EagerNetwork, SiamFC
from tracker.network.pretrained import find_weights

BACKENDS = ("fastops", "eager")


class Engine(Protocol):
    """The interface of the code that follows the target (`tracker.engines`)."""

    def start(self, image: Any, start: Start) -> None: ...
    def step(self, image: Any) -> TrackResult: ...


class Tracker:
    """SiamFC tracker with limited boxes, a score and a lost signal.

    The boxes equal those of the usual PyTorch SiamFC (`ReferenceTracker`) within these limits: the centre stays within
    the image, the shorter side is at least `min_target_size`, and both sides are at most `max_target_ratio` times the
    image's sides. A target that starts beyond a limit may keep its size. So a lost target neither drifts away nor slows
    the tracker down.

    With a box head the tracker searches one scale. It takes the whole box, with its aspect ratio, from the best cell
    (`fastops.box_peak`). The limits are the same.

    The score is the contrast (peak - mean) of the best scale's score map, divided by the contrast of the first frame
    searched with its own template, and clamped to 0..1. It was measured with the published weights on 13 real targets.
    1,640 frames had an overlap above .4. 251 frames were bad: 56 with an overlap below .05, and 195 from another video.
    The medians are .74 and .28, and the area under the ROC curve is .95. The area is .89 for the peak-to-sidelobe
    ratio, .92 for the geometric mean of both, and .97 for the peak itself. The contrast is used because a constant
    offset of the response does not change it. The defaults of `lost` were chosen on these frames, so other videos will
    give worse results. With them `lost` is true for 2 % of the good frames (most show a motorbike upside down) and 57 %
    of the bad frames. The first four frames of a miss never count.

    Args:
        model: the network; the tracker works on a copy of it.
        weights: path of a checkpoint, instead of `model`; see `tracker.network.checkpoint.load_model`.
        activation: "relu" or "mish", for `weights` that do not name it, such as a .pth file. With None it is the one
            that the file names, or ReLU.
        config: settings.
        device: where the network runs. None means the model's device, or with `weights` a GPU if there is one.
        dtype: floating-point type of the network. "int8" runs convolutions in 8-bit integers, on a CPU and with weights
            from `tracker quantize` (see `tracker.network.quantized`). "auto" chooses the fastest type on this machine
            (see `tracker.network.autotune`). None means the model's dtype.
        backend: "fastops" runs everything on the device, with fused ops. "eager" runs OpenCV and NumPy on the host and
            the network op by op: a given model with its own ops, `weights` in plain PyTorch.

    Raises:
        ValueError: if an argument is out of range, or not exactly one of `model` and `weights` is given.

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
        dtype: torch.dtype | str | None = None,
        backend: str = "fastops",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        self.config = config or TrackerConfig()
        ops = "fastops" if backend == "fastops" else "reference"
        check_dtype(dtype, backend)
        model, device = find_model(model, weights, activation, ops, self.config, device or device_of(dtype))
        self._started = False
        self._engine: Engine
        if backend == "fastops":
            from tracker.engines.fused import (
                SingleEngine,  # imported here: "eager" must work without the compiled library
            )

            self._engine = SingleEngine(model, self.config, device=device, dtype=dtype)
        else:
            engine = EagerBoxEngine if model.head == "box" else EagerEngine
            self._engine = engine(EagerNetwork(model, device=device, dtype=dtype), self.config)
        self._convert = to_tensor if backend == "fastops" else to_array

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        backend: str = "fastops",
        activation: str | None = None,
        **overrides: Any,
    ) -> Tracker:
        """Build a tracker from weights; `overrides` replace defaults of `TrackerConfig`.

        Args:
            path: a checkpoint, or the name of weights in the package (see `tracker.network.pretrained`); None is the
                default weights.
            device, dtype, backend, activation: as in `Tracker`.

        Example:
            >>> Tracker.from_pretrained(scale_num=5).config.scale_num
            5
        """
        config = TrackerConfig.from_dict(overrides)
        weights = find_weights(path)
        return cls(weights=weights, activation=activation, config=config, device=device, dtype=dtype, backend=backend)

    @property
    def network(self) -> Network:
        """The network. With the backend "eager" it can be replaced."""
        return self._engine.network

    @network.setter
    def network(self, network: Network) -> None:
        if not isinstance(self._engine, EagerEngine):
            raise AttributeError('network can be replaced with backend "eager" only')
        self._engine.network = network

    def init(self, image: Image, box: Sequence[float] | np.ndarray) -> None:
        """Start on a target.

        Args:
            image: RGB uint8 [H, W, 3], or grey [H, W]; NumPy array or tensor.
            box: x, y, w, h in pixels, 0-based; may reach beyond the image but must overlap it.

        Raises:
            ValueError: if the image or the box is not valid.
        """
        image = as_rgb(image)
        start = Start.of(image, as_box(box, image.shape), self.config)
        self._started = False
        self._engine.start(self._convert(image), start)
        self._started = True

    def update(self, image: Image) -> TrackResult:
        """Find the target in the next image.

        Raises:
            RuntimeError: if `init` was not called before.
            ValueError: if the image is not RGB uint8 [H, W, 3] or grey [H, W].
            FloatingPointError: if the network's response is not finite.
        """
        if not self._started:
            raise RuntimeError("init must be called before update, got no target")
        return self._engine.step(self._convert(as_rgb(image)))

    def track(self, source: Any, box: Sequence[float] | np.ndarray) -> Iterator[TrackResult]:
        """Yield a result for every frame of `source`. The first result is the given box.

        Args:
            source: a video file, image folder, camera or iterable of images; see `tracker.io.sources.open_source`.
            box: x, y, w, h of the target in the first frame.
        """
        from tracker.io.sources import open_source

        with open_source(source) as frames:
            self.init(next(frames), box)
            yield TrackResult(np.array(box, np.float64), 1.0, False)
            for frame in frames:
                yield self.update(frame)


def find_model(
    model: SiamFC | None,
    weights: str | os.PathLike[str] | None,
    activation: str | None,
    ops: str,
    config: TrackerConfig,
    device: torch.device | str | None,
) -> tuple[SiamFC, torch.device | str | None]:
    """The given model, or the model of the weights, and the device to run it on."""
    check_device(device)
    if (model is None) == (weights is None):
        got = "neither (from_pretrained() takes those of the package)" if model is None else "both"
        raise ValueError(f"one of model and weights must be given, got {got}")
    if model is not None:
        if not isinstance(model, SiamFC):
            hint = " (a path goes into weights)" if isinstance(model, (str, os.PathLike)) else ""
            raise ValueError(f"model must be a SiamFC, got {type(model).__name__}{hint}")
        return model, device
    model = load_model(weights, activation=activation, ops=ops, out_scale=config.out_scale)
    return model, device or ("cuda" if torch.cuda.is_available() else "cpu")


def device_of(dtype: torch.dtype | str | None) -> str | None:
    """The device that a network of this type needs; None means any."""
    return "cpu" if dtype in (torch.int8, "int8") else None


def check_device(device: torch.device | str | None) -> None:
    """Raise a ValueError for a device that this machine or this torch does not have; torch has an AssertionError."""
    try:
        found = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda or cuda:N, got {device!r}") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be one of this machine's {torch.cuda.device_count()} GPUs, got {str(device)!r}")


def check_dtype(dtype: torch.dtype | str | None, backend: str = "fastops") -> None:
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    if dtype is None or dtype in types or (backend == "fastops" and dtype in (torch.int8, "int8", "auto")):
        return
    names = ", ".join(str(t) for t in types)
    raise ValueError(f"dtype must be {names}{', int8 or auto' if backend == 'fastops' else ''}, got {dtype}")
