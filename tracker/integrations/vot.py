"""The tracker for the VOT toolkit: a TraX server that the toolkit starts.

In the trackers.ini of a workspace::

    [SiamFC]
    label = SiamFC
    protocol = trax
    command = python -m tracker.integrations.vot --weights siamfc.pth

Tested with version 0.7.3 of the toolkit; see docs/evaluation.md.

Needs TraX's Python package: `pip install vot-trax` (or the extra `toolkits`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import typer

from tracker.commands.checks import CommandError, check_device, check_weights, input_errors, parse_dtype
from tracker.commands.options import Activation, Device, Dtype, Weights
from tracker.installed import install_hint
from tracker.io.images import read_image
from tracker.tracker import Tracker


class Connection(Protocol):
    """The interface of the toolkit's side for `follow`, which `TraxConnection` implements."""

    def requests(self) -> Iterator[tuple[Path, np.ndarray | None]]: ...
    def reply(self, box: np.ndarray, score: float) -> None: ...


def follow(tracker: Tracker, connection: Connection) -> None:
    """Track for the toolkit until it disconnects.

    A request with a region starts the tracker there, and the answer is that region with confidence 1. The answer to
    other requests is the new box and its score. Boxes are x, y, w, h in the pixels of the toolkit, 0-based.

    Raises:
        ValueError: if an image cannot be read, or there is no region before the first frame.
    """
    started = False
    for path, box in connection.requests():
        image = read_image(path)
        if box is not None:
            tracker.init(image, box)
            started = True
            connection.reply(box, 1.0)
        elif not started:
            raise ValueError("the first request must have a region, got a frame alone")
        else:
            result = tracker.update(image)
            connection.reply(result.box, result.score)


class TraxConnection:
    """The connection to the toolkit by standard input and output, or by the socket that TRAX_SOCKET names."""

    def __init__(self) -> None:
        try:
            import trax
        except ImportError as error:
            raise ImportError(f"tracker.integrations.vot: needs TraX, {install_hint('toolkits')} ({error})") from error
        self._trax = trax
        self._server = trax.Server(
            [trax.Region.RECTANGLE],
            [trax.Image.PATH],
            tracker_name="SiamFC",
            tracker_description="SiamFC of fused PyTorch ops",
            metadata={"vot": "python"},
        )

    def requests(self) -> Iterator[tuple[Path, np.ndarray | None]]:
        """Yield the image of each request, with the box to start on if there is one, until the toolkit quits.

        Raises:
            ConnectionError: if it disconnects without a message.
        """
        while True:
            try:
                request = self._server.wait()
            except self._trax.TraxException as error:
                raise ConnectionError(f"toolkit must quit at the end, got: {error}") from error
            if request.type == "quit":
                return
            (image,) = (image for _, image in request.image.items())
            yield Path(image.path()), _box_of(request.objects)

    def reply(self, box: np.ndarray, score: float) -> None:
        """Answer the last request."""
        x, y, w, h = map(float, box)
        self._server.status([(self._trax.Rectangle.create(x, y, w, h), {"confidence": f"{score:.6f}"})])


def _box_of(objects: Any) -> np.ndarray | None:
    if not objects:
        return None
    if len(objects) > 1:
        raise ValueError(f"request must have one region, got {len(objects)}")
    region, _ = objects[0]
    return np.array(region.bounds(), np.float64)


def main(
    weights: Weights = None, activation: Activation = None, device: Device = None, dtype: Dtype = "float32"
) -> None:
    """Serve the VOT toolkit, which starts this program."""
    try:
        with input_errors():
            check_device(device)
            weights, number_type = check_weights(weights), parse_dtype(dtype, "fastops")
            tracker = Tracker.from_pretrained(weights, device=device, dtype=number_type, activation=activation)
            follow(tracker, TraxConnection())
    except CommandError as error:
        print(f"tracker.integrations.vot: error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
