"""Experiments of three papers. Each is one command, which appends a row per run and then makes tables and plots.

- `activations`, `classifiers`, `images`: activation functions on small images.
- `box_loss`: box regression losses in the tracker's box head.
- `simulation`: gradient descent of boxes with each loss, as in the EIoU paper.
- `tracking`: the effect of Mish, channel attention and gradient centralization on the tracker.
- `videos`: synthetic videos whose targets change their aspect ratio.
- `runs`: a file of rows that survives a killed run. `report`: tables and plots.
"""
