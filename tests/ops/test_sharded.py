"""Gradient centralization of parameters that FSDP spreads over processes: two of them against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import fastops
import fastops.optim

STEPS = 3
#: 5 and 3 output channels on two processes: parts of different sizes.
KINDS = {
    "sgd": lambda params: fastops.optim.SGDGC(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda params: fastops.optim.AdamWGC(params, lr=1e-2, amsgrad=True),
    "function": lambda params: torch.optim.SGD(params, lr=0.1),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.GroupNorm(1, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)).double()


def learn(model: nn.Module, kind: str, x: torch.Tensor) -> None:
    params = list(model.parameters())
    optimizer = KINDS[kind](params)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if kind == "function":
            fastops.centralize_gradients_(params)
        optimizer.step()


def one_of_two(rank: int, folder: str, case: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    x = torch.arange(128, dtype=torch.float64).reshape(4, 2, 4, 4).sin()
    model = network()
    if case == "flat":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=False)
        message = ""
        try:
            learn(model, "sgd", x)
        except RuntimeError as error:
            message = str(error)
        Path(folder, f"{rank}.txt").write_text(message)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        learn(model, case, x[2 * rank : 2 * rank + 2])
        whole = {name: parameter.full_tensor() for name, parameter in model.named_parameters()}
        if rank == 0:
            torch.save(whole, Path(folder, "whole.pt"))
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("case", KINDS)
def test_two_processes_of_fsdp2_learn_what_one_does(case, tmp_path):
    mp.spawn(one_of_two, (str(tmp_path), case), nprocs=2)
    model, start = network(), network().state_dict()
    learn(model, case, torch.arange(128, dtype=torch.float64).reshape(4, 2, 4, 4).sin())
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(whole[name], parameter.detach(), rtol=1e-9, atol=1e-12)
        assert not torch.equal(whole[name], start[name])


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_flat_parameters_of_fsdp1_are_refused(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path), "flat"), nprocs=2)
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith(
            "SGDGC: params must keep their shapes to be centralized, got a flat parameter of FSDP1"
        )


@pytest.mark.parametrize("optimizer", [fastops.optim.SGDGC, fastops.optim.AdamWGC])
def test_options_of_torch_that_change_nothing_here(optimizer):
    model = nn.Linear(3, 2)
    optimizer(model.parameters(), lr=0.1, foreach=True, fused=False, differentiable=False)
    with pytest.raises(ValueError, match=f"{optimizer.__name__}: differentiable must be False, got True"):
        optimizer(model.parameters(), lr=0.1, differentiable=True)
