"""The training loop: after a few steps on synthetic pairs, the tracker tracks."""

from __future__ import annotations

import json
import math
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

import fastops
import tracker.cli as cli
import tracker.training.loop as loop
from fastops.optim import SGDGC
from tracker import SiamFC, Tracker
from tracker.data.augment import AugmentConfig, Batch
from tracker.data.pairs import PairDataset
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.io.draw import VideoWriter
from tracker.training.config import DataConfig, TrainConfig, ValidationConfig
from tracker.training.log import TrainLog, read_metrics
from tracker.training.loop import make_optimizer, scale_responses, train, training_form
from tracker.training.losses import losses_of, score_loss
from tracker.training.validation import validate, validation_sequences

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = PairDataset.synthetic(seed=0, pairs=64)
CONFIG = TrainConfig(steps=3, batch_size=2, lr=5e-2, data=DataConfig(workers=0))


def small(width: float = 0.125, seed: int = 0, **options) -> SiamFC:
    torch.manual_seed(seed)
    return SiamFC("mish", "se", width=width, **options)


def boxes_on(model: SiamFC, frames, box) -> np.ndarray:
    return np.array([result.box for result in Tracker(model.eval()).track(frames, box)])


# ---- what it learns --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[SiamFC, list[float]]:
    model = small(0.25)
    scale_responses(model)
    config = replace(CONFIG, steps=40, batch_size=4, final_lr=5e-3)
    return model, train(model, config, pairs=PairDataset.synthetic(seed=0, pairs=160))


def test_short_training_makes_a_tracker(trained):
    model, losses = trained
    assert not model.training
    assert np.mean(losses[-5:]) < 0.6 < math.log(2)
    sequences = validation_sequences(ValidationConfig(synthetic=4, frames=60))
    before, after = (np.mean(list(validate(net, sequences).values())) for net in (small(0.25), model))
    assert after > 0.5 and after > before + 0.15, (before, after)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_boxes_from_a_written_video_equal_those_from_the_frames(trained, tmp_path, suffix):
    model, _ = trained
    video = SyntheticVideo(1, 20, (320, 240), occlusions=0)
    path = tmp_path / f"video{suffix}"
    with VideoWriter(path, video.size, 30) as writer:
        for image in video.images():
            writer.write(image)
    from_frames = boxes_on(model, video.images(), video.boxes[0])
    from_file = boxes_on(model, path, video.boxes[0])
    assert iou(from_frames, from_file).mean() >= 0.8


def test_overfit_learns_one_batch_by_heart():
    model = small()
    scale_responses(model)
    losses = train(model, replace(CONFIG, steps=60, overfit=True, lr=2e-2), pairs=PAIRS)
    assert losses[-1] < 0.1 < losses[0]


# ---- the step --------------------------------------------------------------------------------------------------


def plain_steps(model: SiamFC, config: TrainConfig) -> list[float]:
    """The same training, written down once more with stock PyTorch."""
    model.to(memory_format=torch.channels_last).train()
    buffers = {p: torch.zeros_like(p) for p in model.parameters()}
    losses = []
    order = loop.BatchOrder(len(PAIRS), config.batch_size, config.seed, range(config.steps))
    for step, keys in enumerate(order, start=1):
        generator = torch.Generator().manual_seed(loop.seed_of(config.seed, step))
        batch = loop.augment(loop.collate([PAIRS[index] for _, index in keys]), generator, config.augment)
        responses = model(batch.exemplar, batch.instance)
        center = (batch.box[:, [1, 0]] + batch.box[:, [3, 2]]) / 2  # row, column
        loss = fastops.reference.balanced_logistic_loss(responses, centers=(center - 127.5) / 8 + 8)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        lr = config.lr * (config.final_lr / config.lr) ** ((step - 1) / (config.steps - 1))
        with torch.no_grad():
            norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
            for p, buffer in buffers.items():
                grad = p.grad * min(1, config.clip / norm) if config.clip else p.grad
                grad = grad + config.weight_decay * p
                if p.dim() > 1:
                    grad = grad - grad.mean(tuple(range(1, p.dim())), keepdim=True)
                buffer.mul_(config.momentum).add_(grad)
                p.sub_(lr * buffer)
    return losses


@pytest.mark.parametrize("clip", [0.0, 0.02])
def test_losses_and_weights_are_those_of_stock_pytorch(clip):
    config = replace(CONFIG, steps=4, clip=clip, lr=1e-2)
    start, model, stock = weights(small()), small(), small(ops="reference")
    expected = plain_steps(stock, config)
    assert train(model, config, pairs=PAIRS) == pytest.approx(expected, rel=1e-5)
    moved, wanted = weights(model) - start, weights(stock) - start
    assert (moved - wanted).norm() < 1e-3 * wanted.norm()
    if clip:
        plain_steps(other := small(ops="reference"), replace(config, clip=0.0))
        assert (weights(other) - weights(stock)).norm() > wanted.norm()


def test_same_seed_gives_the_same_network():
    runs = []
    for seed in (1, 1, 2):
        model = small()
        losses = train(model, replace(CONFIG, seed=seed), pairs=PAIRS)
        runs.append((losses, torch.cat([p.flatten() for p in model.parameters()])))
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_workers_change_nothing():
    losses = [train(small(), replace(CONFIG, data=DataConfig(workers=workers)), pairs=PAIRS) for workers in (0, 2)]
    assert losses[0] == losses[1]


def test_progress_and_learning_rate_schedule(monkeypatch):
    rates, calls = [], []
    step = SGDGC.step

    def record(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SGDGC, "step", record)
    config = replace(CONFIG, batch_size=1, lr=1e-2, final_lr=1e-4)
    losses = train(small(), config, pairs=PAIRS, progress=lambda done, loss: calls.append((done, loss)))
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4])
    assert calls == list(enumerate(losses, start=1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd_gc", SGDGC), ("adamw_gc", fastops.optim.AdamWGC), ("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)],
)
def test_optimizers(name, kind):
    optimizer = make_optimizer(small(), TrainConfig(optimizer=name, lr=0.5, momentum=0.7, weight_decay=0.25))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert "sgd" not in name or group["momentum"] == 0.7


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_the_same(precision):
    exact = train(small(), replace(CONFIG, lr=1e-2), pairs=PAIRS)
    losses = train(small(), replace(CONFIG, lr=1e-2, precision=precision), pairs=PAIRS)
    assert losses == pytest.approx(exact, rel=0.05) and losses != pytest.approx(exact, rel=1e-6)


def test_network_is_fused_only_while_it_trains():
    model = small()
    names = [type(module) for module in model.modules()]
    parameters = list(model.parameters())
    with training_form(model, CONFIG, loop.World()) as network:
        assert network is model and model.training
        assert len(fastops.acceleration_report(model).changed) == 4
    assert [type(module) for module in model.modules()] == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-8.0, 24.0)])
def test_labels_follow_the_target(shift):
    """The loss is smallest where the response peaks over the target."""
    x, y = 127.5 + shift[0], 127.5 + shift[1]
    batch = Batch(torch.empty(0), torch.empty(0), torch.tensor([[x - 20, y - 30, x + 20, y + 30]]))
    rows, columns = torch.meshgrid(torch.arange(17.0), torch.arange(17.0), indexing="ij")

    def loss(row: float, column: float) -> float:
        peak = 8.0 * (((rows - row).square() + (columns - column).square()).sqrt() <= 2) - 4
        return losses_of(peak[None, None], batch, "focal_eiou")["score"].item()

    row, column = 8 + shift[1] / 8, 8 + shift[0] / 8
    best = loss(row, column)
    assert best == pytest.approx(math.log1p(math.exp(-4)), rel=1e-4)
    assert all(loss(row + a, column + b) > best + 0.1 for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1)))


# ---- what stops it ---------------------------------------------------------------------------------------------


class Poisoned(torch.nn.Module):
    """Adds the next of `values` to what the network gives, and of `slopes` to its gradient."""

    def __init__(self, values=(), slopes=()) -> None:
        super().__init__()
        self.net, self.values, self.slopes = small(), iter(values), iter(slopes)

    def forward(self, z, x):
        output = self.net(z, x) + next(self.values, 0.0)
        slope = next(self.slopes, 0.0)
        output.register_hook(lambda grad: grad + slope)
        return output


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("poison", "what"),
    [
        ({"values": [0.0, 0.0, math.nan]}, "loss must be finite, got nan"),
        ({"values": [0.0, 0.0, math.inf]}, "loss must be finite, got inf"),
        ({"slopes": [0.0, 0.0, math.inf]}, "gradient must be finite, got norm (nan|inf)"),
    ],
)
def test_nan_stops_with_the_batch_and_leaves_the_weights(poison, what):
    model = Poisoned(**poison)
    seen = []
    config = replace(CONFIG, steps=20, batch_size=4)
    pairs = PairDataset.synthetic(seed=0, pairs=9)  # the third step is the first one of epoch 1
    taken = [index for _, index in list(loop.BatchOrder(9, 4, 0, range(3)))[2]]
    with pytest.raises(FloatingPointError) as caught:
        train(model, config, pairs=pairs, progress=lambda step, loss: seen.append(weights(model)))
    where = f"in step 3, epoch 1, pairs {', '.join(map(str, sorted(taken)))}"
    assert re.fullmatch(f"{what} {re.escape(where)}", str(caught.value))
    assert len(seen) == 2 and torch.equal(weights(model), seen[1])


def test_a_scaled_gradient_may_overflow_but_not_for_ever():
    """The scaler halves its scale and leaves the step out; at a scale of 1 it is no longer the scale's fault."""
    seen = []
    config = replace(CONFIG, steps=40, batch_size=1, precision="float16")
    model = Poisoned(slopes=[math.inf] * 2)
    train(model, replace(config, steps=3), pairs=PAIRS, progress=lambda step, loss: seen.append(weights(model)))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    with pytest.raises(FloatingPointError, match="gradient must be finite, got norm .* in step 17, epoch 0"):
        train(Poisoned(slopes=[math.inf] * 40), config, pairs=PAIRS)  # 65536 is 2 to the 16


def test_a_stopped_run_goes_on(tmp_path):
    config = replace(CONFIG, steps=5)
    expected = train(small(), config, pairs=PAIRS)
    asked = iter([False, True])
    first = train(small(), config, pairs=PAIRS, folder=tmp_path, stop=lambda: next(asked))
    rest = train(small(seed=1), config, pairs=PAIRS, folder=tmp_path)
    assert len(first) == 2 and first + rest == expected
    with pytest.raises(ValueError, match="pairs per epoch must be those of the run, 64, got 63"):
        train(small(), config, pairs=PairDataset.synthetic(pairs=63), folder=tmp_path)


# ---- validation and scaling ------------------------------------------------------------------------------------


def test_validation_scores_leave_the_model_alone_and_frames_without_target_out():
    video = SyntheticVideo(0, 6, (160, 120), occlusions=0)
    whole = Sequence.from_video("whole", video)
    boxes = video.boxes.copy()
    boxes[[0, 3]] = (0, 0, 1, 1)
    absent = np.array([True, False, False, True, False, False])
    gaps = Sequence("gaps", lambda i: video.frame(i)[0], boxes, absent)
    model = small().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    scores = validate(model, [whole, gaps])
    assert model.training and all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert list(scores) == ["whole", "gaps"]
    tracked = boxes_on(model, (video.frame(i)[0] for i in range(6)), video.boxes[0])
    assert scores["whole"] == loop_auc(tracked, video.boxes)
    tracked = boxes_on(model, (video.frame(i)[0] for i in range(1, 6)), video.boxes[1])
    assert scores["gaps"] == loop_auc(tracked[[0, 1, 3, 4]], video.boxes[[1, 2, 4, 5]])


def loop_auc(boxes: np.ndarray, truth: np.ndarray) -> float:
    return np.mean([(iou(boxes, truth) > threshold).mean() for threshold in np.linspace(0, 1, 21)])


def test_validation_videos_are_those_asked_for():
    sequences = validation_sequences(ValidationConfig(synthetic=2, frames=7))
    assert [(sequence.name, len(sequence)) for sequence in sequences] == [("synthetic-0", 7), ("synthetic-1", 7)]
    with pytest.raises(ValueError, match="validation.only must name sequences, got Deer"):
        validation_sequences(ValidationConfig(only=("Deer",)))


def test_scale_responses_starts_the_loss_where_it_is_steep():
    model = small(0.25)
    before = model.backbone.conv5[0].weight.clone()
    scale_responses(model, 1.0)
    assert model.training  # left as it was
    assert model.backbone.conv5[0].weight.std() > 2 * before.std()
    half = {key: value.clone() for key, value in model.state_dict().items()}
    scale_responses(model, 1.0)  # the attention's gates move a little, so a second call changes little, not nothing
    ratio = model.backbone.conv5[0].weight.std() / half["backbone.conv5.0.weight"].std()
    assert 0.8 < ratio < 1.25


def test_scale_responses_refuses_a_dead_network():
    model = small()
    torch.nn.init.zeros_(model.backbone.conv5[0].weight)
    with pytest.raises(ValueError, match="model must give finite responses that vary, got deviation"):
        scale_responses(model, batch_size=1)


# ---- the log ---------------------------------------------------------------------------------------------------


def test_log_of_a_run(tmp_path):
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = replace(CONFIG, validation=ValidationConfig(every=2))
    videos = validation_sequences(ValidationConfig(synthetic=1, frames=3))
    with TrainLog(tmp_path, steps=3, quiet=True) as log:
        losses = train(small(), config, pairs=PAIRS, validation=videos, folder=tmp_path, log=log)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"]) for r in records] == [
        ("train", 1), ("train", 2), ("validation", 2), ("train", 3), ("validation", 3),
    ]  # fmt: skip
    assert [r["loss"] for r in records if r["kind"] == "train"] == losses
    assert all(0 <= r["data_wait"] <= r["seconds"] for r in records if r["kind"] == "train")
    assert records[2]["auc"] == records[2]["sequences"]["synthetic-0"]
    events = board.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("validation/auc")] == [2, 3]


def test_log_without_tensorboard(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with TrainLog(tmp_path, steps=1) as log:
        log.train({"step": 1, "loss": 0.5, "pairs": 8, "seconds": 0.25, "data_wait": 0.05})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert "loss 0.5000  32.0 pairs/s  data wait 20 %" in capsys.readouterr().err


def test_lines_of_steps_that_come_again_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"kind": "train", "step": step}) + "\n" for step in (1, 2, 3)) + '{"kind": "tr')
    with TrainLog(tmp_path, steps=4, done=2, quiet=True) as log:
        log.validation({"step": 3, "auc": 0.5, "sequences": {}})
    assert [(r["kind"], r["step"]) for r in read_metrics(path)] == [("train", 1), ("train", 2), ("validation", 3)]


# ---- the command -----------------------------------------------------------------------------------------------

QUICK = ["--set", "model.width=0.125", "--set", "batch_size=2", "--set", "data.workers=0", "--quiet"]


def test_command_overfits(tmp_path, capsys):
    path = tmp_path / "train.toml"
    path.write_text("steps = 2\n")
    arguments = ["train", "--config", str(path), "--overfit", *QUICK, "--set", "lr=0.001"]
    assert cli.main([*arguments, "--output", str(tmp_path / "run")]) == 1
    message = "tracker: error: --overfit: loss must get below 0.1, got "
    error = capsys.readouterr().err
    assert error.startswith(message) and "after 2 steps" in error
    assert cli.main([*arguments, "--set", "steps=60", "--set", "lr=0.02", "-o", str(tmp_path / "other")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lrr=1"], "unknown setting lrr: did you mean lr?"),
        (["--config", "no.toml"], "no.toml: No such file or directory"),
        (["--device", "tpu"], "--device must be cpu, cuda or cuda:N, got 'tpu'"),
        (
            ["--set", "data.synthetic=0"],
            "one of data.synthetic, data.stills, data.archives and data.sequences must give pairs",
        ),
        (
            ["--set", "data.synthetic=4", "--set", "batch_size=8"],
            "pairs must fill a batch of 8, got 4 per epoch: set a smaller batch_size, or data.repeat",
        ),
        (["--set", "augment.shift=20"], "error: shift must be at most 16 px in crops of 287 px, got 20.0"),
        (["--set", "model.head=cube"], "error: head must be one of xcorr"),
        (["--set", "model.weights=no.pth"], "error: model.weights: path must be an existing file, got no.pth"),
    ],
)
def test_command_names_mistakes(tmp_path, capsys, arguments, message):
    assert cli.main(["train", *arguments, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_command_starts_from_weights_that_fit(tmp_path, capsys):
    from tracker.network.checkpoint import load_state, save_state

    path = tmp_path / "net.safetensors"
    save_state(small(), path)
    arguments = ["train", *QUICK, "--set", f"model.weights={path}", "--set", "steps=1", "--set", "validation.every=0"]
    assert cli.main([*arguments, "--set", "model.width=0.25", "-o", str(tmp_path / "a")]) == 2
    assert "model.weights must fit the model's settings, got" in capsys.readouterr().err
    assert cli.main([*arguments, "--set", "lr=1e-9", "--set", "final_lr=1e-9", "-o", str(tmp_path / "b")]) == 0
    before, after = load_state(path), load_state(tmp_path / "b/model.safetensors")
    key = "backbone.conv5.0.weight"
    torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)


def test_ctrl_c_ends_the_run_with_a_checkpoint(tmp_path, monkeypatch, capsys):
    step, handler = SGDGC.step, signal.getsignal(signal.SIGINT)

    def interrupted(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)
        return result

    arguments = ["train", *QUICK, "--set", "steps=3", "--set", "validation.every=0", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(SGDGC, "step", interrupted)
        assert cli.main(arguments) == 130
    assert signal.getsignal(signal.SIGINT) is handler
    # Asked before the optimizer's step, so the signal that came in step 1 ends the run after step 2 - unless it is
    # the second one, which is Ctrl-C as ever.
    assert cli.main(["train", "--quiet", "--resume", "--output", str(tmp_path)]) == 0
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_augmentation_can_be_switched_off():
    config = replace(CONFIG, steps=2, augment=AugmentConfig.none())
    assert train(small(), config, pairs=PAIRS) != train(small(), replace(CONFIG, steps=2), pairs=PAIRS)


def test_mean_score_loss_is_equation_3():
    """Every cell weighs the same: by hand, with labels 1 within 16 pixels of the target's centre and -1 elsewhere."""
    torch.manual_seed(0)
    score = torch.randn(2, 1, 17, 17)
    boxes = torch.tensor([[-20.0, -30.0, 20.0, 30.0], [4.0, -8.0, 36.0, 24.0]])  # centres (0, 0) and (20, 8)
    total = 0.0
    for n, (cx, cy) in enumerate(((0.0, 0.0), (20.0, 8.0))):
        for row in range(17):
            for column in range(17):
                near = math.hypot(8 * (column - 8) - cx, 8 * (row - 8) - cy) <= 16
                total += math.log1p(math.exp(-(1 if near else -1) * score[n, 0, row, column].item()))
    loss = score_loss(score, boxes, "mean")
    assert loss.item() == pytest.approx(total / (2 * 17 * 17), rel=1e-5)
    assert score_loss(score, boxes).item() != pytest.approx(loss.item(), rel=1e-2)


def test_gcc_centralizes_convolutions_alone():
    model = SiamFC("relu", "se", width=0.125)
    for name in ("sgd_gcc", "adamw_gcc"):
        assert make_optimizer(model, TrainConfig(optimizer=name)).param_groups[0]["conv_only"]
        assert not make_optimizer(model, TrainConfig(optimizer=name.removesuffix("c"))).param_groups[0]["conv_only"]
