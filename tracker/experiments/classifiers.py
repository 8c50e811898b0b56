"""The activations and the networks that Hu et al. compare, for small images.

The networks follow figure 5 of the paper, which does not show strides, paddings and positions of the activations. Here
a convolution is followed by its normalisation, if the figure has one, and then by the activation. Convolutions keep the
size of the image, and pools halve it. The paper's dropouts of .8 and .9 are probabilities of keeping a value. `width`
scales all channels and `depth` the numbers of blocks; 1 gives the paper's networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops.nn

Activation = Callable[[], nn.Module]


class Swish(nn.Module):
    """x sigmoid(b x). b is learnable and starts at 1 (Ramachandran et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b * x)


class PReLU(nn.PReLU):
    """nn.PReLU with an initial slope of 0, as in the code of Hu et al. torch's initial slope is .25."""

    def __init__(self) -> None:
        super().__init__(init=0.0)


class PELU(nn.Module):
    """(a / b) x for x >= 0, else a (e^(x / b) - 1). a and b are learnable, start at 1 and stay at least 0.1.

    Source: Trottier et al., 2017.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a.clamp(min=0.1), self.b.clamp(min=0.1)
        return a / b * x.clamp(min=0) + a * torch.expm1(x.clamp(max=0) / b)


class FReLU(nn.Module):
    """max(x, 0) + b. b is learnable and starts at 0 (Qiu et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) + self.b


def initialise(network: nn.Module) -> None:
    """Initialise with He's normal weights.

    AlexNet has no normalisation. With torch's weights it had not learned anything after two epochs.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


#: One set of parameters per layer, as in the paper. LReLU's slope and PReLU's initial slope are those of its authors'
#: code. PELU starts at 1 and FReLU at 0, as in Trottier et al. and Qiu et al.
ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": nn.Sigmoid,
    "ASigmoid": fastops.nn.ASigmoid,
    "Tanh": nn.Tanh,
    "ATanh": fastops.nn.ATanh,
    "ReLU": nn.ReLU,
    "LReLU": partial(nn.LeakyReLU, 0.2),
    "PReLU": PReLU,
    "Swish": Swish,
    "PELU": PELU,
    "FReLU": FReLU,
    "AReLU": fastops.nn.AReLU,
}


class _Builder:
    """Makes the layers of one network. Channels are scaled by `width`, and each convolution has its own activation."""

    def __init__(self, activation: Activation, width: float) -> None:
        self.activation, self._width = activation, width

    def scaled(self, channels: int) -> int:
        return max(4, round(channels * self._width))

    def conv(self, inputs: int, outputs: int, kernel: int, norm: bool = False, act: bool = True) -> list[nn.Module]:
        """A convolution, whose numbers of channels are not scaled."""
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)]
        return layers + [nn.BatchNorm2d(outputs)] * norm + ([self.activation()] if act else [])


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, padding=1)  # 1 x 1 stays 1 x 1


def alexnet(channels: int, classes: int, activation: Activation, width: float, depth: float) -> nn.Sequential:
    """Four convolutions without batch normalisation, the first two with local response normalisation."""
    make = _Builder(activation, width)
    c1, c2, c3, c4, hidden = map(make.scaled, (96, 256, 384, 256, 2048))
    return nn.Sequential(
        *make.conv(channels, c1, 11), nn.LocalResponseNorm(5), _pool(),
        *make.conv(c1, c2, 5), nn.LocalResponseNorm(5), _pool(),
        *make.conv(c2, c3, 3), *make.conv(c3, c4, 5), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * c4, hidden), activation(), nn.Dropout(0.1), nn.Linear(hidden, classes),
    )  # fmt: skip


def vgg(channels: int, classes: int, activation: Activation, width: float, depth: float) -> nn.Sequential:
    """Five stages of 3x3 convolutions with one normalisation each, pools after the last three, two hidden layers."""
    make = _Builder(activation, width)
    layers, inputs = [], channels
    for outputs, count, pool in ((64, 2, False), (128, 2, False), (256, 3, True), (512, 3, True), (512, 3, True)):
        outputs, count = make.scaled(outputs), max(1, round(count * depth))
        for k in range(count):
            layers += make.conv(inputs, outputs, 3, norm=k == count - 1)
            inputs = outputs
        layers += [_pool()] * pool
    first, second = make.scaled(8192), make.scaled(7168)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, first), activation(), nn.Dropout(0.1),
        nn.Linear(first, second), activation(), nn.Dropout(0.1), nn.Linear(second, classes),
    )  # fmt: skip


#: Channels of the branches of each inception block (Szegedy et al.): 1x1; 1x1 then 3x3; 1x1 then 5x5; pool then 1x1.
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


class _Inception(nn.Module):
    def __init__(self, inputs: int, sizes: tuple[int, ...], make: _Builder) -> None:
        super().__init__()
        one, before3, three, before5, five, pooled = map(make.scaled, sizes)
        self.branches = nn.ModuleList(
            nn.Sequential(*layers)
            for layers in (
                make.conv(inputs, one, 1),
                make.conv(inputs, before3, 1) + make.conv(before3, three, 3),
                make.conv(inputs, before5, 1) + make.conv(before5, five, 5),
                [nn.MaxPool2d(3, 1, padding=1), *make.conv(inputs, pooled, 1)],
            )
        )
        self.outputs = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet(channels: int, classes: int, activation: Activation, width: float, depth: float) -> nn.Sequential:
    """A 7x7 and two 3x3 convolutions, nine inception blocks in three stages, a mean over the image."""
    make = _Builder(activation, width)
    c1, c2 = make.scaled(64), make.scaled(192)
    layers = [*make.conv(channels, c1, 7), _pool(), *make.conv(c1, c2, 3), *make.conv(c2, c2, 3), _pool()]
    inputs = c2
    for name, sizes in _INCEPTION.items():
        layers += [_pool()] * (name in ("4a", "5a"))
        block = _Inception(inputs, sizes, make)
        layers, inputs = [*layers, block], block.outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(inputs, classes))


class _Residual(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, make: _Builder) -> None:
        super().__init__()
        middle = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.main = nn.Sequential(
            *make.conv(inputs, inner, 1, norm=True), middle, nn.BatchNorm2d(inner), make.activation(),
            *make.conv(inner, outputs, 1, norm=True, act=False),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.activation = make.activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.main(x) + self.short(x))


def resnet(channels: int, classes: int, activation: Activation, width: float, depth: float) -> nn.Sequential:
    """A 7x7 convolution, stages of 3, 4, 6 and 3 bottleneck blocks, a mean over the image."""
    make = _Builder(activation, width)
    inputs = make.scaled(64)
    layers = [*make.conv(channels, inputs, 7, norm=True), _pool()]
    for stage, (inner, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        outputs = make.scaled(4 * inner)
        for k in range(max(1, round(count * depth))):
            stride = 2 if k == 0 and stage else 1
            layers.append(_Residual(inputs, make.scaled(inner), outputs, stride, make))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class _Dense(nn.Module):
    """Normalisation, 1x1 and 3x3 convolutions. The input is concatenated with the output."""

    def __init__(self, inputs: int, growth: int, make: _Builder) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.BatchNorm2d(inputs), make.activation(), nn.Conv2d(inputs, 2 * growth, 1, bias=False), nn.Dropout(0.2),
            nn.BatchNorm2d(2 * growth), make.activation(), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
            nn.Dropout(0.2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.main(x)], 1)


def densenet(channels: int, classes: int, activation: Activation, width: float, depth: float) -> nn.Sequential:
    """A 7x7 convolution, dense blocks of 6, 12, 48 and 32 layers of growth 24, a mean over the image."""
    make = _Builder(activation, width)
    growth = make.scaled(24)
    inputs = 2 * growth
    layers = [nn.Conv2d(channels, inputs, 7, padding=3, bias=False)]
    for block, count in enumerate((6, 12, 48, 32)):
        if block:  # the transition layer
            layers += [*make.conv(inputs, inputs // 2, 1), nn.AvgPool2d(2, ceil_mode=True)]
            inputs //= 2
        for _ in range(max(1, round(count * depth))):
            layers.append(_Dense(inputs, growth, make))
            inputs += growth
    layers += [nn.BatchNorm2d(inputs), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


NETWORKS: dict[str, Callable[[int, int, Activation, float, float], nn.Sequential]] = {
    "AlexNet": alexnet,
    "VGG": vgg,
    "GoogLeNet": googlenet,
    "ResNet": resnet,
    "DenseNet": densenet,
}
