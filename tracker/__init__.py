"""SiamFC object tracking with fused ops.

>>> from tracker import Tracker
>>> tracker = Tracker.from_pretrained("siamfc.safetensors")  # doctest: +SKIP
>>> for result in tracker.track("video.mp4", box=(60, 40, 30, 20)):  # doctest: +SKIP
...     print(result.box, result.score, result.lost)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracker.batch import BatchTracker
    from tracker.config import TrackerConfig
    from tracker.engines.target import TrackResult
    from tracker.network.model import SiamFC
    from tracker.tracker import Tracker

# Imported on first use: `tracker --help` works without torch, and all except BatchTracker without the compiled library.
_MODULES = {
    "BatchTracker": "tracker.batch",
    "SiamFC": "tracker.network.model",
    "TrackResult": "tracker.engines.target",
    "Tracker": "tracker.tracker",
    "TrackerConfig": "tracker.config",
}

__all__ = ["BatchTracker", "SiamFC", "TrackResult", "Tracker", "TrackerConfig"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'tracker' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
