"""A short test of an installed package: an op and its gradient, a polygon, all networks on a video.

.ci/run and `make check-wheel` run it in new environments; it needs no pytest.
"""

from __future__ import annotations

import torch

import fastops
from fastops import reference
from tracker import Tracker
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.eval.polygons import polygon_overlap
from tracker.network.pretrained import PRETRAINED


def main() -> None:
    x = torch.randn(1000, requires_grad=True)
    torch.testing.assert_close(fastops.mish(x), reference.mish(x))
    gradients = [torch.autograd.grad(mish(x).sum(), x)[0] for mish in (fastops.mish, reference.mish)]
    torch.testing.assert_close(*gradients)
    square = [0, 0, 2, 0, 2, 2, 0, 2]
    assert polygon_overlap([square], [[1, 0, 3, 0, 3, 2, 1, 2]])[0] == 1 / 3  # the library that is built per Python
    video = SyntheticVideo(0, 20, (320, 240), occlusions=0)
    for name in PRETRAINED:
        tracker = Tracker.from_pretrained(name)
        found = [result.box for result in tracker.track(video.images(), box=video.boxes[0])]
        assert iou(found, video.boxes).mean() > 0.6
    print(f"siamfc-fastops {fastops.__version__} in {fastops.__path__[0]} works with torch {torch.__version__}")


if __name__ == "__main__":
    main()
