"""The tracker with the interface of the got10k toolkit, for its experiments on OTB, GOT-10k, VOT, UAV123 and others."""

from __future__ import annotations

import numpy as np
from PIL.Image import Image

from tracker.installed import install_hint

try:
    from got10k.trackers import Tracker as ToolkitTracker
except ImportError as error:
    raise ImportError(
        f"tracker.integrations.got10k: needs the toolkit, {install_hint('toolkits')} ({error})"
    ) from error

from tracker.io.images import from_pil
from tracker.tracker import Tracker


class Got10kTracker(ToolkitTracker):
    """`tracker.Tracker` for `got10k.experiments`. Images are PIL's, and boxes are x, y, w, h in pixels of the files.

    Args:
        tracker: the tracker.
        name: name of the folder of results, and in the tables.
        one_based: whether the files' first pixel is 1, as in all data sets of the toolkit except VOT.

    Example:
        >>> from got10k.experiments import ExperimentGOT10k  # doctest: +SKIP
        >>> experiment = ExperimentGOT10k("/data/got10k", subset="val")  # doctest: +SKIP
        >>> experiment.run(Got10kTracker(Tracker.from_pretrained()))  # doctest: +SKIP
        >>> experiment.report(["SiamFC"])  # doctest: +SKIP
    """

    def __init__(self, tracker: Tracker, name: str = "SiamFC", one_based: bool = True) -> None:
        super().__init__(name, is_deterministic=True)
        self._tracker, self._first = tracker, np.array([1.0, 1.0, 0.0, 0.0]) * one_based

    def init(self, image: Image, box: np.ndarray) -> None:
        """Start on a target.

        Raises:
            ValueError: the same as `Tracker.init`.
        """
        self._tracker.init(_pixels(image), np.asarray(box, np.float64) - self._first)

    def update(self, image: Image) -> np.ndarray:
        """The box of the target in the next image, float64 [4]."""
        return self._tracker.update(_pixels(image)).box + self._first


def _pixels(image: Image) -> np.ndarray:
    return from_pil(image)
