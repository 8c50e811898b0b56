"""Two processes over gloo train as one process with the same batch does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracker.cli as cli
from tests.support import distributed_run
from tests.support.paths import ROOT
from tracker.distributed import World, join
from tracker.training.batches import BatchOrder
from tracker.training.log import read_metrics

SCRIPT = Path(distributed_run.__file__)

pytestmark = pytest.mark.usefixtures("one_thread")


def torchrun(*arguments: object) -> None:
    """Run a script, or -m and a module, in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


def both(task: str, folder: Path) -> list:
    torchrun(SCRIPT, task, folder)
    return [torch.load(folder / f"{task}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_batch_norm_over_both_processes(tmp_path):
    parts = both("batch_norm", tmp_path)
    whole = distributed_run.batch_norm(World())  # without torch.distributed it is nn.BatchNorm2d
    for key in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), whole[key], rtol=1e-12, atol=1e-12)
    for part in parts:
        for key in ("grads", "0.running_mean", "0.running_var", "0.num_batches_tracked"):
            torch.testing.assert_close(part[key], whole[key], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_losses_are_those_of_one_process(tmp_path):
    """In double precision, where rounding does not hide what differs."""
    alone, together, local = (tmp_path / name for name in ("alone", "together", "local"))
    for folder in (alone, together, local):
        folder.mkdir()
    expected = distributed_run.training(World(), alone)
    losses = both("training", together)
    assert losses[0] == losses[1] == pytest.approx(expected, rel=1e-6)
    assert losses[0] != pytest.approx(expected[:1] * 5, rel=1e-2)
    # Statistics of each process's own half are another network: the comparison sees it.
    assert both("local", local)[0] != pytest.approx(expected, rel=1e-3)

    records = [read_metrics(folder / "metrics.jsonl") for folder in (alone, together)]
    assert [(r["kind"], r["step"]) for r in records[0]] == [(r["kind"], r["step"]) for r in records[1]]
    scores = [[r["sequences"] for r in part if r["kind"] == "validation"] for part in records]
    assert (
        [list(s) for s in scores[0]]
        == [list(s) for s in scores[1]]
        == [["synthetic-0", "synthetic-1", "synthetic-2"]] * 2
    )
    assert sorted(p.name for p in (together / "checkpoints").iterdir()) == [
        f"step-{step:09d}.safetensors" for step in (2, 4, 5)
    ]


@pytest.mark.slow
def test_all_processes_stop_where_one_is_told_to(tmp_path):
    assert [len(losses) for losses in both("stop", tmp_path)] == [1, 1]
    assert (tmp_path / "checkpoints/step-000000001.safetensors").exists()


@pytest.mark.slow
def test_nan_of_one_process_stops_both_and_names_its_pairs(tmp_path):
    messages = both("nan", tmp_path)
    (batch,) = BatchOrder(4, 4, 0, range(1), World(1, 2))
    pairs = ", ".join(str(index) for index in sorted(index for _, index in batch))
    assert messages == [f"loss must be finite, got nan in step 1, epoch 0, pairs {pairs}"] * 2


@pytest.mark.slow
def test_command_under_torchrun(tmp_path):
    arguments = ["train", "--quiet"]
    for setting in (
        "steps=4", "batch_size=2", "model.width=0.125", "data.synthetic=8", "data.workers=1", "validation.every=0",
        "checkpoint_every=2", "lr=0.005",
    ):  # fmt: skip
        arguments += ["--set", setting]
    assert cli.main([*arguments, "--output", str(tmp_path / "alone")]) == 0
    torchrun("-m", "tracker", *arguments, "--output", tmp_path / "together")
    records = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("alone", "together")]
    losses = [[record["loss"] for record in part] for part in records]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[1] != losses[0]
    assert (tmp_path / "together/model.safetensors").exists()
    (tmp_path / "together/checkpoints/step-000000004.safetensors").unlink()
    torchrun("-m", "tracker", "train", "--quiet", "--resume", "--output", tmp_path / "together")
    again = [record["loss"] for record in read_metrics(tmp_path / "together/metrics.jsonl")]
    assert again == losses[1]


@pytest.mark.parametrize(
    ("environment", "match"),
    [
        ({"RANK": ""}, "RANK must be a whole number, got ''"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK must be 0 to WORLD_SIZE - 1, got 2 of 2"),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "WORLD_SIZE=2 must come with LOCAL_RANK, MASTER_ADDR, MASTER_PORT, which torchrun sets",
        ),
    ],
)
def test_half_an_environment_of_torchrun_is_one_line(capsys, monkeypatch, tmp_path, environment, match):
    """Not as many runs in one folder as there are processes."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "--output", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"tracker: error: {match}\n" and not (tmp_path / "run").exists()


def test_alone_nothing_is_sent():
    with join() as world:
        assert world == World(0, 1, 0) and world.is_first
        assert not torch.distributed.is_initialized()
        values = torch.ones(2)
        assert world.mean(values) is values and world.collect({1: 2}) == {1: 2}
        assert world.share([1, 2, 3]) == [1, 2, 3]
        world.wait()
