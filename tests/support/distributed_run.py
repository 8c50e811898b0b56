"""What each of torchrun's processes does in test_distributed.py: python distributed_run.py TASK FOLDER."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tracker import SiamFC
from tracker.data.pairs import PairDataset
from tracker.distributed import World, join
from tracker.training.config import DataConfig, TrainConfig, ValidationConfig
from tracker.training.log import TrainLog
from tracker.training.loop import scale_responses, train
from tracker.training.sync_batch_norm import synchronised
from tracker.training.validation import validation_sequences

CONFIG = TrainConfig(
    steps=5, batch_size=4, lr=5e-3, checkpoint_every=2, data=DataConfig(workers=0), validation=ValidationConfig(every=4)
)


def batch_norm(world: World) -> dict[str, Tensor]:
    """One step of a batch norm in double precision, by this process on its part of the batch."""
    torch.manual_seed(0)
    x, weight = torch.randn(8, 3, 5, 4, dtype=torch.float64) * 2 + 7, torch.randn(8, 3, 5, 4, dtype=torch.float64)
    norm = nn.Sequential(nn.BatchNorm2d(3, momentum=0.05)).double()
    nn.init.normal_(norm[0].weight)
    rows = slice(world.rank * (8 // world.size), (world.rank + 1) * (8 // world.size))
    part = x[rows].requires_grad_()
    with synchronised(norm):
        y = norm(part)
    (y.square() * weight[rows]).sum().backward()
    grads = torch.stack([norm[0].weight.grad, norm[0].bias.grad])
    result = {"y": y.detach(), "x": part.grad, "grads": world.mean(grads) * world.size, **norm.state_dict()}
    return {key: value.clone() for key, value in result.items()}


def training(world: World, folder: Path, sync: bool = True, steps: int = CONFIG.steps) -> list[float]:
    torch.manual_seed(0)
    model = SiamFC("mish", "se", width=0.125)
    pairs = PairDataset.synthetic(seed=0, pairs=10)
    scale_responses(model, pairs=pairs)
    model = model.double()
    if world.rank:  # the weights are those of the first process
        nn.init.zeros_(model.backbone.conv1[0].weight)
    config = replace(CONFIG, sync_batch_norm=sync)
    videos = validation_sequences(ValidationConfig(synthetic=3, frames=4))
    log = TrainLog(folder, steps=config.steps, quiet=True) if world.is_first else None
    model.register_forward_pre_hook(lambda module, inputs: tuple(t.double() for t in inputs))
    stop = (lambda: True) if steps < config.steps and not world.is_first else None
    return train(model, config, pairs=pairs, validation=videos, world=world, folder=folder, log=log, stop=stop)


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, folder = sys.argv[1], Path(sys.argv[2])
    with join() as world:
        assert world.size == 2
        if task == "batch_norm":
            result = batch_norm(world)
        elif task == "stop":
            result = training(world, folder, steps=1)
        elif task == "nan":
            try:
                model = SiamFC(width=0.125)
                if world.rank == 1:
                    model.register_forward_hook(lambda module, inputs, output: output * float("nan"))
                result = train(model, CONFIG, pairs=PairDataset.synthetic(seed=0, pairs=4), world=world)
            except FloatingPointError as error:
                result = str(error)
        else:
            result = training(world, folder, sync=task == "training")
        torch.save(result, folder / f"{task}-{world.rank}.pt")
