"""Evaluation by the protocols of the tracking benchmarks.

- `metrics`, `polygons`: overlap, centre error, success and precision.
- `ope`, `got10k`, `vot`: protocols of OTB and LaSOT, of GOT-10k and of VOT.
- `protocols`, `scores`: the protocol of each data set, and its numbers and curves.
- `run`: one run on one video, for the report of `tracker track`.
- `runner`: all sequences of a data set, in one process or several, resumable.
- `results`: result files.
- `report`, `attributes`: tables and plots, also by attribute.
- `tune`: the search for the tracker's settings, and rates of the lost signal.
- `comparison`: two implementations side by side.
"""
