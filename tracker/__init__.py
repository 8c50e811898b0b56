"""SiamFC single-object tracking made of fused ops.

>>> from tracker import Tracker
>>> tracker = Tracker.from_pretrained("siamfc.safetensors")  # doctest: +SKIP
>>> for result in tracker.track("video.mp4", box=(60, 40, 30, 20)):  # doctest: +SKIP
...     print(result.box, result.score, result.lost)
"""

from tracker.config import TrackerConfig
from tracker.model import SiamFC
from tracker.tracker import Tracker, TrackResult

__all__ = ["SiamFC", "TrackResult", "Tracker", "TrackerConfig"]
