"""The network as the tracker runs it: weights frozen, ops fused."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastops
from fastops.nn import FrozenConv2d
from tracker.model import SiamFC


class FusedNetwork:
    """`SiamFC` for inference: batch norm folded, channels_last, bias and activation inside the convolutions.

    Scores equal the model's in eval mode up to float32 rounding. Before a max pool the activation runs on a part of the
    values only: ReLU is monotone, so it follows the pool, and Mish needs the two extremes of each window.

    Args:
        model: the network, which may be accelerated (`fastops.accelerate`); its parameters are copied.
        device: where to run; None is the model's own.
        dtype: floating-point type to run in; None is the model's own.
    """

    def __init__(
        self, model: SiamFC, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        model = fastops.restore(copy.deepcopy(model))  # its blocks are read layer by layer, as they were written
        first = next(model.parameters())
        self.device, self.dtype = torch.device(device or first.device), dtype or first.dtype
        self.out_scale = model.out_scale
        self._activation = model.activation
        options = {"device": self.device, "dtype": self.dtype}
        blocks = [getattr(model.backbone, f"conv{i}") for i in range(1, 6)]
        self._pools = [any(isinstance(layer, nn.MaxPool2d) for layer in block) for block in blocks]
        self._convs = []
        for block, pool in zip(blocks, self._pools, strict=True):
            has_norm = len(block) > 1
            activation = model.activation if has_norm and not pool else "none"
            self._convs.append(FrozenConv2d(block[0], block[1] if has_norm else None, activation, **options))
        self._attention: tuple[Tensor, ...] | None = None
        if model.attention_kind == "se":
            weights = model.attention
            parameters = (weights.w1, weights.b1, weights.w2, weights.b2)
            self._attention = tuple(t.detach().to(**options, copy=True) for t in parameters)
        self._template: Tensor | None = None

    def features(self, crops: np.ndarray) -> Tensor:
        """Embed crops, uint8 [N, H, W, 3], as [N, C, H', W'], channels_last."""
        # uint8 [N, H, W, 3] seen as [N, 3, H, W] is channels_last already: the cast is the only pass over it.
        x = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).to(self.dtype)
        for conv, pool in zip(self._convs, self._pools, strict=True):
            x = conv(x)
            if pool:
                x = F.max_pool2d(x, 3, 2).relu_() if self._activation == "relu" else fastops.mish_max_pool2d(x, 3, 2)
        return x if self._attention is None else fastops.se_attention(x, *self._attention)

    @torch.inference_mode()
    def exemplar(self, crop: np.ndarray) -> None:
        """Store the template of an exemplar crop, uint8 [127, 127, 3]."""
        self._template = self.features(crop[None])

    @torch.inference_mode()
    def responses(self, crops: np.ndarray) -> np.ndarray:
        """Return the score maps, float32 [S, 17, 17], of search crops, uint8 [S, 255, 255, 3]."""
        if self._template is None:
            raise RuntimeError("FusedNetwork: exemplar must be called before responses, got no template")
        scores = fastops.xcorr(self._template, self.features(crops), self.out_scale)
        return scores[:, 0].float().cpu().numpy()
