"""SiamFC single-object tracking made of fused ops.

>>> from tracker import Tracker
>>> tracker = Tracker.from_pretrained("siamfc.safetensors")  # doctest: +SKIP
>>> for result in tracker.track("video.mp4", box=(60, 40, 30, 20)):  # doctest: +SKIP
...     print(result.box, result.score, result.lost)
"""

from typing import TYPE_CHECKING, Any

from tracker.config import TrackerConfig
from tracker.model import SiamFC
from tracker.target import TrackResult
from tracker.tracker import Tracker

if TYPE_CHECKING:
    from tracker.batch import BatchTracker

__all__ = ["BatchTracker", "SiamFC", "TrackResult", "Tracker", "TrackerConfig"]


def __getattr__(name: str) -> Any:
    if name == "BatchTracker":  # imported when asked for: the others must work without the compiled library
        from tracker.batch import BatchTracker

        return BatchTracker
    raise AttributeError(f"module 'tracker' has no attribute {name!r}")
