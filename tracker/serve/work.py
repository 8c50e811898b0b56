"""The work of a job: track, write the annotated video, compare with reference PyTorch."""

from __future__ import annotations

import os
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from tracker.engines.reference import ReferenceTracker
from tracker.eval.comparison import Turns, reference_tracker
from tracker.eval.metrics import iou
from tracker.io.draw import VideoError, VideoWriter, annotate, write_boxes
from tracker.io.sources import SourceError, open_source
from tracker.serve.jobs import Cancelled, Job
from tracker.serve.limits import Limits
from tracker.tracker import Tracker

PREVIEW_SECONDS = 0.15  # between previews; drawing and encoding one takes 3 ms
PREVIEW_SIDE = 960


class Worker:
    """The trackers of a server. Jobs call it from one thread. Networks are loaded once.

    Args:
        weights, activation, device, dtype: as in `Tracker.from_pretrained`.
        limits: maximum number of frames, whatever the header of the video says.

    Raises:
        ValueError, OSError: the same as `Tracker.from_pretrained`.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        activation: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._weights: dict[str, Any] = {"path": weights, "activation": activation, "device": device}
        self._fused = Tracker.from_pretrained(**self._weights, dtype=dtype)
        self._reference: ReferenceTracker | Tracker | None = None

    def track(self, job: Job) -> None:
        """Track through the whole video. Then write the annotated video, which would slow down the tracker."""
        run, video, limit = job.run, job.video, self._limits.frames
        job.phase, job.total = "track", video.facts.frames
        drawn = -PREVIEW_SECONDS
        with open_source(video.path) as frames:
            first = next(frames)
            self._fused.init(first, job.box)
            began = time.perf_counter()
            with run.may_stop():
                for image in islice(chain([first], frames), limit):
                    job.check()
                    run.step(self._fused, image, job.box)
                    job.done = len(run.boxes)
                    now = time.perf_counter()
                    if now - drawn >= PREVIEW_SECONDS:
                        drawn = now
                        job.preview = job.done, _jpeg(annotate(image, **run.labels(video.truth)))
            run.total = time.perf_counter() - began
            if run.stopped is not None:
                job.note = f"the video could not be read beyond frame {job.done}: what came before is kept"
            elif job.done == limit and next(frames, None) is not None:
                job.note = f"only the first {limit} frames were tracked: this server takes no longer videos"
        boxes = video.folder / f"{job.id}.txt"
        write_boxes(boxes, run.boxes)
        job.summary, job.boxes = run.summary(video.truth), boxes
        try:
            job.result = self._make_video(job)
        except Cancelled:
            job.note = "the annotated video was not made; boxes and scores are whole"
        except (VideoError, SourceError):
            job.note = "the annotated video could not be written; boxes and scores are whole"

    def _make_video(self, job: Job) -> Path:
        run, source = job.run, job.video
        job.phase, job.done, job.total = "video", 0, len(run.boxes)
        with open_source(source.path) as frames:
            path = source.folder / f"{job.id}{browser_format(source.folder)}"
            aspect = frames.pixel_aspect
            with VideoWriter(path, frames.size, source.facts.fps, pixel_aspect=aspect) as video:
                for index, image in enumerate(islice(frames, len(run.boxes))):
                    job.check()
                    video.write(annotate(image, **run.labels(source.truth, index)))
                    job.done = index + 1
        return path

    def compare(self, job: Job) -> None:
        """Run the fused tracker and the reference in turns on each frame."""
        if self._reference is None:
            eager = Tracker.from_pretrained(**self._weights, backend="eager")
            self._reference = reference_tracker(eager.network.model)
        turns = Turns((self._fused, self._reference), job.box)
        limit = self._limits.compared_frames
        job.phase, job.total = "compare", min(limit, job.video.facts.frames or limit)
        with open_source(job.video.path) as frames:
            for image in islice(frames, limit):
                job.check()
                turns.step(image)
                job.done += 1
                if job.done == 1:
                    continue
                fused, reference = (1 / float(np.median(seconds)) for seconds in turns.seconds)
                overlaps = iou(*turns.boxes)
                job.comparison = {
                    "frames": job.done - 1,
                    "fused_fps": fused,
                    "reference_fps": reference,
                    "agreement": float(overlaps.mean()),
                    "least": float(overlaps.min()),
                }
        if job.comparison is None:
            job.note = "a video of one frame leaves nothing to compare"


def browser_format(folder: Path) -> str:
    """Suffix of videos that browsers play: MP4 if OpenCV writes H.264, else WebM (VP8)."""
    with VideoWriter(folder / "probe.mp4", (64, 48)) as probe:
        return ".mp4" if probe.codec == "avc1" else ".webm"


def _jpeg(image: np.ndarray) -> bytes:
    scale = min(1.0, PREVIEW_SIDE / max(image.shape[:2]))
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return encode_jpeg(image, 80)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """An RGB image as JPEG."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"image must be one that OpenCV encodes, got {list(image.shape)}")
    return data.tobytes()
