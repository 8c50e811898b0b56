"""Knowledge distillation: a student learns the features and outputs of a frozen teacher, without labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastops
from tracker.data.augment import Batch
from tracker.network.box_head import BoxOutput, boxes_of
from tracker.network.fused import FusedNetwork
from tracker.network.model import SiamFC

SURE = 0.1  # boxes are compared in the cells where the teacher's score is above this


class Targets(NamedTuple):
    """The results of the teacher for a batch.

    Attributes:
        exemplar: features before the attention, float32 [N, C, 6, 6].
        instance: the same of the instance crops, [N, C, 22, 22].
        output: score maps [N, 1, 17, 17], or the `BoxOutput` of a box head.
    """

    exemplar: Tensor
    instance: Tensor
    output: Tensor | BoxOutput


class Teacher:
    """A trained network, frozen and fused, from which a student learns.

    Args:
        model: the network; its parameters are copied.
        device: device to run on.
        dtype: dtype of its convolutions.

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


class Given(NamedTuple):
    """The results of a student for a batch.

    Attributes:
        exemplar, instance: features before the attention, as in `Targets`, with the teacher's number of channels.
        output: output of the network.
        score_map: [N, 1, 17, 17], for the comparison with the teacher's score map; None if the teacher has none.
    """

    exemplar: Tensor
    instance: Tensor
    output: Tensor | BoxOutput
    score_map: Tensor | None


class Student(nn.Module):
    """A network that learns from a teacher. It returns its features together with its output.

    If the teacher's features have a different number of channels, a 1x1 convolution maps the student's features to that
    number. It is needed in training only. If the student has a box head and its teacher has none, the student also has
    a score map: the correlation of its features after the attention, as in `SiamFC` with the score-map head.

    Args:
        model: the network that learns.
        teacher: the network that it learns from.
    """

    def __init__(self, model: SiamFC, teacher: Teacher) -> None:
        super().__init__()
        self.model, self._teacher_head = model, teacher.head
        own, dtype = model.backbone.conv5[0].out_channels, model.backbone.conv5[0].weight.dtype
        self.adapter = nn.Identity() if own == teacher.channels else nn.Conv2d(own, teacher.channels, 1, dtype=dtype)

    def forward(self, z: Tensor, x: Tensor) -> Given:
        """Run the network on crops [N, 3, 127, 127] and [N, 3, 255, 255]."""
        model = self.model
        exemplar, instance = model.backbone(z), model.backbone(x)
        template, search = model.attention(exemplar), model.attention(instance)
        output = model.score(template, search)
        if self._teacher_head == "box":
            score_map = output.score if isinstance(output, BoxOutput) else None
        else:
            score_map = model.score_map(template, search) if isinstance(output, BoxOutput) else output
        return Given(self.adapter(exemplar), self.adapter(instance), output, score_map)


def teacher_losses(given: Given, targets: Targets) -> dict[str, Tensor]:
    r"""The losses of a student relative to its teacher.

    $$L_{features} = \frac{1}{2} \sum_{b \in \{z, x\}} \frac{1}{N} \sum_n
        \frac{\|s_{bn} - t_{bn}\|^2}{\|t_{bn} - \bar t_{bn}\|^2}, \qquad
      L_{map} = \frac{\sum_n \|m_n - \mu_n\|^2}{\sum_n \|\mu_n - \bar \mu\|^2}$$

    The sums are over images n. s and t are the features of student and teacher, m and $\mu$ their score maps. A single
    map may be flat, so the maps of a batch share one variance. For two box heads, the scores are compared in the same
    way, and the boxes by the EIoU loss, weighted by the teacher's score.

    Args:
        given: the result of `Student`.
        targets: the result of `Teacher`.

    Returns:
        The scalars "features"; "map", if the student has a map to compare; and "teacher_box", if both have a box head.
        They are 0 if student and teacher are equal.
    """
    branches = ((given.exemplar, targets.exemplar), (given.instance, targets.instance))
    features = [_error(own.flatten(1), wanted.flatten(1)) for own, wanted in branches]
    losses = {"features": sum(features) / len(features)}
    teacher_is_box = isinstance(targets.output, BoxOutput)
    if given.score_map is not None:
        wanted = targets.output.score if teacher_is_box else targets.output
        losses["map"] = _error(given.score_map.flatten(), wanted.flatten())
    if isinstance(given.output, BoxOutput) and teacher_is_box:
        ops = fastops if fastops.load_error is None else fastops.reference
        sure = targets.output.score[:, 0].sigmoid()
        weight = sure * (sure > SURE)  # [N, H, W]
        boxes = (boxes_of(out.ltrb.float()) for out in (given.output, targets.output))
        distance = ops.eiou_loss(*boxes, reduction="none")
        losses["teacher_box"] = (weight * distance).sum() / weight.sum().clamp(min=1e-2)
    return losses


def _error(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error divided by the variance of the targets along the last dimension, averaged over the others."""
    given, wanted = given.float(), wanted.float()
    error = (given - wanted).square().mean(-1)
    return (error / wanted.var(-1, correction=0).clamp(min=1e-12)).mean()
