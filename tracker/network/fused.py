"""The network for inference in the tracker, with frozen weights and fused ops."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
from fastops.nn import FrozenConv2d
from tracker.network.box_head import BoxHead, correlate, distances
from tracker.network.model import ADAPTIVE, SiamFC


class FusedNetwork:
    """`SiamFC` for inference: folded batch norms, channels_last, bias and activation fused into the convolutions.

    Scores equal the model's scores in eval mode up to rounding. Before a max pool the activation runs on only a part of
    the values: ReLU is monotone, so it follows the pool, and Mish needs the two extremes of each window. The adaptive
    activations run separately after their convolution. The features are float32 for any dtype, because rounding a score
    map to 8 bits would move its peak.

    Args:
        model: the network, which may be accelerated (`fastops.accelerate`); its parameters are copied.
        device: device to run on; None means the model's device.
        dtype: floating-point type to run in; None means the model's dtype.

    Attributes:
        crop_dtype: dtype of the crops for `features`.
    """

    def __init__(
        self, model: SiamFC, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        first = next(model.parameters())
        self.device, self.dtype = torch.device(device or first.device), dtype or first.dtype
        self.crop_dtype = self.dtype
        model = fastops.restore(copy.deepcopy(model))  # its blocks are read layer by layer, as they were written
        self.head, self.out_scale = model.head, model.out_scale
        self._activation = model.activation
        options = {"device": self.device, "dtype": self.dtype}
        blocks = [getattr(model.backbone, f"conv{i}") for i in range(1, 6)]
        self._pools = [any(isinstance(layer, nn.MaxPool2d) for layer in block) for block in blocks]
        self._convs = []
        for block, pool in zip(blocks, self._pools, strict=True):
            has_norm = len(block) > 1
            if has_norm and model.activation in ADAPTIVE:
                self._convs.append(FrozenAdaptive(block, model.activation, **options))
                continue
            activation = model.activation if has_norm and not pool else "none"
            self._convs.append(FrozenConv2d(block[0], block[1] if has_norm else None, activation, **options))
        self._attention: tuple[Tensor, ...] | None = None
        self._feature_dtype = torch.promote_types(self.dtype, torch.float32)
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
        """Embed crops [N, 3, H, W] as [N, C, H', W'], both channels_last.

        Crops have the network's dtype and values from 0 to 255. The features are float32, or float64 for float64.
        """
        return self.attend(self.embed(crops))

    def embed(self, crops: Tensor) -> Tensor:
        """The features before channel attention."""
        x = crops
        for conv, pool in zip(self._convs, self._pools, strict=True):
            x = conv(x)
            if pool and self._activation in ADAPTIVE:
                x = F.max_pool2d(x, 3, 2)
            elif pool:
                x = fastops.relu_max_pool2d(x, 3, 2) if self._activation == "relu" else fastops.mish_max_pool2d(x, 3, 2)
        return x.to(self._feature_dtype)

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


class FrozenAdaptive:
    """A convolution, its batch norm and an adaptive activation, for inference."""

    def __init__(self, block: nn.Sequential, activation: str, **options) -> None:
        self._conv = FrozenConv2d(block[0], block[1], "none", **options)
        names = {"arelu": "adaptive_relu", "asigmoid": "adaptive_sigmoid", "atanh": "adaptive_tanh"}
        self._function = getattr(fastops, names[activation])
        own = block[2]
        self._shape = [p.detach().to(**options, copy=True) for p in (own.a, own.b, own.c, own.d)]

    def __call__(self, x: Tensor) -> Tensor:
        return self._function(self._conv(x), *self._shape)


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
