"""Many targets at once, in one video or in many."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tracker.config import TrackerConfig
from tracker.engine import make_engine, to_result
from tracker.model import SiamFC
from tracker.target import Image, Start, TrackResult, as_box, as_rgb, to_tensor
from tracker.tracker import check_dtype, find_model


class BatchTracker:
    """Many targets, in one video or in many, each tracked as by a `Tracker` of its own.

    A frame is read, uploaded and looked at once for all of its targets, and on a GPU all of them pass through the
    network together; on a CPU one after the other, with the results of single trackers to the last bit. Targets may be
    added and dropped between any two frames. Memory grows with the number of targets (55 KB each at full width), not
    with the work in flight.

    Args:
        model, weights, activation, config, device, dtype: as for `Tracker`.

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
        model, device = find_model("BatchTracker", model, weights, activation, "fastops", self.config, device)
        check_dtype("BatchTracker", dtype)
        self._engine = make_engine(model, self.config, device, dtype)
        self._targets: list[int] = []  # by row
        self._videos: list[Hashable] = []  # of each row
        self._image_sizes: dict[Hashable, tuple[int, int]] = {}
        self._next = 0

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str] | None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        activation: str | None = None,
        **overrides: Any,
    ) -> BatchTracker:
        """Build a tracker from a checkpoint; `overrides` replace defaults of `TrackerConfig`.

        Example:
            >>> BatchTracker.from_pretrained("siamfc.safetensors", scale_num=5)  # doctest: +SKIP
        """
        config = TrackerConfig.from_dict(overrides)
        return cls(weights=path, activation=activation, config=config, device=device, dtype=dtype)

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def targets(self) -> tuple[int, ...]:
        """The numbers of the targets, those added first first."""
        return tuple(sorted(self._targets))

    def add(self, image: Image, box: Sequence[float] | np.ndarray, video: Hashable = None) -> int:
        """Start on a target and return its number.

        Args:
            image: RGB uint8 [H, W, 3], or grey [H, W]: the frame of its video that was tracked last, or the first.
            box: x, y, w, h in pixels, 0-based; may leave the image but must overlap it.
            video: any name of the video it is in; leave it out where there is only one.

        Raises:
            ValueError: when the image or the box is not of this kind.
        """
        image = as_rgb(image, "add")
        start = Start.of(image, as_box(box, image.shape, "add"), self.config)
        self._engine.start(len(self), self._engine.upload(to_tensor(image)), start)
        self._image_sizes.setdefault(video, start.image_size)
        self._targets.append(self._next)
        self._videos.append(video)
        self._next += 1
        return self._targets[-1]

    def drop(self, target: int) -> None:
        """Stop following a target.

        Raises:
            KeyError: when there is no such target.
        """
        if target not in self._targets:
            raise KeyError(f"BatchTracker: target must be one of {list(self.targets)}, got {target!r}")
        row, last = self._targets.index(target), len(self) - 1
        if row != last:  # the last one takes its row
            self._engine.move(last, row)
            self._targets[row], self._videos[row] = self._targets[last], self._videos[last]
        self._targets.pop(), self._videos.pop()

    def update(self, images: Image | Mapping[Hashable, Image]) -> dict[int, TrackResult]:
        """Find the targets in the next frame of their videos.

        Args:
            images: the next frame where there is one video; else the next frame of each video by its name. Targets in
                videos without a frame stay as they are.

        Returns:
            the result of each target found, by its number.

        Raises:
            ValueError: when an image is not RGB uint8 [H, W, 3] or grey [H, W], or belongs to no video.
            FloatingPointError: when the network's response is not finite.
        """
        if not isinstance(images, Mapping):
            if any(video is not None for video in self._videos):
                raise ValueError("update: images must be a frame by video where targets have videos, got one image")
            images = {None: images}
        groups, order = [], []
        for video, image in images.items():
            image = as_rgb(image, "update")
            rows = [row for row, name in enumerate(self._videos) if name == video]
            if not rows:
                continue
            if image.shape[:2] != self._image_sizes[video]:
                self._image_sizes[video] = tuple(image.shape[:2])
                self._engine.set_image_size(self._engine.rows(rows), image.shape[1], image.shape[0])
            groups.append((self._engine.upload(to_tensor(image)), self._engine.rows(rows)))
            order += rows
        if not groups:
            return {}
        results = self._engine.step(groups).tolist()
        return {self._targets[row]: to_result(values) for row, values in zip(order, results, strict=True)}

    def track(self, source: Any, boxes: Sequence[Sequence[float]]) -> Iterator[list[TrackResult]]:
        """Yield the results of all targets for every frame of `source`; the first are the given boxes.

        Args:
            source: a video file, image folder, camera or iterable of images; see `tracker.data.sources.open_source`.
            boxes: x, y, w, h of each target in the first frame.
        """
        from tracker.data.sources import open_source

        with open_source(source) as frames:
            first = next(frames)
            targets = [self.add(first, box) for box in boxes]
            yield [TrackResult(np.array(box, np.float64), 1.0, False) for box in boxes]
            for frame in frames:
                results = self.update(frame)
                yield [results[target] for target in targets]
