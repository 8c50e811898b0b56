"""Experiments of three papers. Each is one command, which appends a row per run and then makes tables and plots.

- `activations`, `classifiers`, `images`: activation functions on small images.
- `box_loss`: box regression losses in the tracker's box head.
- `detection`, `detector`, `boxed_images`: box regression losses in a small detector, scored by COCO's AP.
- `simulation`: boxes that descend each loss, as in the EIoU paper.
- `tracking`: what Mish, channel attention and gradient centralization each add to the tracker.
- `videos`: synthetic videos whose targets change their aspect ratio.
- `runs`: a file of rows that survives a killed run. `report`: tables and plots.
"""
