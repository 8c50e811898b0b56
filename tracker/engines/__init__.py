"""The tracking algorithm: how a target is followed from frame to frame.

- `target`: a target's start and results, and the checks of images and boxes.
- `fused`: the fast engine. Crops, network and box update stay on the device.
- `cuda`: CUDA graphs and uploads for `fused`.
- `eager`: the same algorithm step by step on the host, with OpenCV and NumPy.
- `calibration`: the correction of the box head by the first frame.
- `redetect`: the search for a lost target.
- `reference`: the usual SiamFC implementation, which is the baseline of the benchmarks.
"""
