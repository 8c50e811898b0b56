"""Small networks that resemble well-known ones, for the tests of fastops.accelerate."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- squeeze-and-excitation, as written by different hands ---------------------------------------------------


class TorchvisionSE(nn.Module):
    """The attributes of torchvision.ops.SqueezeExcitation."""

    def __init__(self, channels: int, hidden: int, activation=nn.ReLU, scale_activation=nn.Sigmoid) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.activation, self.scale_activation = activation(), scale_activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class TimmSE(nn.Module):
    """The attributes of timm's SEModule."""

    def __init__(self, channels: int, hidden: int, add_maxpool: bool = False, norm=nn.Identity, gate=nn.Sigmoid):
        super().__init__()
        self.add_maxpool = add_maxpool
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn = norm(hidden)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keepdim=True)
        if self.add_maxpool:
            squeezed = 0.5 * squeezed + 0.5 * x.amax((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.bn(self.fc1(squeezed)))))


class EfficientSE(nn.Module):
    """The attributes of timm's SqueezeExcite of EfficientNet."""

    def __init__(self, channels: int, hidden: int, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, hidden, 1)
        self.act1 = act()
        self.conv_expand = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True)))))


class OriginalSE(nn.Module):
    """Linear layers in an nn.Sequential called fc, as in the first PyTorch versions of SENet."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.fc(self.avg_pool(x).view(n, c)).view(n, c, 1, 1)


class FunctionalSE(nn.Module):
    """Activations that are no modules; signals [N, C, L]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv1d(channels, hidden, 1)
        self.excite = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor, strength: float = 1.0) -> Tensor:
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(2, keepdim=True)))))
        return x * gate * strength


# ---- activations and norms -----------------------------------------------------------------------------------


class OwnMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(F.softplus(x))


OwnMish.__name__ = OwnMish.__qualname__ = "Mish"
Mish = OwnMish  # under the name that its class has, for pickle


class HardMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (x + 2).clamp(0, 2)


class BatchNormAct2d(nn.BatchNorm2d):
    """The attributes of timm's class of this name."""

    def __init__(self, channels: int, act: Callable[[], nn.Module], drop: Callable[[], nn.Module] = nn.Identity):
        super().__init__(channels)
        self.drop, self.act = drop(), act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


# ---- networks ------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """ResNet's basic block; ``attention`` makes it SE-ResNet's."""

    def __init__(self, inputs: int, channels: int, stride: int, attention: Callable[..., nn.Module] | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.Mish(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = attention(channels, channels // 4) if attention else nn.Identity()
        self.act2 = nn.Mish(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != channels:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return self.act2(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, attention: Callable[..., nn.Module] | None = None, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.Mish()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(
            ResidualBlock(width, width, 1, attention), ResidualBlock(width, width, 1, attention)
        )
        self.layer2 = nn.Sequential(ResidualBlock(width, 2 * width, 2, attention))
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Conv(nn.Module):
    """Convolution, batch norm and one activation for all, as in YOLO code."""

    default_act = nn.Mish()

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = self.default_act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class CSP(nn.Module):
    """A cross-stage-partial block: half of the channels through residual bottlenecks, half past them."""

    def __init__(self, inputs: int, outputs: int, count: int = 2) -> None:
        super().__init__()
        hidden = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, hidden), Conv(inputs, hidden), Conv(2 * hidden, outputs)
        self.m = nn.ModuleList(nn.Sequential(Conv(hidden, hidden), Conv(hidden, hidden, 3)) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        for bottleneck in self.m:
            y = y + bottleneck(y)
        return self.cv3(torch.cat((y, self.cv2(x)), 1))


class Yolo(nn.Module):
    """Backbone and a head whose code depends on the size of its input, which torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8, 3, 2)
        self.csp = CSP(8, 16)
        self.head = nn.Sequential(nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8), Conv.default_act, nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor, augment: bool = False) -> Tensor:
        y = self.csp(self.stem(x))
        if y.shape[-1] < 8 or augment:
            y = F.interpolate(y, scale_factor=2.0)
        return self.head(y)


class MBConv(nn.Module):
    """EfficientNet's block, SiLU throughout."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels), nn.SiLU())
        self.se = TorchvisionSE(2 * channels, channels // 2, activation=nn.SiLU)
        self.project = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.se(self.expand(x)))
