"""The network in 8-bit integers, and the measurement of its settings."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastops
from fastops.nn import PIXELS, FrozenConv2d, Quantization, QuantizedConv2d, best_range, bias_correction
from tracker.network.fused import FusedNetwork
from tracker.network.int8_settings import Int8Settings, LayerLevels
from tracker.network.model import SiamFC

SAMPLE = 4_000_000  # number of a layer's values from which its range is chosen
POOL = (3, 2)
FUNCTIONS = {"none": lambda x: x, "relu": nn.functional.relu, "mish": nn.functional.mish}


class _Layer(NamedTuple):
    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    activation: str
    pool: tuple[int, int] | None

    def quantized(
        self, input: Quantization, range: tuple[float, float] | None, correction: Tensor | None = None
    ) -> QuantizedConv2d:
        return QuantizedConv2d.from_float(
            self.conv, self.norm, self.activation, input=input, range=range, pool=self.pool, correction=correction
        )


def _layers(name: str, blocks: nn.Module, activation: str) -> list[_Layer]:
    """The convolutions of the backbone, whose blocks have names, or of a tower, whose blocks have numbers."""
    layers = []
    for key, block in blocks.named_children():
        if isinstance(block, nn.Conv2d):
            block = [block]
        pooled = any(isinstance(layer, nn.MaxPool2d) for layer in block)
        norm, function = (block[1], activation) if len(block) > 1 else (None, "none")
        layers.append(_Layer(f"{name}{key}", block[0], norm, function, POOL if pooled else None))
    return layers


def _plain(model: SiamFC) -> SiamFC:
    """A copy of the model without accelerated blocks, in float32 on the CPU."""
    return fastops.restore(copy.deepcopy(model)).to("cpu", torch.float32).eval().requires_grad_(False)


def _run(layers: list[QuantizedConv2d], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


class QuantizedNetwork(FusedNetwork):
    """`FusedNetwork` with convolutions in 8-bit integers: the backbone's, and those of a box head's tower.

    The crops' grey levels are the input of the first layer. Features, attention, correlation and scores are float32.
    The results of the convolutions have the same bits on every CPU. The network is fast if the CPU has VNNI or AMX.

    Args:
        model: the network; its parameters are copied.
        settings: its settings for int8; the default is the model's own.

    Raises:
        ValueError: if there are no settings, or they belong to another network.
    """

    def __init__(self, model: SiamFC, settings: Int8Settings | None = None) -> None:
        settings = settings or model.int8
        if settings is None:
            raise ValueError(
                "dtype int8 must go with weights that carry the ranges of their activations (tracker quantize adds "
                "them), got weights without"
            )
        model = _plain(model)
        super().__init__(model)
        self._convs = []  # the float32 convolutions, which are not needed
        self.dtype, self.crop_dtype = torch.int8, torch.uint8
        self._backbone = _quantized(_layers("", model.backbone, model.activation), PIXELS, settings)
        if model.box_head is not None:
            if settings.correlation is None:
                raise ValueError("int8 settings must be those of a network with a box head, got those of one without")
            levels = Quantization.of_range(*settings.correlation)
            self._tower = _quantized(_layers("box", model.box_head.box, model.activation), levels, settings)

    def embed(self, crops: Tensor) -> Tensor:
        """The features before the attention: uint8 [N, 3, H, W] to float32 [N, C, H', W'], both channels_last."""
        return _run(self._backbone, crops)

    def outputs(self, templates: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        if self.head != "box":
            return super().outputs(templates, features)
        y = self._tower[0].input.quantize(self._box_head.correlate(templates, features))
        return self._score(templates, features), _run(self._tower, y)


def _quantized(layers: list[_Layer], input: Quantization, settings: Int8Settings) -> list[QuantizedConv2d]:
    quantized = []
    for layer in layers:
        levels = settings.layers.get(layer.name)
        if levels is None or len(levels.correction) != layer.conv.out_channels:
            raise ValueError(
                f"int8 settings must have {layer.conv.out_channels} corrections for the layer {layer.name}"
            )
        if (levels.range is None) != (layer is layers[-1]):
            raise ValueError(f"int8 settings must have a range for each layer but the last, got {layer.name}")
        correction = torch.tensor(levels.correction, dtype=torch.float64)
        quantized.append(layer.quantized(input, levels.range, correction))
        input = quantized[-1].output
    return quantized


# ---- measuring -----------------------------------------------------------------------------------------------------


class LayerError(NamedTuple):
    """The error of a layer's results relative to float32, which includes the errors of the layers before.

    It is the root mean square of the difference, divided by that of the values.
    """

    name: str
    range: tuple[float, float] | None
    error: float


@torch.inference_mode()
def measure_int8(model: SiamFC, exemplars: Tensor, searches: Tensor) -> tuple[Int8Settings, list[LayerError]]:
    """Choose the ranges of the activations and correct the biases, layer after layer, on a sample of crops.

    Each range has the least squared error after activation and pool. A layer is measured on the results of the
    quantized layers before it, so its correction compensates their errors too.

    Args:
        model: the floating-point network, which is not changed.
        exemplars: uint8 [N, 3, 127, 127].
        searches: uint8 [N, 3, 255, 255], around the same targets.

    Returns:
        The settings, without AUC, and the error of each layer and of the score maps ("score map").
    """
    plain = _plain(model)
    network = FusedNetwork(plain)
    layers, errors = {}, []
    chain = _layers("", plain.backbone, plain.activation)
    wanted, got = _measure(chain, searches.float(), searches, PIXELS, layers, errors)
    correlation = None
    if plain.box_head is not None:
        templates = [network.features(exemplars.float())]
        templates.append(network.attend(_run(_quantized(chain, PIXELS, Int8Settings(layers)), exemplars)))
        maps = [
            network._box_head.correlate(z, network.attend(x)) for z, x in zip(templates, (wanted, got), strict=True)
        ]
        correlation = best_range(_sample(maps[0]))
        levels = Quantization.of_range(*correlation)
        chain = _layers("box", plain.box_head.box, plain.activation)
        _measure(chain, maps[0], levels.quantize(maps[1]), levels, layers, errors)
    settings = Int8Settings(layers, correlation)
    quantized = QuantizedNetwork(plain, settings)
    wanted = network.scores(network.features(exemplars.float()), network.features(searches.float()))
    got = quantized.scores(quantized.features(exemplars), quantized.features(searches))
    errors.append(LayerError("score map", None, _error(got[:, :1], wanted[:, :1])))
    return settings, errors


def _measure(
    chain: list[_Layer],
    x: Tensor,
    levels: Tensor,
    input: Quantization,
    layers: dict[str, LayerLevels],
    errors: list[LayerError],
) -> tuple[Tensor, Tensor]:
    """Measure the layers of a chain, given its input in floating point and in levels; return the results of both."""
    for layer in chain:
        before = FrozenConv2d(layer.conv, layer.norm)(x)
        last = layer is chain[-1]
        range = None if last else best_range(_sample(before), layer.activation, layer.pool)
        correction = bias_correction(before, layer.quantized(input, range), levels)
        quantized = layer.quantized(input, range, correction)
        levels, input = quantized(levels), quantized.output
        x = FUNCTIONS[layer.activation](before)
        if layer.pool:
            x = nn.functional.max_pool2d(x, *layer.pool)
        layers[layer.name] = LayerLevels(range, tuple(float(f"{value:.6g}") for value in correction.tolist()))
        errors.append(LayerError(layer.name, range, _error(levels if last else input.dequantize(levels), x)))
    return x, levels


def _sample(values: Tensor) -> Tensor:
    """The middle parts of some of the images, spread over all of them."""
    if values.numel() > SAMPLE:
        height, width = values.shape[2:]
        values = values[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    images = max(1, SAMPLE // values[0].numel())
    return values[:: max(1, -(-len(values) // images))]


def _error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()
