"""`BatchTracker`: many targets at once, in one video or in several."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tracker.config import TrackerConfig
from tracker.engines.fused import is_finite, make_engine, to_result
from tracker.engines.target import Image, Start, TrackResult, as_box, as_rgb, to_tensor
from tracker.network.model import SiamFC
from tracker.network.pretrained import find_weights
from tracker.tracker import check_dtype, device_of, find_model


class BatchTracker:
    """Tracks many targets in one video or in several, each like with its own `Tracker`.

    A frame is read and uploaded once for all of its targets. On a GPU the targets pass through the network together. On
    a CPU they pass one after the other, and the results equal those of single trackers to the last bit. Targets may be
    added and dropped between any two frames. Each target takes 55 KB of memory at full width. On a GPU the network also
    needs its memory for up to 64 targets at once.

    Args:
        model, weights, activation, config, device, dtype: as in `Tracker`.

    Example:
        >>> tracker = BatchTracker(SiamFC(width=0.25))
        >>> frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
        >>> left, right = tracker.add(frame, (20, 40, 30, 20)), tracker.add(frame, (100, 40, 30, 20))
        >>> sorted(tracker.update(frame)) == [left, right]
        True
        >>> tracker.drop(left)
        >>> len(tracker)
        1
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
    ) -> None:
        self.config = config or TrackerConfig()
        check_dtype(dtype)
        model, device = find_model(model, weights, activation, "fastops", self.config, device or device_of(dtype))
        self._engine = make_engine(model, self.config, device, dtype)
        self._targets: list[int] = []  # by row
        self._videos: list[Hashable] = []  # of each row
        self._image_sizes: dict[Hashable, tuple[int, int]] = {}  # of the videos with targets
        self._known: set[Hashable] = set()  # videos that ever had a target
        self._next = 0

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        activation: str | None = None,
        **overrides: Any,
    ) -> BatchTracker:
        """Build a tracker from weights; `overrides` replace defaults of `TrackerConfig`.

        Args:
            path: a checkpoint, or the name of weights in the package (see `tracker.network.pretrained`); None is the
                default weights.
            device, dtype, activation: as in `BatchTracker`.

        Example:
            >>> BatchTracker.from_pretrained(scale_num=5).config.scale_num
            5
        """
        config = TrackerConfig.from_dict(overrides)
        return cls(weights=find_weights(path), activation=activation, config=config, device=device, dtype=dtype)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def targets(self) -> tuple[int, ...]:
        """The numbers of the targets, in the order they were added."""
        return tuple(sorted(self._targets))

    def add(self, image: Image, box: Sequence[float] | np.ndarray, video: Hashable = None) -> int:
        """Start on a target and return its number.

        Args:
            image: RGB uint8 [H, W, 3], or grey [H, W]: the last tracked frame of the video, or its first frame.
            box: x, y, w, h in pixels, 0-based; may reach beyond the image but must overlap it.
            video: a name for the video; not needed if there is only one.

        Raises:
            ValueError: if the image or the box is not valid.
        """
        image = as_rgb(image)
        start = Start.of(image, as_box(box, image.shape), self.config)
        self._engine.start(len(self), self._engine.upload(to_tensor(image)), start)
        self._targets.append(self._next)
        self._videos.append(video)
        self._known.add(video)
        self._set_image_size(video, start.image_size)
        self._next += 1
        return self._targets[-1]

    def _rows(self, video: Hashable) -> list[int]:
        return [row for row, name in enumerate(self._videos) if name == video]

    def _set_image_size(self, video: Hashable, size: tuple[int, int]) -> None:
        """Set the (height, width) of the next frames of a video."""
        if self._image_sizes.get(video, size) != size:
            self._engine.set_image_size(self._engine.rows(self._rows(video)), size[1], size[0])
        self._image_sizes[video] = size

    def drop(self, target: int) -> None:
        """Stop following a target.

        Raises:
            KeyError: if there is no such target.
        """
        if target not in self._targets:
            raise KeyError(f"target must be one of {list(self.targets)}, got {target!r}")
        row, last = self._targets.index(target), len(self) - 1
        video = self._videos[row]
        self._engine.drop(row)
        if row != last:  # the last target moves to this row
            self._targets[row], self._videos[row] = self._targets[last], self._videos[last]
        self._targets.pop(), self._videos.pop()
        if video not in self._videos:
            del self._image_sizes[video]

    def update(self, images: Image | Mapping[Hashable, Image]) -> dict[int, TrackResult]:
        """Find the targets in the next frame of their videos.

        Args:
            images: the next frame if there is one video; otherwise a dictionary from the name of a video to its next
                frame. Targets in videos without a frame keep their state.

        Returns:
            A dictionary from the number of a target to its result.

        Raises:
            ValueError: if an image is not RGB uint8 [H, W, 3] or grey [H, W], or its video never had a target.
            FloatingPointError: if the network's response for a target is not finite. The message names the targets,
                and the attribute `results` has the results of the others.
        """
        if not isinstance(images, Mapping):
            if any(video is not None for video in self._videos):
                raise ValueError("images must be a frame by video where targets have videos, got one image")
            images = {None: images} if self._known else {}
        unknown = [video for video in images if video not in self._known]
        if unknown:
            raise ValueError(f"images must be of videos that targets were added in, got {unknown[0]!r}")
        frames = {video: as_rgb(image) for video, image in images.items()}
        groups, order = [], []
        for video, image in frames.items():
            rows = self._rows(video)
            if rows:
                self._set_image_size(video, tuple(image.shape[:2]))
                groups.append((self._engine.upload(to_tensor(image), len(groups)), rows))
                order += rows
        if not groups:
            return {}
        values = dict(zip((self._targets[row] for row in order), self._engine.find(groups), strict=True))
        results = {target: to_result(row) for target, row in values.items() if is_finite(row)}
        if len(results) < len(values):
            bad = ", ".join(str(target) for target in values if target not in results)
            error = FloatingPointError(f"the network's response must be finite, got NaN for targets {bad}")
            error.results = results
            raise error
        return results

    def track(self, source: Any, boxes: Iterable[Sequence[float] | np.ndarray]) -> Iterator[list[TrackResult | None]]:
        """Yield the results of new targets for every frame of `source`. The first results are the given boxes.

        The targets belong to a new video and are dropped at the end. A target that is dropped earlier yields None.

        Args:
            source: a video file, image folder, camera or iterable of images; see `tracker.io.sources.open_source`.
            boxes: x, y, w, h of each target in the first frame.
        """
        from tracker.io.sources import open_source

        boxes, video = list(boxes), object()
        targets: list[int] = []
        with open_source(source) as frames:
            try:
                first = next(frames)
                targets += [self.add(first, box, video) for box in boxes]
                yield [TrackResult(np.array(box, np.float64), 1.0, False) for box in boxes]
                for frame in frames:
                    results = self.update({video: frame}) if video in self._image_sizes else {}
                    yield [results.get(target) for target in targets]
            finally:
                for target in set(targets) & set(self._targets):
                    self.drop(target)
                self._known.discard(video)
