"""Knowledge distillation: a frozen network whose features and outputs are targets that need no labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastops
from tracker.box_head import BoxOutput, boxes_of
from tracker.data.augment import Batch
from tracker.model import SiamFC
from tracker.pipeline import FusedNetwork

SURE = 0.1  # the student's boxes follow the teacher's in the cells whose score the teacher puts above this


class Targets(NamedTuple):
    """What the teacher gives for a batch.

    Attributes:
        exemplar: features before the attention, float32 [N, C, 6, 6].
        instance: the same of the instance crops, [N, C, 22, 22].
        output: score maps [N, 1, 17, 17], or the `BoxOutput` of a box head.
    """

    exemplar: Tensor
    instance: Tensor
    output: Tensor | BoxOutput


class Teacher:
    """A trained network, frozen and fused, that shows a student what to give.

    Args:
        model: the network; its parameters are copied.
        device: where to run.
        dtype: of its convolutions.

    Example:
        >>> teacher = Teacher(SiamFC(width=0.25), torch.device("cpu"), torch.float32)
        >>> teacher.channels
        64
    """

    def __init__(self, model: SiamFC, device: torch.device, dtype: torch.dtype) -> None:
        self._network = FusedNetwork(model, device=device, dtype=dtype)
        self.channels = model.backbone.conv5[0].out_channels
        self.head = model.head

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Targets:
        network = self._network
        with torch.autocast(batch.exemplar.device.type, enabled=False):
            exemplar, instance = (network.embed(crops.to(network.dtype)) for crops in (batch.exemplar, batch.instance))
            maps = network.scores(network.attend(exemplar), network.attend(instance))
        return Targets(exemplar, instance, BoxOutput(maps[:, :1], maps[:, 1:]) if self.head == "box" else maps)


class Student(nn.Module):
    """A network as it learns from a teacher: gives its features beside its output.

    Where the teacher's features have another number of channels, a 1x1 convolution that is only needed in training
    takes the student's to it.

    Args:
        model: the network that learns.
        channels: of the teacher's features.
    """

    def __init__(self, model: SiamFC, channels: int) -> None:
        super().__init__()
        self.model = model
        own = model.backbone.conv5[0].out_channels
        self.adapter = nn.Identity() if own == channels else nn.Conv2d(own, channels, 1)

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor | BoxOutput, Tensor, Tensor]:
        """Output of the model, and features before the attention [N, C, 6, 6] and [N, C, 22, 22] of both crops."""
        exemplar, instance = self.model.backbone(z), self.model.backbone(x)
        output = self.model.score(self.model.attention(exemplar), self.model.attention(instance))
        return output, self.adapter(exemplar), self.adapter(instance)


def teacher_losses(
    output: Tensor | BoxOutput, exemplar: Tensor, instance: Tensor, targets: Targets
) -> dict[str, Tensor]:
    r"""How far the student is from the teacher.

    $$L_{features} = \frac{1}{2} \sum_{b \in \{z, x\}} \frac{1}{N} \sum_n
        \frac{\|s_{bn} - t_{bn}\|^2}{\|t_{bn} - \bar t_{bn}\|^2}, \qquad
      L_{map} = \frac{\sum_n \|m_n - \mu_n\|^2}{\sum_n \|\mu_n - \bar \mu\|^2}$$

    over images n, with features s and t of student and teacher and their score maps m and $\mu$. A single map may be
    flat, so that maps share the variance of their batch. Two box heads are
    compared by their scores as above and by the EIoU loss between their boxes, weighted by the teacher's score.

    Args:
        output, exemplar, instance: what `Student` gives.
        targets: what `Teacher` gives.

    Returns:
        "features", "map" where both have the same head, and "teacher_box" for box heads: scalars, 0 where equal.
    """
    branches = ((exemplar, targets.exemplar), (instance, targets.instance))
    features = [_error(given.flatten(1), wanted.flatten(1)) for given, wanted in branches]
    losses = {"features": sum(features) / len(features)}
    if isinstance(output, BoxOutput) and isinstance(targets.output, BoxOutput):
        losses["map"] = _error(output.score.flatten(), targets.output.score.flatten())
        ops = fastops if fastops.load_error is None else fastops.reference
        sure = targets.output.score[:, 0].sigmoid()
        weight = sure * (sure > SURE)  # [N, H, W]
        boxes = (boxes_of(out.ltrb.float()) for out in (output, targets.output))
        distance = ops.eiou_loss(*boxes, reduction="none")
        losses["teacher_box"] = (weight * distance).sum() / weight.sum().clamp(min=1e-2)
    elif isinstance(output, Tensor) and isinstance(targets.output, Tensor):
        losses["map"] = _error(output.flatten(), targets.output.flatten())
    return losses


def _error(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the variance of what is wanted, along the last dimension; the mean over the others."""
    given, wanted = given.float(), wanted.float()
    error = (given - wanted).square().mean(-1)
    return (error / wanted.var(-1, correction=0).clamp(min=1e-12)).mean()
