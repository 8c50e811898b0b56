"""Checkpoints: runs killed at any time continue with the same losses to the last bit; no partial file is ever read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tracker.cli as cli
from fastops.optim import SGDGC, AdamWGC
from tests.support.paths import ROOT
from tracker import SiamFC
from tracker.network.checkpoint import load_model, load_state
from tracker.training.log import read_metrics
from tracker.training.state import Checkpoints, TrainState

RUN = ROOT / "tests/support/train_run.py"
STEPS = 9
SETTINGS = [
    f"steps={STEPS}", "batch_size=2", "lr=0.05", "checkpoint_every=2", "keep=2", "model.width=0.125",
    "data.synthetic=7", "data.workers=1", "validation.every=4", "validation.synthetic=1", "validation.frames=4",
]  # fmt: skip
ARGUMENTS = ["train", "--quiet", *(word for setting in SETTINGS for word in ("--set", setting))]

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(folder: Path) -> list[tuple]:
    """What must not differ between runs: everything except the times."""
    records = read_metrics(folder / "metrics.jsonl")
    return [tuple(v for k, v in record.items() if k not in ("seconds", "data_wait")) for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, one_thread) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main([*ARGUMENTS, "--output", str(folder)]) == 0
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    assert [str(line) for line in losses(folder)] == [str(line) for line in losses(whole)]
    for name in ("model.safetensors", "best.safetensors"):
        state, expected = load_state(folder / name), load_state(whole / name)
        assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step-000000008.safetensors",
        "step-000000009.safetensors",
    ]


def killed(folder: Path, place: str, nth: int) -> None:
    arguments = [sys.executable, str(RUN), place, str(nth), *ARGUMENTS, "--output", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(arguments, env=environment, timeout=300).returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    # Files written: train.toml, step 2, best, step 4; each flushes its folder too, so there are two fsyncs of each.
    ("place", "nth", "newest", "left"),
    [
        ("step", 6, "step-000000004.safetensors", False),
        ("write", 7, "step-000000002.safetensors", True),
        ("rename", 4, "step-000000002.safetensors", True),
        ("rename", 3, "step-000000002.safetensors", False),
    ],
)
def test_a_killed_run_goes_on_to_the_bit(whole, tmp_path, place, nth, newest, left):
    killed(tmp_path, place, nth)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest().name == newest
    temporary = list(checkpoints.folder.glob(".step-*"))
    assert bool(temporary) == left
    if place == "write":
        assert 0 < temporary[0].stat().st_size < checkpoints.newest().stat().st_size * 0.6
    assert cli.main(["train", "--quiet", "--resume", "--output", str(tmp_path)]) == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again_from_outside(whole, tmp_path):
    arguments = [sys.executable, str(RUN), "nowhere", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    more = [*ARGUMENTS, "--output", str(tmp_path)]
    for lines in (1, 5):
        process = subprocess.Popen([*arguments, *more], env=environment)
        metrics = tmp_path / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with metrics.open("a") as file:
            file.write('{"kind": "train", "st')  # as a line would be left that was cut in its middle
        more = ["train", "--quiet", "--resume", "--output", str(tmp_path)]
    assert cli.main(more) == 0
    assert_same_run(tmp_path, whole)


def test_final_and_best_weights_load(whole):
    for name in ("model", "best"):
        model = load_model(whole / f"{name}.safetensors")
        assert (model.activation, model.attention_kind, model.width) == ("mish", "se", 0.125)


def test_a_finished_run_has_nothing_to_go_on_with(whole, capsys):
    before = (whole / "metrics.jsonl").read_bytes()
    assert cli.main(["train", "--resume", "--output", str(whole)]) == 0
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output must be a new folder, got '.*' with a run (--resume continues)"),
        (["--resume", "--set", "lr=1"], "--resume must come without --config, --set and --overfit"),
        (["--resume", "--overfit"], "--resume must come without --config, --set and --overfit"),
    ],
)
def test_a_run_is_not_mixed_with_another(whole, capsys, arguments, message):
    assert cli.main(["train", *arguments, "--output", str(whole)]) == 2
    assert re.search(re.escape(message).replace("\\.\\*", ".*"), capsys.readouterr().err)


# ---- the state itself ------------------------------------------------------------------------------------------


def make_state(optimizer: str = "sgd_gc", scaled: bool = False, seed: int = 0) -> TrainState:
    torch.manual_seed(seed)
    model = SiamFC("mish", "se", width=0.125).to(memory_format=torch.channels_last)
    make = {
        "sgd_gc": lambda p: SGDGC(p, 0.1, momentum=0.9),
        "adamw_gc": lambda p: AdamWGC(p, 0.1, amsgrad=True),
        "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, 0.1),
    }[optimizer]
    return TrainState(model, make(model.parameters()), torch.amp.GradScaler("cpu", enabled=scaled))


def step(state: TrainState) -> None:
    for p in state.model.parameters():
        p.grad = torch.randn_like(p)
    state.optimizer.step()
    state.step += 1


@pytest.mark.parametrize("optimizer", ["sgd_gc", "adamw_gc", "sgd", "adamw"])
def test_a_state_comes_back_whole(tmp_path, optimizer):
    state = make_state(optimizer, scaled=True)
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 128.0, "_growth_tracker": 5})
    step(state)
    state.progress = {"pairs": 5, "best_auc": 0.1 + 0.2}
    path = Checkpoints(tmp_path).save(state)
    other = make_state(optimizer, scaled=True, seed=1)
    other.load(path)
    assert (other.step, other.progress) == (1, state.progress)
    assert other.scaler.state_dict() == state.scaler.state_dict()
    step(state)
    torch.manual_seed(99)
    other.load(path)  # the random numbers too: the next gradients are drawn from them
    step(other)
    for a, b in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in state.optimizer.state[a].items():
            assert torch.equal(value, other.optimizer.state[b][key])
            assert value.stride() == other.optimizer.state[b][key].stride()


def test_only_the_last_checkpoints_stay(tmp_path):
    state, checkpoints = make_state(), Checkpoints(tmp_path / "new", keep=2)
    assert checkpoints.newest() is None and checkpoints.newest_step() == 0
    for state.step in (8, 9, 10):
        checkpoints.save(state)
    (checkpoints.folder / "step-000000099.safetensors.part").touch()
    (checkpoints.folder / ".step-000000100.safetensors.1").touch()
    assert [p.name for p in checkpoints.paths()] == ["step-000000009.safetensors", "step-000000010.safetensors"]
    assert checkpoints.newest_step() == 10
    checkpoints.save(state)
    assert not list(checkpoints.folder.glob(".*"))


def test_a_damaged_checkpoint_is_named(tmp_path):
    state = make_state()
    path = Checkpoints(tmp_path).save(state)
    data = path.read_bytes()
    for part in (data[: len(data) // 2], b"", b"\0" * len(data)):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} must be a whole checkpoint"):
            state.load(path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = Checkpoints(tmp_path).save(make_state())
    other = make_state()
    other.model.attention = torch.nn.Identity()
    with pytest.raises(ValueError, match="must be of this network and optimizer, got .*attention.w1"):
        other.load(path)


@pytest.mark.parametrize(("minutes", "steps"), [(0.0, [9]), (1e-9, [7, 8, 9]), (600.0, [9])])
def test_checkpoints_by_time(tmp_path, minutes, steps):
    more = ("--set", "checkpoint_every=500", "--set", f"checkpoint_minutes={minutes}", "--set", "keep=3")
    assert cli.main([*ARGUMENTS, *more, "--set", "validation.every=0", "--output", str(tmp_path)]) == 0
    names = [path.name for path in Checkpoints(tmp_path / "checkpoints").paths()]
    assert names == [f"step-{step:09d}.safetensors" for step in steps]


def test_a_run_without_a_checkpoint_starts_anew_and_says_so(tmp_path, capsys):
    """As after a kill before the first checkpoint: what it had written is kept."""
    more = ("--set", "validation.every=0", "--output", str(tmp_path))
    loud = [word for word in ARGUMENTS if word != "--quiet"]
    assert cli.main([*ARGUMENTS, *more]) == 0
    before = (tmp_path / "metrics.jsonl").read_text()
    for number in (1, 2):
        for path in (tmp_path / "checkpoints").iterdir():
            path.unlink()
        capsys.readouterr()
        assert cli.main([loud[0], "--resume", "--output", str(tmp_path)]) == 0
        message = "has no checkpoint: the run starts anew, its metrics are kept as metrics-N.jsonl"
        assert message in " ".join(capsys.readouterr().err.split())
        assert (tmp_path / "metrics-1.jsonl").read_text() == before
        assert (tmp_path / f"metrics-{number}.jsonl").is_file() and len(read_metrics(tmp_path / "metrics.jsonl")) == 9
