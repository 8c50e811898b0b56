"""Comparisons of the papers; each is one command that writes a table and a plot.

- `activations`, `classifiers`, `images`: activation functions on small images.
- `box_loss`: box regression losses in the tracker's box head.
- `tracking`: what Mish, channel attention and gradient centralization each add to the tracker.
- `videos`: synthetic videos whose targets change their aspect ratio.
- `report`: tables and plots.
"""
