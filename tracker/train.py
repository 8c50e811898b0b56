"""The training loop of SiamFC: pairs in, balanced logistic loss, SGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import fastops
from tracker.data.synthetic import pair
from tracker.model import SiamFC

PairFunction = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train`.

    Args:
        steps: number of batches.
        batch_size: pairs per batch.
        lr, final_lr: learning rate of the first and last step; it falls exponentially from one to the other.
        momentum, weight_decay: of SGD.
        seed: decides the pairs; with the model's start it decides the result.
    """

    steps: int = 300
    batch_size: int = 8
    lr: float = 1e-2
    final_lr: float = 1e-5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "lr", "final_lr"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"TrainConfig: {name} must be positive, got {value!r}")


def train(
    model: SiamFC,
    config: TrainConfig | None = None,
    *,
    pairs: PairFunction = pair,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train `model` in place, on the device it is on, and leave it in eval mode.

    Args:
        model: takes RGB 0-255 crops; normalising them is the work of its first BatchNorm.
        config: defaults to `TrainConfig()`.
        pairs: draws (exemplar [127, 127, 3], instance [255, 255, 3]), uint8 RGB, centred on the target, from a
            generator; the synthetic videos by default.
        progress: called after each step with the number of steps done and the loss.

    Returns:
        the loss of every step.

    Raises:
        FloatingPointError: when a loss is not finite; the message names the batch. The step is not applied.

    Source: paper 000 section 4.1 (SGD, exponential learning rate), eq. 2-5.

    Example:
        >>> net = SiamFC(width=0.25, ops="reference")
        >>> len(train(net, TrainConfig(steps=2, batch_size=2)))
        2
    """
    config = config or TrainConfig()
    device = next(model.parameters()).device
    # Labels and weights are made in the kernel; where the compiled library is missing, in plain PyTorch.
    loss_of = (fastops if fastops.load_error is None else fastops.reference).balanced_logistic_loss
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )
    decay = (config.final_lr / config.lr) ** (1 / max(1, config.steps - 1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    rng = np.random.default_rng(config.seed)
    losses: list[float] = []
    model.train()
    for step in range(1, config.steps + 1):
        z, x = _batch(pairs, rng, config.batch_size)
        loss = loss_of(model(z.to(device), x.to(device)))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"train: loss must be finite, got {losses[-1]} in batch {step} of {config.steps}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, losses[-1])
    model.eval()
    return losses


@torch.no_grad()
def scale_responses(
    model: SiamFC, deviation: float = 1.0, *, pairs: PairFunction = pair, batch_size: int = 8, seed: int = 0
) -> None:
    """Scale the last convolution of a fresh network in place so that its responses have standard deviation `deviation`.

    With out_scale = .001 a fresh network of width .25 starts with responses of deviation .05: the logistic loss is flat
    there. Measured on synthetic pairs it fell from .69 to .64 in 200 steps; started at 1, to .49 in 60.

    Raises:
        ValueError: when the responses are constant or not finite, so that no factor scales them.
    """
    rng = np.random.default_rng(seed)
    device = next(model.parameters()).device
    z, x = _batch(pairs, rng, batch_size)
    training = model.training
    model.train()  # BatchNorm must use the batch: a fresh network's running statistics say nothing yet
    measured = float(model(z.to(device), x.to(device)).std())
    model.train(training)
    if not 0 < measured < math.inf:
        raise ValueError(f"scale_responses: model must give finite responses that vary, got deviation {measured}")
    last = model.backbone.conv5[0]
    factor = math.sqrt(deviation / measured)  # a response is a product of two features
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def _batch(pairs: PairFunction, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Exemplars [N, 3, 127, 127] and instances [N, 3, 255, 255], float32 0 to 255, channels_last."""
    crops = zip(*(pairs(rng) for _ in range(size)), strict=True)
    z, x = (torch.from_numpy(np.stack(crop)).permute(0, 3, 1, 2).float() for crop in crops)
    return z, x
