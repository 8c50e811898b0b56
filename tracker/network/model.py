"""SiamFC: AlexNet backbone, optional channel attention, and a cross-correlation or a box head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracker.network.box_head import BoxHead, BoxOutput
from tracker.network.int8_settings import Int8Settings

BASE_CHANNELS = (96, 256, 384, 384, 256)
ACTIVATIONS = ("relu", "mish", "arelu", "asigmoid", "atanh")
ADAPTIVE = ACTIVATIONS[2:]  # with learned parameters a, b, c, d in every layer
ATTENTIONS = ("none", "se")
HEADS = ("xcorr", "box")
OPS = ("fastops", "reference")
CHANNEL_MULTIPLE = 16  # two groups of eight: grouped convolutions then fill SIMD vectors at any width


def scaled_channels(width: float) -> tuple[int, ...]:
    """Return the output channels of the five convolutions for `width`, rounded to multiples of 16."""
    step = CHANNEL_MULTIPLE
    return tuple(max(step, int(base * width / step + 0.5) * step) for base in BASE_CHANNELS)


def grouped_xcorr(z: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
    """Cross-correlate templates with their searches in one grouped `F.conv2d`, like stock PyTorch trackers.

    Args:
        z: templates [N, C, h, w].
        x: searches [N*S, C, H, W]; x[n*S + s] belongs to z[n].
        scale: factor on the result.

    Returns:
        Score maps [N*S, 1, H-h+1, W-w+1].
    """
    n, c = z.shape[:2]
    if x.shape[0] % n or x.shape[1] != c:
        raise ValueError(f"x must be [k*{n}, {c}, H, W], got {tuple(x.shape)}")
    per_template = x.unflatten(0, (n, -1)).transpose(0, 1).flatten(1, 2)  # [S, N*C, H, W]
    out = F.conv2d(per_template, z, groups=n)  # [S, N, H', W']
    return out.transpose(0, 1).flatten(0, 1).unsqueeze(1) * scale


def depthwise_xcorr(z: Tensor, x: Tensor) -> Tensor:
    """Cross-correlate channel by channel in one grouped `F.conv2d`.

    Args:
        z: templates [N, C, h, w].
        x: searches [N*S, C, H, W]; x[n*S + s] belongs to z[n].

    Returns:
        [N*S, C, H-h+1, W-w+1].
    """
    n, c = z.shape[:2]
    if x.shape[0] % n or x.shape[1] != c:
        raise ValueError(f"x must be [k*{n}, {c}, H, W], got {tuple(x.shape)}")
    per_template = x.unflatten(0, (n, -1)).transpose(0, 1).flatten(1, 2)  # [S, N*C, H, W]
    out = F.conv2d(per_template, z.flatten(0, 1)[:, None], groups=n * c)  # [S, N*C, H', W']
    return out.unflatten(1, (n, c)).transpose(0, 1).flatten(0, 1)


class ReferenceSEAttention(nn.Module):
    """Squeeze-and-excitation in stock PyTorch: x * sigmoid(w2 relu(w1 mean(x) + b1) + b2).

    Source: Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", eq. 7-9.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.w1 = nn.Parameter(torch.empty(hidden, channels))
        self.b1 = nn.Parameter(torch.empty(hidden))
        self.w2 = nn.Parameter(torch.empty(channels, hidden))
        self.b2 = nn.Parameter(torch.empty(channels))
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = weight.shape[1] ** -0.5  # the initial range of nn.Linear
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean(dim=(2, 3))  # [N, C]
        gate = F.linear(F.relu(F.linear(squeezed, self.w1, self.b1)), self.w2, self.b2).sigmoid()
        return x * gate[:, :, None, None]


class ReferenceAdaptive(nn.Module):
    """The adaptive activations of Hu et al. in stock PyTorch; see `fastops.nn.AReLU`, `ASigmoid` and `ATanh`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        starts = (1.0, 0.0 if kind == "arelu" else 1.0, 0.0, 0.0)
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.full((1,), start)) for start in starts)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "arelu":
            return torch.maximum(self.a * x + self.c, self.b * x + self.d)
        function = torch.sigmoid if self.kind == "asigmoid" else torch.tanh
        return self.b * function(self.a * x + self.c) + self.d


class Backbone(nn.Module):
    """AlexNet without padding, total stride 8: [N, 3, 127, 127] -> [N, C, 6, 6], [N, 3, 255, 255] -> [N, C, 22, 22]."""

    def __init__(self, channels: tuple[int, ...], activation: Callable[[], nn.Module]) -> None:
        super().__init__()

        def block(i: int, kernel: int, stride: int = 1, groups: int = 1, pool: bool = False) -> nn.Sequential:
            inputs = channels[i - 1] if i else 3
            layers = [
                nn.Conv2d(inputs, channels[i], kernel, stride, groups=groups),
                nn.BatchNorm2d(channels[i], eps=1e-6, momentum=0.05),
                activation(),
            ]
            return nn.Sequential(*layers, nn.MaxPool2d(3, 2)) if pool else nn.Sequential(*layers)

        self.conv1 = block(0, kernel=11, stride=2, pool=True)
        self.conv2 = block(1, kernel=5, groups=2, pool=True)
        self.conv3 = block(2, kernel=3)
        self.conv4 = block(3, kernel=3, groups=2)
        self.conv5 = nn.Sequential(nn.Conv2d(channels[3], channels[4], 3, groups=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))


class SiamFC(nn.Module):
    r"""Fully-convolutional Siamese network: cross-correlates the features of a template and of a search image.

    $$
    y = s \; \varphi(z) \star \varphi(x)
    $$

    Here $\varphi$ are the features, and s is `out_scale`.

    Images are RGB, float, 0 to 255, NCHW. The ReLU variant without attention has the state-dict keys of the usual
    PyTorch SiamFC, `backbone.conv{1..5}.{0,1}.*`. Attention adds `attention.{w1,b1,w2,b2}`, the box head adds
    `box_head.*`.

    Args:
        activation: "relu" or "mish"; or "arelu", "asigmoid" or "atanh", which have learned parameters
            `backbone.conv{1..4}.2.{a,b,c,d}`.
        attention: "none", or "se" for squeeze-and-excitation after the backbone, on both branches.
        head: "xcorr" gives only the score map. "box" gives a score and a box in every cell, so the tracker follows the
            target's aspect ratio (see `tracker.network.box_head`).
        width: factor on the channel counts 96, 256, 384, 384, 256, rounded to multiples of 16.
        se_reduction: ratio of channels to hidden units of the attention.
        out_scale: factor on the score map of "xcorr".
        ops: "fastops" for the fused ops, "reference" for stock PyTorch; parameters and keys are the same.

    Raises:
        ValueError: if an argument is out of range.

    Source: Bertinetto et al., Fully-Convolutional Siamese Networks for Object Tracking; Zhang and Wang, Object
    tracking in siamese network with attention mechanism and Mish function (Mish, attention); Hu et al., Adaptively
    customizing activation functions for various layers.

    Example:
        >>> net = SiamFC(width=0.25, ops="reference")
        >>> net(torch.rand(1, 3, 127, 127), torch.rand(3, 3, 255, 255)).shape
        torch.Size([3, 1, 17, 17])
    """

    def __init__(
        self,
        activation: str = "relu",
        attention: str = "none",
        head: str = "xcorr",
        width: float = 1.0,
        se_reduction: int = 16,
        *,
        out_scale: float = 0.001,
        ops: str = "fastops",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("activation", activation, ACTIVATIONS),
            ("attention", attention, ATTENTIONS),
            ("head", head, HEADS),
            ("ops", ops, OPS),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if not 0 < width <= 8:
            raise ValueError(f"width must be above 0 and at most 8, got {width!r}")
        channels = scaled_channels(width)
        if not (isinstance(se_reduction, int) and 1 <= se_reduction <= channels[-1]):
            raise ValueError(
                f"se_reduction must be an integer from 1 to the {channels[-1]} channels, got {se_reduction!r}"
            )
        self.activation, self.attention_kind, self.head = activation, attention, head
        self.width, self.se_reduction, self.out_scale, self.ops = float(width), se_reduction, float(out_scale), ops
        self.int8: Int8Settings | None = None  # settings of the weights for int8, if they have any

        if ops == "fastops":
            # Imported here: the reference variant must work without the compiled library.
            import fastops
            import fastops.nn

            mish, attention_block, self._xcorr = fastops.nn.Mish, fastops.nn.SEAttention, fastops.xcorr
            depthwise = fastops.xcorr_depthwise
            adaptive = {"arelu": fastops.nn.AReLU, "asigmoid": fastops.nn.ASigmoid, "atanh": fastops.nn.ATanh}
        else:
            adaptive = {kind: partial(ReferenceAdaptive, kind) for kind in ADAPTIVE}
            mish, attention_block, self._xcorr = nn.Mish, ReferenceSEAttention, grouped_xcorr
            depthwise = depthwise_xcorr
        make_activation = {"relu": partial(nn.ReLU, inplace=True), "mish": mish, **adaptive}[activation]
        self.backbone = Backbone(channels, make_activation)
        # Drawn first, so that with one seed the convolutions start equal for any attention and head.
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        if attention == "se":
            self.attention = attention_block(channels[-1], se_reduction)
        else:
            self.attention = nn.Identity()
        self.box_head = BoxHead(channels[-1], make_activation, depthwise) if head == "box" else None

    def settings(self) -> dict[str, str | float | int]:
        """Return the arguments that rebuild this network: `SiamFC(**net.settings())`."""
        return {
            "activation": self.activation,
            "attention": self.attention_kind,
            "head": self.head,
            "width": self.width,
            "se_reduction": self.se_reduction,
        }

    def features(self, x: Tensor) -> Tensor:
        """Embed images [N, 3, H, W] as [N, C, H', W']: 127 -> 6, 255 -> 22."""
        return self.attention(self.backbone(x))

    def score(self, z: Tensor, x: Tensor) -> Tensor | BoxOutput:
        """Correlate template features [N, C, h, w] with search features [N*S, C, H, W].

        Returns:
            Score maps [N*S, 1, H-h+1, W-w+1], or the output of the box head.
        """
        score_map = self.score_map(z, x)
        return score_map if self.box_head is None else self.box_head(z, x, score_map)

    def score_map(self, z: Tensor, x: Tensor) -> Tensor:
        """Only the score map, for any head: [N*S, 1, H-h+1, W-w+1]."""
        return self._xcorr(z, x, self.out_scale)

    def forward(self, z: Tensor, x: Tensor) -> Tensor | BoxOutput:
        """Score search images [N*S, 3, 255, 255] against exemplars [N, 3, 127, 127].

        Returns:
            Score maps [N*S, 1, 17, 17], or with a box head a `tracker.network.box_head.BoxOutput`.
        """
        return self.score(self.features(z), self.features(x))


class EagerNetwork:
    """The network of the eager engines, which runs op by op. It takes a template and then gives score maps.

    It holds a copy of `model` in eval mode. The caller's model keeps its mode, device and dtype.
    """

    def __init__(
        self, model: SiamFC, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        first = next(model.parameters())
        self.device, self.dtype = torch.device(device or first.device), dtype or first.dtype
        self.model = copy.deepcopy(model).to(self.device, self.dtype).eval().requires_grad_(False)
        self._template: Tensor | None = None

    def _to_input(self, crops: np.ndarray) -> Tensor:
        return torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).to(self.dtype)

    def _own_dtype(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)

    @torch.inference_mode()
    def exemplar(self, crop: np.ndarray) -> None:
        """Store the template of an exemplar crop, uint8 [127, 127, 3]."""
        with self._own_dtype():
            self._template = self.model.features(self._to_input(crop[None]))

    @torch.inference_mode()
    def responses(self, crops: np.ndarray) -> np.ndarray:
        """Return the score maps, float32 [S, 17, 17], of search crops, uint8 [S, 255, 255, 3].

        With a box head they are [S, 5, 17, 17]: score, l, t, r and b.
        """
        if self._template is None:
            raise RuntimeError("exemplar must be called before responses, got no template")
        with self._own_dtype():
            output = self.model.score(self._template, self.model.features(self._to_input(crops)))
        maps = torch.cat(output, 1) if isinstance(output, BoxOutput) else output[:, 0]
        return maps.float().cpu().numpy()
