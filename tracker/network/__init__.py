"""The network.

- `model`: SiamFC: backbone, attention, correlation.
- `box_head`: the head that predicts boxes.
- `fused`: the network for inference, with fused ops.
- `autotune`: the fastest floating-point type on this machine.
- `quantized`, `int8_settings`: the network in 8-bit integers, and its settings.
- `checkpoint`, `pretrained`: read and write weights; the weights of the package.
- `export`: ONNX graphs and `torch.export` packages.
"""
