"""The network for inference in the tracker, with frozen weights and fused ops."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
from fastops.nn import FrozenConv2d
from tracker.network.box_head import BoxHead, correlate, distances
from tracker.network.model import ADAPTIVE, SiamFC

#: Channels of the crops by device type, else 3: cuDNN's kernels for tensor cores take them in multiples of 4. The
#: fourth is 0, and so are its weights.
CROP_CHANNELS = {"cuda": 4}


class FusedNetwork:
    """`SiamFC` for inference: batch norm folded, channels_last, bias, activation and pooling inside the convolutions.

    Scores equal the model's scores in eval mode up to rounding. Before a max pool the activation runs on only a part of
    the values: ReLU is monotone, so it follows the pool, and Mish needs the two extremes of each window. The adaptive
    activations run separately after their convolution. The features are float32 for any dtype, because rounding a score
    map to 8 bits would move its peak.

    Args:
        model: the network, which may be accelerated (`fastops.accelerate`); its parameters are copied.
        device: where to run; None is the model's own.
        dtype: floating-point type to run in; None is the model's own.
        dense: names of grouped convolutions of the backbone ("conv2") to run in one group, with weights of zero across
            the groups: more multiplications, but a GPU may take less time for them.

    Attributes:
        crop_dtype: of the crops that `features` takes.
        crop_channels: of these crops: red, green, blue and on a GPU one of zeros.
    """

    def __init__(
        self,
        model: SiamFC,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        dense: Collection[str] = (),
    ) -> None:
        first = next(model.parameters())
        self.device, self.dtype = torch.device(device or first.device), dtype or first.dtype
        self.crop_dtype, self.crop_channels = self.dtype, CROP_CHANNELS.get(self.device.type, 3)
        model = fastops.restore(copy.deepcopy(model))  # its blocks are read layer by layer, as they were written
        self.head, self.out_scale = model.head, model.out_scale
        options = {"device": self.device, "dtype": self.dtype}
        blocks = [getattr(model.backbone, f"conv{i}") for i in range(1, 6)]
        add_input_channels(blocks[0][0], self.crop_channels - blocks[0][0].in_channels)
        for name in dense:
            make_dense(getattr(model.backbone, name)[0])
        self._feature_dtype = torch.promote_types(self.dtype, torch.float32)
        self._convs = []
        for block in blocks:
            pool = (3, 2) if any(isinstance(layer, nn.MaxPool2d) for layer in block) else None
            if len(block) == 1:
                self._convs.append(FrozenConv2d(block[0], **options, output_dtype=self._feature_dtype))
            elif model.activation in ADAPTIVE:
                self._convs.append(FrozenAdaptive(block, model.activation, pool, **options))
            else:
                self._convs.append(FrozenConv2d(block[0], block[1], model.activation, max_pool=pool, **options))
        self._attention: tuple[Tensor, ...] | None = None
        if model.attention_kind == "se":
            weights = model.attention
            parameters = (weights.w1, weights.b1, weights.w2, weights.b2)
            self._attention = tuple(t.detach().to(self.device, self._feature_dtype, copy=True) for t in parameters)
        if model.box_head is not None:
            options["dtype"] = self._feature_dtype  # of what it is given
            head = model.box_head
            self._score_factor = float(head.score_factor.detach())
            self._score_offset = head.score_offset.detach().to(self.device, self._feature_dtype, copy=True)
            self._box_head = FrozenBoxHead(model.box_head, model.activation, **options)

    def features(self, crops: Tensor) -> Tensor:
        """Embed crops [N, 3 or `crop_channels`, H, W] as [N, C, H', W'], both channels_last.

        Crops have the network's dtype and values from 0 to 255. The features are float32, or float64 for float64.
        """
        return self.attend(self.embed(crops))

    def embed(self, crops: Tensor) -> Tensor:
        """The features before channel attention."""
        x = crops
        if x.shape[1] < self.crop_channels:
            x = F.pad(x.permute(0, 2, 3, 1), (0, self.crop_channels - x.shape[1])).permute(0, 3, 1, 2)
        for conv in self._convs:
            x = conv(x)
        return x

    def attend(self, features: Tensor) -> Tensor:
        """Apply channel attention to the features, if the network has it."""
        return features if self._attention is None else fastops.se_attention(features, *self._attention)

    def outputs(self, templates: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the last convolutions, for the op that updates the boxes.

        Args:
            templates: [K, C, h, w].
            features: [K S, C, H, W], the features of the templates' searches.

        Returns:
            Score maps [K S, 1, H', W']. With a box head, scores [K S, 1, H', W'] and maps [K S, 4, H', W'], which
            `tracker.network.box_head.distances` converts to l, t, r, b.
        """
        if self.head == "box":
            return self._score(templates, features), self._box_head(templates, features)
        return (fastops.xcorr(templates, features, self.out_scale),)

    def _score(self, templates: Tensor, features: Tensor) -> Tensor:
        """The score map of a network with a box head."""
        return fastops.xcorr(templates, features, self.out_scale * self._score_factor, self._score_offset)

    def scores(self, templates: Tensor, features: Tensor) -> Tensor:
        """Correlate templates [K, C, h, w] with the features [K S, C, H, W] of their searches.

        The result is [K S, 1, H', W']. With a box head it is [K S, 5, H', W']: score and l, t, r, b.
        """
        first, *edges = self.outputs(templates, features)
        return torch.cat([first, distances(*edges)], 1) if edges else first


@torch.no_grad()
def add_input_channels(conv: nn.Conv2d, count: int) -> None:
    """Let a convolution take `count` more channels, whose weights are 0."""
    conv.weight = nn.Parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, count)))
    conv.in_channels += count


def dense_weights(weight: Tensor, groups: int) -> Tensor:
    """Weights [O, I, h, w] of a convolution in one group that equals one with weights [O, I / groups, h, w]."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros((weight.shape[0], inputs * groups, *weight.shape[2:]))
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        dense[rows, g * inputs : (g + 1) * inputs] = weight[rows]
    return dense


@torch.no_grad()
def make_dense(conv: nn.Conv2d) -> None:
    """Let a grouped convolution run in one group."""
    conv.weight = nn.Parameter(dense_weights(conv.weight, conv.groups))
    conv.groups = 1


class FrozenAdaptive:
    """A convolution, its batch norm, an adaptive activation and a max pooling, for inference."""

    def __init__(
        self, block: nn.Sequential, activation: str, max_pool: tuple[int, int] | None = None, **options
    ) -> None:
        self._conv = FrozenConv2d(block[0], block[1], "none", **options)
        names = {"arelu": "adaptive_relu", "asigmoid": "adaptive_sigmoid", "atanh": "adaptive_tanh"}
        self._function = getattr(fastops, names[activation])
        own = block[2]
        self._shape = [p.detach().to(**options, copy=True) for p in (own.a, own.b, own.c, own.d)]
        self._max_pool = max_pool

    def __call__(self, x: Tensor) -> Tensor:
        y = self._function(self._conv(x), *self._shape)
        return y if self._max_pool is None else F.max_pool2d(y, *self._max_pool)


class FrozenBoxHead:
    """`BoxHead` for inference."""

    def __init__(self, head: BoxHead, activation: str, **options) -> None:
        def frozen(block: nn.Module, activation: str) -> FrozenConv2d | FrozenAdaptive:
            if isinstance(block, nn.Conv2d):
                return FrozenConv2d(block, **options)
            if activation in ADAPTIVE:
                return FrozenAdaptive(block, activation, **options)
            return FrozenConv2d(block[0], block[1], activation, **options)

        self._template, self._search = frozen(head.template, "none"), frozen(head.search, "none")
        self._tower = [frozen(block, activation) for block in head.box]

    def __call__(self, templates: Tensor, features: Tensor) -> Tensor:
        box = self.correlate(templates, features)
        for conv in self._tower:
            box = conv(box)
        return box

    def correlate(self, templates: Tensor, features: Tensor) -> Tensor:
        """The input of the tower."""
        return correlate(fastops.xcorr_depthwise, self._template(templates), self._search(features))
