"""Input and output.

- `sources`: frames from videos, folders, cameras and arrays.
- `images`: image files. An incomplete file is an error.
- `background`: threads that read in advance and write results.
- `draw`: annotated frames, video files, box files.
- `report`: tables and plots.
- `files`: files that appear complete or not at all.
"""
