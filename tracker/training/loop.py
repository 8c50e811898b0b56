"""The training loop of SiamFC: load pairs, compute their loss and its gradient, make a step of the optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import fastops
import fastops.nn
import fastops.optim
from tracker.data.augment import AugmentConfig, augment, collate
from tracker.data.pairs import PairDataset
from tracker.data.sequence import Sequence
from tracker.distributed import World
from tracker.network.checkpoint import save_state
from tracker.network.model import SiamFC
from tracker.training.batches import BatchOrder, Loaded, make_loader, seed_of
from tracker.training.config import TrainConfig
from tracker.training.log import TrainLog
from tracker.training.losses import losses_of
from tracker.training.state import Checkpoints, TrainState
from tracker.training.sync_batch_norm import synchronised
from tracker.training.teacher import Student, Teacher, teacher_losses
from tracker.training.validation import validate


def train(
    model: SiamFC,
    config: TrainConfig | None = None,
    *,
    pairs: PairDataset | None = None,
    validation: list[Sequence] | None = None,
    teacher: Teacher | None = None,
    world: World | None = None,
    folder: Path | None = None,
    log: TrainLog | None = None,
    progress: Callable[[int, float], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[float]:
    """Train `model` in place, on its device, and leave it in eval mode.

    Args:
        model: the network. It takes RGB crops from 0 to 255, which its first BatchNorm normalises. It computes in the
            dtype of its parameters: float32, float64 or bfloat16.
        config: settings; the default is `TrainConfig()`.
        pairs: training pairs; the default is synthetic videos.
        validation: sequences on which the tracker is scored every `config.validation.every` steps.
        teacher: a network to imitate. The configuration has the weights of its losses.
        world: the processes that train together.
        folder: folder of the run, for its checkpoints and best weights. The run continues from its newest checkpoint.
        log: gets every step and validation.
        progress: called after each step with the number of steps done and the loss.
        stop: called after each step; True ends the run with a checkpoint.

    Returns:
        The loss of every step of this call, the mean over the processes.

    Raises:
        FloatingPointError: if a loss or a gradient is not finite. The message names the step, the epoch and the pairs.
            The step is not applied.
        ValueError: if pairs, batch and processes do not fit each other, a checkpoint does not fit the run, or the dtype
            of the network does not fit the precision.

    Source: Zhang and Wang, "Object tracking in siamese network with attention mechanism and Mish function", section 4.1
    (SGD, exponential learning rate), eq. 2-5 and 10-11.

    Example:
        >>> from tracker.training.config import DataConfig
        >>> config = TrainConfig(steps=2, batch_size=2, data=DataConfig(synthetic=16, workers=0))
        >>> len(train(SiamFC(width=0.25), config))
        2
    """
    config, world = config or TrainConfig(), world or World()
    device, dtype = next(model.parameters()).device, _dtype_of(model, config.precision)
    pairs = PairDataset.synthetic(config.seed, config.data.synthetic) if pairs is None else pairs
    steps = config.total_steps(len(pairs))
    model.to(memory_format=torch.channels_last)
    learner = model if teacher is None else Student(model, teacher).to(device)
    optimizer = make_optimizer(learner, config)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    state = TrainState(learner, optimizer, scaler)
    checkpoints = None if folder is None else Checkpoints(folder / "checkpoints", config.keep)
    _start_or_resume(state, checkpoints, len(pairs))
    todo = range(state.step, steps)
    order = BatchOrder(len(pairs), config.batch_size, config.seed, todo, world, repeat_first=config.overfit)
    loader = iter(make_loader(pairs, order, config.data.workers, device))
    generator = torch.Generator()
    losses: list[float] = []
    saved = time.monotonic()

    with training_form(model, config, world, learner) as network:
        for step in range(state.step + 1, steps + 1):
            began = time.perf_counter()
            loaded = next(loader)
            data_wait = time.perf_counter() - began
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step, steps) * group["lr_factor"]

            generator.manual_seed(seed_of(config.seed, 0 if config.overfit else step))
            part = slice(world.rank * len(loaded.indices), (world.rank + 1) * len(loaded.indices))
            division = {"part": part, "of": config.batch_size}
            batch = augment(loaded.pairs, generator, config.augment, device=device, dtype=dtype, **division)
            taught = time.perf_counter()
            targets = None if teacher is None else teacher(batch)
            taught = time.perf_counter() - taught
            with torch.autocast(device.type, getattr(torch, config.precision), enabled=config.precision != "float32"):
                given = network(batch.exemplar, batch.instance)
                output = given if targets is None else given.output
                options = {"gamma": config.gamma, "beta": config.beta}
                parts = losses_of(output, batch, config.box_loss, config.score_loss, **options)
                if targets is not None:
                    parts |= teacher_losses(given, targets)
            loss = torch.stack([config.weight_of(name) * part for name, part in parts.items()]).sum()

            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None])
            if config.clip:
                nn.utils.clip_grads_with_norm_(learner.parameters(), config.clip, norm)

            # The one time in a step that the host waits for the device; all processes get the same numbers.
            stopping = torch.full_like(norm, stop is not None and stop())
            found = world.mean(torch.stack([norm, stopping, loss.detach(), *(p.detach() for p in parts.values())]))
            grad_norm, stopping, mean_loss, *mean_parts = found.tolist()
            if not math.isfinite(mean_loss) or (not math.isfinite(grad_norm) and not _may_overflow(scaler)):
                raise FloatingPointError(_blame(loss, grad_norm, step, loaded, world))
            scaler.step(optimizer)  # does nothing if a scaled float16 gradient overflowed
            scaler.update()
            state.step = step

            losses.append(mean_loss)
            if progress is not None:
                progress(step, mean_loss)
            if log is not None:
                record = {"step": step, "epoch": loaded.epoch, "loss": mean_loss, "lr": config.lr_at(step, steps)}
                if len(parts) > 1:
                    record |= {f"loss_{name}": value for name, value in zip(parts, mean_parts, strict=True)}
                took = {"seconds": time.perf_counter() - began, "data_wait": data_wait}
                if teacher is not None:
                    took["teacher"] = taught
                log.train(record | {"grad_norm": grad_norm, "pairs": config.batch_size} | took)
            ending = step == steps or stopping > 0
            if validation and config.validation.every and (step % config.validation.every == 0 or step == steps):
                _validate(model, validation, state, world, folder, log)
            minutes = (time.monotonic() - saved) / 60
            due = step % config.checkpoint_every == 0 or 0 < config.checkpoint_minutes <= minutes
            if checkpoints is not None and world.is_first and (due or ending):
                checkpoints.save(state)
                saved = time.monotonic()
            if ending:
                break
    return losses


def _dtype_of(model: nn.Module, precision: str) -> torch.dtype:
    """The dtype of the network, which its crops must have too: autocast changes neither float64 nor weights."""
    found = sorted({p.dtype for p in model.parameters()}, key=str)
    if len(found) > 1 or found[0] == torch.float16:
        names = ", ".join(str(dtype) for dtype in found)
        raise ValueError(f"model must be all float32, float64 or bfloat16, got {names} (precision is a setting)")
    if found[0] == torch.float64 and precision != "float32":
        raise ValueError(f"precision must be float32 for a network of float64, got {precision}")
    return found[0]


def _start_or_resume(state: TrainState, checkpoints: Checkpoints | None, pairs: int) -> None:
    newest = None if checkpoints is None else checkpoints.newest()
    if newest is None:
        state.progress = {"pairs": pairs, "best_auc": -1.0}
        return
    state.load(newest)
    if state.progress["pairs"] != pairs:
        raise ValueError(f"pairs per epoch must be those of the run, {state.progress['pairs']}, got {pairs}")


@contextmanager
def training_form(
    model: nn.Module, config: TrainConfig, world: World, learner: nn.Module | None = None
) -> Iterator[nn.Module]:
    """The network in its form for training: with fused modules, compiled, or with a replica per process, as configured.

    The parameters stay those of `model`. At the end of the block it has its own modules again and is in eval mode.
    `learner` is the module that runs in its place, such as a `Student` that contains it.
    """
    with ExitStack() as undo:
        undo.callback(model.eval)
        if world.size > 1 and config.sync_batch_norm:
            undo.enter_context(synchronised(model))
        if getattr(model, "ops", None) == "fastops":
            fastops.accelerate(model, verbose=False)
            undo.callback(fastops.restore, model)
            if config.winograd:
                undo.enter_context(fastops.nn.winograd_convolutions(model))
        network = (model if learner is None else learner).train()
        if config.backbone_lr == 0:
            undo.enter_context(frozen(model.backbone, model.attention))
        if config.compile:
            network = torch.compile(network)
        if world.size > 1:
            network = nn.parallel.DistributedDataParallel(network)
        yield network


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Freeze modules while a network trains: they have no gradients, and batch norms use their running statistics."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for module in modules:
        module.eval()
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the configuration names, for all parameters, each with its factor on the learning rate."""
    family, _, suffix = config.optimizer.partition("_")
    kind = {
        "sgd": fastops.optim.SGDGC if suffix else torch.optim.SGD,
        "adamw": fastops.optim.AdamWGC if suffix else torch.optim.AdamW,
    }[family]
    options = {"momentum": config.momentum} if family == "sgd" else {}
    if suffix:
        options["conv_only"] = suffix == "gcc"
    groups = [{"params": list(model.parameters()), "lr_factor": 1.0}]
    if config.backbone_lr != 1:
        features = {id(p) for name, p in model.named_parameters() if "backbone." in name or "attention." in name}
        split = [[p for p in model.parameters() if (id(p) in features) == inside] for inside in (True, False)]
        factors = (config.backbone_lr, 1.0)
        groups = [{"params": p, "lr_factor": factor} for p, factor in zip(split, factors, strict=True) if p]
    return kind(groups, config.lr, weight_decay=config.weight_decay, **options)


def _may_overflow(scaler: torch.amp.GradScaler) -> bool:
    """Whether the gradient scale may be the cause of a gradient that is not finite."""
    return scaler.is_enabled() and scaler.get_scale() > 1


def _blame(loss: Tensor, grad_norm: float, step: int, loaded: Loaded, world: World) -> str:
    """The message about a loss or a gradient that is not finite, with its step and pairs."""
    each = world.collect({world.rank: (loss.item(), loaded.indices)})
    bad = {rank: value for rank, value in each.items() if not math.isfinite(value[0])}
    what = (
        f"loss must be finite, got {next(iter(bad.values()))[0]}"
        if bad
        else (f"gradient must be finite, got norm {grad_norm}")
    )
    pairs = sorted(index for _, indices in (bad or each).values() for index in indices)
    return f"{what} in step {step}, epoch {loaded.epoch}, pairs {', '.join(map(str, pairs))}"


def _validate(
    model: SiamFC,
    sequences: list[Sequence],
    state: TrainState,
    world: World,
    folder: Path | None,
    log: TrainLog | None,
) -> None:
    """Score the tracker, and save the weights if it is the best so far."""
    scores = validate(model, sequences, world)
    auc = sum(scores.values()) / len(scores)
    if auc > state.progress["best_auc"]:
        state.progress["best_auc"] = auc
        if folder is not None and world.is_first:
            save_state(model, folder / "best.safetensors")
    if log is not None:
        log.validation({"step": state.step, "auc": auc, "best_auc": state.progress["best_auc"], "sequences": scores})


@torch.no_grad()
def remove_se_bias(model: SiamFC) -> None:
    """Set the biases of the channel attention to 0 in place, and exclude them from training.

    The gate is then sigmoid(W2 relu(W1 z)), equation 8 of Zhang and Wang. A model without attention stays as it is.
    """
    for name, parameter in model.attention.named_parameters():
        if name in ("b1", "b2"):
            parameter.zero_().requires_grad_(False)


@torch.no_grad()
def scale_responses(
    model: SiamFC,
    deviation: float = 1.0,
    *,
    pairs: PairDataset | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> None:
    """Scale the last convolution of a new network in place so that its responses have standard deviation `deviation`.

    With out_scale = .001, the responses of a new network of width .25 have a deviation of .05, where the logistic loss
    is flat. On synthetic pairs the loss fell from .69 to .64 in 200 steps. With a deviation of 1 it fell to .49 in 60.

    Args:
        model: a network with the head "xcorr".
        deviation: the standard deviation to reach.
        pairs: the first `batch_size` of them are used; the default is synthetic pairs from `seed`.

    Raises:
        ValueError: if the responses are constant or not finite, so that no factor scales them.
    """
    pairs = PairDataset.synthetic(seed, batch_size) if pairs is None else pairs
    items = [pairs[i] for i in range(min(batch_size, len(pairs)))]
    device = next(model.parameters()).device
    batch = augment(collate(items), torch.Generator(), AugmentConfig.none(), device=device)
    training = model.training
    model.train()  # BatchNorm must use the batch, because a new network has no running statistics
    measured = float(model(batch.exemplar, batch.instance).std())
    model.train(training)
    if not 0 < measured < math.inf:
        raise ValueError(f"model must give finite responses that vary, got deviation {measured}")
    last = model.backbone.conv5[0]
    factor = math.sqrt(deviation / measured)  # a response is a product of two features
    last.weight.mul_(factor)
    last.bias.mul_(factor)
