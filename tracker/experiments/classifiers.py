"""The activations and the networks that paper 003 compares, at the size of small images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops.nn

Activation = Callable[[], nn.Module]


class Swish(nn.Module):
    """x sigmoid(b x), b learnable from 1 (Ramachandran et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b * x)


class PELU(nn.Module):
    """(a / b) x for x >= 0, a (e^(x / b) - 1) below; a, b learnable from 1, at least 0.1 (Trottier et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a.clamp(min=0.1), self.b.clamp(min=0.1)
        return a / b * x.clamp(min=0) + a * torch.expm1(x.clamp(max=0) / b)


class FReLU(nn.Module):
    """max(x, 0) + b, b learnable from 0 (Qiu et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + self.b


def initialise(network: nn.Module) -> None:
    """He's normal weights: with torch's own, AlexNet, which has no normalisation, still guessed after two epochs."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


#: One set of parameters per layer, as the paper has it.
ACTIVATIONS: dict[str, Activation] = {
    "ReLU": nn.ReLU,
    "LReLU": partial(nn.LeakyReLU, 0.01),
    "PReLU": nn.PReLU,
    "Swish": Swish,
    "PELU": PELU,
    "FReLU": FReLU,
    "ASigmoid": fastops.nn.ASigmoid,
    "ATanh": fastops.nn.ATanh,
    "AReLU": fastops.nn.AReLU,
}


def alexnet(channels: int, classes: int, activation: Activation, width: int) -> nn.Sequential:
    """Three convolutions without normalisation, two pools, one hidden layer."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, padding=2), activation(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5, padding=2), activation(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(8 * width, 8 * width), activation(), nn.Dropout(0.1), nn.Linear(8 * width, classes),
    )  # fmt: skip


def vgg(channels: int, classes: int, activation: Activation, width: int) -> nn.Sequential:
    """Three stages of two 3x3 convolutions, normalised once a stage as in the paper's figure 5, and a pool."""
    layers: list[nn.Module] = []
    inputs = channels
    for outputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), activation()]
        layers += [nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation(), nn.MaxPool2d(2)]
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, inputs), activation(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), activation(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.main(x) + self.short(x))


def resnet(channels: int, classes: int, activation: Activation, width: int) -> nn.Sequential:
    """A 3x3 convolution, four residual blocks in three stages, a mean over the image."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), activation(),
        _Residual(width, width, 1, activation), _Residual(width, 2 * width, 2, activation),
        _Residual(2 * width, 4 * width, 2, activation), _Residual(4 * width, 4 * width, 1, activation),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[int, int, Activation, int], nn.Sequential]] = {
    "AlexNet": alexnet,
    "VGG": vgg,
    "ResNet": resnet,
}
