"""Validation during training: the mean success AUC on sequences that are held out from training."""

from __future__ import annotations

import numpy as np
import torch

from tracker.data.datasets import open_place
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.distributed import World
from tracker.eval.metrics import success_auc
from tracker.network.model import SiamFC
from tracker.tracker import Tracker
from tracker.training.config import ValidationConfig

#: The first seed of the synthetic validation videos. Training draws seeds from [0, 2^63), so it never meets them.
FIRST_SEED = 1_000_000
SIZE = (320, 240)


def validation_sequences(config: ValidationConfig) -> list[Sequence]:
    """The sequences that the configuration names, with at most `frames` frames of each.

    Raises:
        ValueError, OSError: if a source cannot be read or has another layout, or if a name does not exist.
    """
    sequences = [
        Sequence.from_video(f"synthetic-{i}", SyntheticVideo(FIRST_SEED + i, config.frames, SIZE, occlusions=1))
        for i in range(config.synthetic)
    ]
    real = [sequence for place in config.sequences for sequence in open_place(place)]
    if missing := set(config.only) - {sequence.name for sequence in real}:
        raise ValueError(f"validation.only must name sequences, got {', '.join(sorted(missing))}")
    for sequence in real:
        if not config.only or sequence.name in config.only:
            n = config.frames
            sequences.append(Sequence(sequence.name, sequence.frames, sequence.boxes[:n], sequence.absent[:n]))
    return sequences


def validate(
    model: SiamFC,
    sequences: list[Sequence],
    world: World | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """The success AUC of every sequence, tracked from its first box.

    The processes divide the sequences among them, and each gets all scores. Frames without the target do not count. The
    model keeps its mode and its modules.

    Args:
        model: the network.
        sequences: the sequences to track.
        world: the processes; None means this process only.
        dtype: dtype to run in, as in `tracker.Tracker`; None means the model's dtype.
    """
    world = world or World()
    first = next(model.parameters())
    # A copy of the network: in training the model's modules may be fused or synchronised ones.
    network = SiamFC(**model.settings(), out_scale=model.out_scale, ops=model.ops).to(first.device).eval()
    network.load_state_dict(model.state_dict())
    network.int8 = model.int8
    tracker = Tracker(network, dtype=dtype, backend="fastops" if model.ops == "fastops" else "eager")
    numbered = list(enumerate(sequences))
    mine = {number: _auc(tracker, sequence) for number, sequence in world.share(numbered)}
    scores = world.collect(mine)
    return {sequence.name: scores[number] for number, sequence in numbered}


@torch.inference_mode()
def _auc(tracker: Tracker, sequence: Sequence) -> float:
    start = int(np.argmin(sequence.absent))
    tracker.init(sequence.image(start), sequence.boxes[start])
    boxes = [sequence.boxes[start]] + [
        tracker.update(sequence.image(index)).box for index in range(start + 1, len(sequence))
    ]
    seen = ~sequence.absent[start:]
    return success_auc(np.array(boxes)[seen], sequence.boxes[start:][seen])
