"""`tracker train`: makes a training run in a folder, from its settings to its weights."""

from __future__ import annotations

import dataclasses
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracker.commands.checks import CommandError, Interrupted, check_device, input_errors, make_folder
from tracker.commands.options import Device, Json, Quiet
from tracker.commands.output import print_json, print_note

if TYPE_CHECKING:
    import torch

    from tracker.distributed import World
    from tracker.network.model import SiamFC
    from tracker.training.config import ModelConfig, TrainConfig
    from tracker.training.teacher import Teacher

OVERFIT_STEPS = 200
LOW_LOSS = 0.1  # a memorised batch is below this; the loss starts near ln 2 = .69


def train(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; missing settings have their defaults.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replaces a setting. Repeatable."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; created if missing.")] = Path(
        "runs/train"
    ),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --output, or start one if there is none."),
    ] = False,
    overfit: Annotated[
        bool, typer.Option("--overfit", help="Memorise one batch, as a test; fails if the loss stays high.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on synthetic videos, archives of `tracker prepare` or data set folders.

    \b
    The folder of the run:
      train.toml              all settings
      metrics.jsonl           a line per step and per validation
      tensorboard/            the same for TensorBoard, if it is installed: pip install tensorboard
      checkpoints/            the newest states, every 500 steps and every 10 minutes; --resume continues from the
                              last one, bit for bit on a CPU
      best.safetensors        the weights of the best validation
      model.safetensors       the weights at the end

    Ctrl-C ends the run after the current step and writes a checkpoint. torchrun starts several processes, on one
    machine or many; they divide the batch, and all must see the folder of the run.

    \b
    Examples:
      tracker train
      tracker train --set steps=2000 --set model.width=0.25 --output runs/small
      tracker train --config train.toml --set 'data.sequences=["got10k:/data/got10k:train"]' --set precision=bfloat16
      tracker train --output runs/small --resume
      torchrun --nproc-per-node 8 -m tracker train --config train.toml --set batch_size=64
    """
    # Imported here so that other commands start quickly.
    import torch

    from tracker.distributed import join
    from tracker.training.config import load_config

    check_device(device)
    saved = output / "train.toml"
    resumed = resume and saved.exists()
    with input_errors():
        if resumed and (config or settings or overfit):
            raise CommandError(
                f"--resume must come without --config, --set and --overfit: {str(saved)!r} has the run's settings"
            )
        if not resumed and saved.exists():
            raise CommandError(f"--output must be a new folder, got {str(output)!r} with a run (--resume continues)")
        chosen = load_config(saved if resumed else config, settings or ())
        if overfit:
            chosen = dataclasses.replace(chosen, overfit=True, steps=chosen.steps or OVERFIT_STEPS)
    if resume and not resumed and not quiet:
        print(f"no run in {output}: starting one", file=sys.stderr)
    with ExitStack() as stack:
        with input_errors():
            world = stack.enter_context(join())
        where = torch.device(device) if device else world.device()
        _run(chosen, output, where, world, quiet=quiet, as_json=as_json)


def _run(config: TrainConfig, folder: Path, device: torch.device, world: World, *, quiet: bool, as_json: bool) -> None:
    """Train, or continue training, in `folder`, and write the weights there."""
    from rich.console import Console

    from tracker.data.augment import check_room
    from tracker.io.files import write_whole
    from tracker.network.checkpoint import save_state
    from tracker.training.batches import check_batch, open_pairs
    from tracker.training.config import to_toml
    from tracker.training.log import TrainLog
    from tracker.training.loop import scale_responses
    from tracker.training.loop import train as train_model
    from tracker.training.state import Checkpoints
    from tracker.training.validation import validation_sequences

    checkpoints = Checkpoints(folder / "checkpoints")
    done = checkpoints.newest_step()
    with input_errors():
        validation = validation_sequences(config.validation) if config.validation.every and not config.overfit else []
        pairs = open_pairs(config, held=[sequence.name for sequence in validation])
        check_batch(len(pairs), config.batch_size, world)
        check_room(config.augment, config.data.crop_size)
        model = _make_model(config.model, config.seed).to(device)
        teacher = _make_teacher(config, device)
        steps = config.total_steps(len(pairs))
        world.wait()  # until all have checked for a run in the folder
        if world.is_first:
            make_folder(folder, "--output")
            write_whole(folder / "train.toml", to_toml(config).encode())
    fresh = done == 0 and not config.model.weights
    if fresh and config.model.head == "xcorr" and config.model.response_deviation:
        with input_errors():
            scale_responses(model, config.model.response_deviation, pairs=pairs, batch_size=config.batch_size)
    console = Console(quiet=quiet or as_json or not world.is_first)
    with ExitStack() as stack:
        log = None
        if world.is_first:
            if not (done or quiet) and (folder / "metrics.jsonl").exists():
                print_note(f"{folder} has no checkpoint: the run starts anew, its metrics are kept as metrics-N.jsonl")
            log = stack.enter_context(TrainLog(folder, steps=steps, done=done, quiet=quiet))
            log.say(f"{folder}: {steps} steps of {config.batch_size} pairs, {len(pairs)} pairs per epoch, on {device}")
        signals = stack.enter_context(Signals())
        stack.enter_context(input_errors())  # such as a checkpoint of another network or a picture that cannot be read
        losses = train_model(
            model, config, pairs=pairs, validation=validation, teacher=teacher, world=world, folder=folder, log=log,
            stop=signals.caught,
        )  # fmt: skip
    if done + len(losses) < steps:
        console.print(f"stopped after step {done + len(losses)}; --resume continues", soft_wrap=True)
        if as_json and world.is_first:
            print_json(_summary(folder, steps))
        raise Interrupted
    if config.overfit and losses and not losses[-1] < LOW_LOSS:
        raise FloatingPointError(f"--overfit: loss must get below {LOW_LOSS}, got {losses[-1]:.3f} after {steps} steps")
    if world.is_first:
        save_state(model, folder / "model.safetensors")
        if as_json:
            print_json(_summary(folder, steps))
    console.print(f"wrote {folder / 'model.safetensors'}", soft_wrap=True, highlight=False, markup=False)


def _summary(folder: Path, steps: int) -> dict[str, Any]:
    """Progress and files of the run in `folder`; None for a file that does not exist."""
    from tracker.training.log import read_metrics

    records = read_metrics(folder / "metrics.jsonl")
    last = {record["kind"]: record for record in records}
    weights = {name: folder / f"{name}.safetensors" for name in ("best", "model")}
    return {
        "output": folder,
        "step": last["train"]["step"],
        "steps": steps,
        "loss": last["train"]["loss"],
        "best_auc": last["validation"]["best_auc"] if "validation" in last else None,
        **{name: path if path.exists() else None for name, path in weights.items()},
    }


def _make_model(config: ModelConfig, seed: int) -> SiamFC:
    import torch

    from tracker.network.checkpoint import load_state
    from tracker.network.model import SiamFC
    from tracker.network.pretrained import find_weights
    from tracker.training.loop import remove_se_bias

    torch.manual_seed(seed)
    model = SiamFC(config.activation, config.attention, config.head, config.width, config.se_reduction)
    if config.weights:
        try:
            with input_errors("model.weights: "):
                state = load_state(find_weights(config.weights))
            # A head or an attention without weights in the checkpoint keeps its initial ones.
            absent = {key for key in model.state_dict() if key not in state}
            parts = {part for part in ("attention.", "box_head.") if not any(key.startswith(part) for key in state)}
            fresh = {key for key in absent if key.startswith(tuple(parts))}
            own = model.state_dict()
            model.load_state_dict(state | {key: own[key] for key in fresh})
        except RuntimeError as error:
            raise ValueError(f"model.weights must fit the model's settings, got {config.weights}: {error}") from error
    if not config.se_bias:
        remove_se_bias(model)
    return model


def _make_teacher(config: TrainConfig, device: torch.device) -> Teacher | None:
    import torch

    from tracker.network.checkpoint import load_model
    from tracker.network.pretrained import find_weights
    from tracker.training.teacher import Teacher

    if not config.teacher:
        return None
    with input_errors("teacher: "):
        return Teacher(load_model(find_weights(config.teacher)), device, getattr(torch, config.precision))


class Signals:
    """While the block runs, Ctrl-C, SIGTERM and SIGHUP end the training after the current step.

    A second Ctrl-C ends it at once. A signal that is ignored, for example by nohup, stays ignored.
    """

    def __init__(self) -> None:
        self._caught = False

    def caught(self) -> bool:
        return self._caught

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught = True
        signal.signal(signal.SIGINT, self._before.get(signal.SIGINT, signal.SIG_IGN))

    def __enter__(self) -> Signals:
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
