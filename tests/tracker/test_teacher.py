"""Knowledge distillation: the losses against a teacher, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.commands import run
from tracker import SiamFC
from tracker.data.augment import Batch
from tracker.network.box_head import BoxOutput
from tracker.network.checkpoint import load_state, save_state
from tracker.training.config import DataConfig, TrainConfig, ValidationConfig
from tracker.training.loop import make_optimizer, train
from tracker.training.teacher import Given, Student, Targets, Teacher, teacher_losses

CPU = torch.device("cpu")


def _model(seed: int = 0, **options) -> SiamFC:
    torch.manual_seed(seed)
    return SiamFC(**{"activation": "mish", "width": 0.25} | options).eval()


def _batch(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    crops = [torch.rand(count, 3, side, side, generator=generator) * 255 for side in (127, 255)]
    crops = [crop.contiguous(memory_format=torch.channels_last) for crop in crops]
    return Batch(*crops, torch.tensor([[95.5, 95.5, 159.5, 159.5]] * count))


@pytest.mark.parametrize("head", ["xcorr", "box"])
def test_a_student_that_is_its_teacher_has_no_loss(head):
    model, batch = _model(head=head, attention="se"), _batch()
    teacher = Teacher(model, CPU, torch.float32)
    with torch.no_grad():
        given = Student(model, teacher).eval()(batch.exemplar, batch.instance)
    losses = teacher_losses(given, teacher(batch))
    assert set(losses) == {"features", "map"} | ({"teacher_box"} if head == "box" else set())
    assert all(loss < 1e-4 for loss in losses.values())


def test_features_are_compared_before_the_attention_image_by_image():
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.randn(2, 4, n, n, generator=generator) for n in (6, 22)]
    wanted[1][1] *= 100  # an image with large features counts as any other
    targets = Targets(*wanted, torch.randn(2, 1, 17, 17, generator=generator))
    given = Given(1.5 * wanted[0], wanted[1] * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), targets.output, None)
    losses = teacher_losses(given, targets)

    def share(features, factor):  # |s - t|^2 / |t - mean t|^2 of s = (1 + factor) t
        return factor**2 * (features.square().mean() / features.var(correction=0))

    exemplar = (share(wanted[0][0], 0.5) + share(wanted[0][1], 0.5)) / 2
    instance = share(wanted[1][1], 1.0) / 2
    assert set(losses) == {"features"}
    torch.testing.assert_close(losses["features"], (exemplar + instance) / 2)


def test_boxes_are_compared_where_the_teacher_is_sure():
    score = torch.full((1, 1, 17, 17), -9.0)
    score[0, 0, 8, 8] = 9.0
    ltrb = torch.full((1, 4, 17, 17), 32.0)
    features = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 22, 22)
    targets = Targets(*features, BoxOutput(score, ltrb))
    elsewhere, there = ltrb.clone(), ltrb.clone()
    elsewhere[..., 0, 0], there[..., 8, 8] = 64.0, 64.0
    boxes = {}
    for name, own in (("elsewhere", elsewhere), ("there", there)):
        boxes[name] = teacher_losses(Given(*features, BoxOutput(score, own), score), targets)["teacher_box"]
    assert boxes["elsewhere"] < 1e-6 and boxes["there"] > 0.5


def test_a_narrow_student_is_adapted_and_the_adapter_learns():
    teacher, student = Teacher(_model(1, width=0.5), CPU, torch.float32), _model()
    learner = Student(student, teacher)
    with torch.no_grad():
        given = learner(*_batch()[:2])
    assert given.exemplar.shape[1] == given.instance.shape[1] == teacher.channels == 128
    config = TrainConfig(backbone_lr=0.1)
    groups = make_optimizer(learner, config).param_groups
    assert [group["lr_factor"] for group in groups] == [0.1, 1.0]
    assert {id(p) for p in learner.adapter.parameters()} <= {id(p) for p in groups[1]["params"]}
    assert {id(p) for p in student.backbone.parameters()} == {id(p) for p in groups[0]["params"]}


def test_a_box_head_learns_the_score_map_of_a_teacher_without_one():
    teacher, student = Teacher(_model(1), CPU, torch.float32), _model(head="box")
    with torch.no_grad():
        given = Student(student, teacher).eval()(*_batch()[:2])
    assert isinstance(given.output, BoxOutput) and given.score_map.shape == (2, 1, 17, 17)
    assert "map" in teacher_losses(given, teacher(_batch()))


def test_weights_of_losses_are_those_of_the_settings():
    config = TrainConfig(teacher_weight=2.0, teacher_map_weight=3.0, label_weight=4.0)
    weights = {name: config.weight_of(name) for name in ("features", "map", "teacher_box", "score", "box")}
    assert weights == {"features": 2.0, "map": 3.0, "teacher_box": 3.0, "score": 4.0, "box": 4.0}


def test_rates_of_the_cosine_schedule():
    config = TrainConfig(schedule="cosine", warmup=2, lr=1.0, final_lr=0.2)
    assert [config.lr_at(step, 5) for step in range(1, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2])
    exponential = replace(config, schedule="exponential", final_lr=0.25)
    assert [exponential.lr_at(step, 5) for step in range(1, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.25])


def test_frozen_features_stay_as_they_are_while_the_head_learns():
    model = _model(head="box", attention="se")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = DataConfig(synthetic=8, workers=0, crop_size=383)
    config = TrainConfig(steps=2, batch_size=2, backbone_lr=0.0, data=data, validation=ValidationConfig(every=0))
    train(model, config)
    after = model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[0] for key in changed} == {"box_head"}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_the_command_learns_from_a_file_and_starts_a_head_afresh(capsys, tmp_path):
    weights = tmp_path / "teacher.safetensors"
    save_state(_model(1), weights)
    small = ["--set", "steps=2", "--set", "batch_size=2", "--set", "data.synthetic=8", "--set", "data.workers=0",
             "--set", "validation.every=0", "--set", "model.width=0.25", "--set", f"model.weights={weights}",
             "--set", f"teacher={weights}", "--set", "model.head=box", "--quiet"]  # fmt: skip
    code, _, error = run(capsys, "train", *small, "--output", str(tmp_path / "run"))
    assert code == 0, error
    state = load_state(tmp_path / "run" / "model.safetensors")
    assert not any("adapter" in key for key in state) and "box_head.search.0.weight" in state
