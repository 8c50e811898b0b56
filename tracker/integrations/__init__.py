"""The tracker with the interfaces of other projects.

- `opencv`: in place of OpenCV's trackers.
- `got10k`: for the GOT-10k toolkit.
- `vot`: for the VOT toolkit, through TraX.
"""
