"""Shared by the tests of fastops.accelerate: the names of its changes, reports as dicts, a model run by a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn

from fastops import acceleration_report

NORM = ("BatchNorm2d + Mish", "fastops.nn.BatchNormMish2d")
POOL = ("Mish + MaxPool2d", "fastops.nn.MishMaxPool2d")
MISH = ("Mish", "fastops.nn.Mish")
SE = "FusedSqueezeExcitation"


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert (actual - expected).norm() <= tolerance * expected.norm().clamp_min(1e-30)


def changes(model: nn.Module) -> Counter:
    return Counter((change.was, change.now) for change in acceleration_report(model).changed)


def reasons(model: nn.Module) -> dict[str, str]:
    return {left.name: left.reason for left in acceleration_report(model).left_alone}


class Net(nn.Module):
    """conv, bn, act and pool, run by a function."""

    def __init__(self, run: Callable[[Net, Tensor], object], inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Mish(inplace)
        self.pool, self.same = nn.MaxPool2d(2), nn.Identity()
        self.run = run

    def forward(self, x: Tensor):
        return self.run(self, x)
