"""Input and output.

- `sources`: frames from videos, folders, cameras and arrays.
- `images`: image files, read whole or refused.
- `background`: threads that read ahead and write behind.
- `draw`: annotated frames, video files, box files.
- `report`: tables and plots.
- `files`: files that appear complete or not at all.
"""
