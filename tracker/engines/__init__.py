"""How a target is followed from frame to frame.

- `target`: where a target starts, a tracking result, and the checks of images and boxes.
- `fused`: the fast engine; crops, network and box update stay on the device.
- `cuda`: CUDA graphs and uploads for `fused`.
- `eager`: the same algorithm step by step on the host, with OpenCV and NumPy.
- `calibration`: the box head corrected by the first frame.
- `redetect`: the search for a lost target.
- `reference`: the usual SiamFC implementation, the baseline of the benchmarks.
"""
