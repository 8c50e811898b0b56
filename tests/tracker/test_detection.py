"""The detection experiment: its sets of images, its detector, its AP, and rows that outlive the process."""

from __future__ import annotations

import importlib.util
import json
import math
import pickle
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import fastops
from tests.support.paths import ROOT
from tests.tracker.test_experiments import read, rows_of
from tracker.cli import main
from tracker.experiments import detection
from tracker.experiments.boxed_images import Boxes, draw_shapes, open_boxed_images
from tracker.experiments.detector import STRIDES, Detector, Output, assign, box_loss, cells, detect, losses_of
from tracker.training import box_losses

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
needs_coco = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="needs pycocotools, in the extra dev"
)

# ---- images --------------------------------------------------------------------------------------------------


def test_drawn_shapes_depend_on_the_seed_and_lie_in_their_boxes():
    image, shown = draw_shapes(3, 96)
    again, _ = draw_shapes(3, 96)
    assert np.array_equal(image, again) and not np.array_equal(image, draw_shapes(4, 96)[0])
    for seed in range(40):
        image, shown = draw_shapes(seed, 96)
        assert image.shape == (96, 96, 3) and 0 <= shown.boxes.min() and shown.boxes.max() <= 96
        sides = shown.boxes[:, 2:] - shown.boxes[:, :2]
        assert (sides > 0).all() and (shown.areas <= sides.prod(1)).all()
        assert (shown.areas > 0.2 * sides.prod(1)).all() and not shown.ignored.any()


@pytest.fixture
def coco(tmp_path):
    """Two images to train on, one of them without boxes, one to test on; a crowd; categories with gaps between them."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, ids in (("train2017", (4, 9)), ("val2017", (2,))):
        (root / part).mkdir()
        annotations = [
            {"image_id": ids[0], "category_id": 7, "bbox": [10, 20, 30, 40], "area": 900, "iscrowd": 0},
            {"image_id": ids[0], "category_id": 3, "bbox": [50, 0, 14, 8], "area": 100, "iscrowd": 1},
        ]
        data = {
            "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "car"}],
            "annotations": annotations,
        }
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(data))
        for i in ids:
            cv2.imwrite(str(root / part / f"{i:012d}.jpg"), np.full((80, 120, 3), 20 * i, np.uint8))
    return root


def test_coco_is_read(coco):
    train, test = open_boxed_images(f"coco:{coco}", 64, 0, 0)
    assert train.classes == test.classes == ("car", "cat") and (train.count, test.count) == (1, 1)
    image, shown = train.load(0)
    assert image.shape == (80, 120, 3) and abs(int(image.mean()) - 80) < 3
    assert shown.boxes.tolist() == [[10, 20, 40, 60], [50, 0, 64, 8]] and shown.labels.tolist() == [1, 0]
    assert shown.areas.tolist() == [900, 100] and shown.ignored.tolist() == [False, True]


VOC = """<annotation><object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>
<object><name>bird</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5.5</xmax><ymax>6</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, i in (("trainval", "000001"), ("test", "000002")):
        (root / "ImageSets/Main" / f"{name}.txt").write_text(f"{i}\n")
        (root / "Annotations" / f"{i}.xml").write_text(VOC)
        cv2.imwrite(str(root / "JPEGImages" / f"{i}.jpg"), np.zeros((80, 120, 3), np.uint8))
    return root


def test_voc_is_read(voc):
    train, test = open_boxed_images(f"voc:{voc}", 64, 0, 0)
    assert train.classes == ("bird", "dog") and (train.count, test.count) == (1, 1)
    _, shown = test.load(0)
    assert shown.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 5.5, 6]]  # pixels count from 1 there, corners inside
    assert shown.labels.tolist() == [1, 0] and shown.ignored.tolist() == [False, True]


def test_images_fit_the_square_with_their_boxes(voc):
    train, _ = open_boxed_images(f"voc:{voc}", 64, 0, 0)
    image, boxes, labels, factor = detection.Fitted(train, 64)[0]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and factor == pytest.approx(64 / 120)
    torch.testing.assert_close(boxes, torch.tensor([[10.0, 20, 40, 60]]) * 64 / 120)
    assert labels.tolist() == [1]  # the difficult one is not learnt


def test_sets_go_to_worker_processes_that_are_not_forked(voc):
    for place in ("", f"voc:{voc}"):
        train, _ = open_boxed_images(place, 64, 1, 1)
        assert np.array_equal(pickle.loads(pickle.dumps(train)).load(0)[0], train.load(0)[0])


def damage_coco(root):
    (root / "annotations/instances_val2017.json").write_text('{"images": []}')


def damage_voc(root):
    (root / "Annotations/000002.xml").write_text("<annotation><object></annotation>")


@pytest.mark.parametrize(
    ("layout", "damage", "error", "message"),
    [
        ("coco", damage_coco, ValueError, "instances_val2017.json: must be annotations of COCO, got KeyError"),
        ("coco", lambda root: (root / "annotations/instances_val2017.json").unlink(), FileNotFoundError,
         r"--data must hold one annotations/instances_val\*.json, got 0 of them in "),
        ("coco", lambda root: (root / "val2017").rename(root / "val"), FileNotFoundError,
         "--data must hold the images in val2017/ or images/val2017/, got neither in "),
        ("voc", damage_voc, ValueError, "000002.xml: must be an annotation of PASCAL VOC, got mismatched tag"),
        ("voc", lambda root: (root / "ImageSets/Main/trainval.txt").unlink(), FileNotFoundError,
         "--data must hold ImageSets/Main/trainval.txt, got none in "),
        ("voc", lambda root: (root / "ImageSets/Main/trainval.txt").write_text(""), ValueError,
         "--data must hold images with boxes to train on, got none in "),
    ],
)  # fmt: skip
def test_damaged_sets_are_named(layout, damage, error, message, request):
    root = request.getfixturevalue(layout)
    damage(root)
    with pytest.raises(error, match=message):
        open_boxed_images(f"{layout}:{root}", 64, 0, 0)


# ---- detector ------------------------------------------------------------------------------------------------


def test_cells_are_assigned_by_place_and_size():
    centres, strides = cells(128, CPU)
    assert len(centres) == 16**2 + 8**2 + 4**2 and centres[0].tolist() == [4, 4] and centres[-1].tolist() == [112, 112]
    small, large = [20.0, 20.0, 40.0, 44.0], [4.0, 4.0, 124.0, 124.0]
    index = assign(torch.tensor([small, large]), centres, strides)
    for k, stride in ((0, STRIDES[0]), (1, STRIDES[2])):
        assert (strides[index == k] == stride).all() and (index == k).any()
        middle = torch.tensor([(small, large)[k]]).view(2, 2).mean(0)
        assert ((centres[index == k] - middle).abs() < 1.5 * stride).all()
    inner = assign(torch.tensor([[0.0, 0, 60, 60], [24.0, 24, 36, 36]]), *cells(64, CPU))
    assert (inner == 1).any()  # of two it is the smaller one
    assert (assign(torch.zeros(0, 4), centres, strides) == -1).all()


def perfect(boxes: torch.Tensor, labels: torch.Tensor, size: int, off: float = 0.0) -> Output:
    """The output of a detector that knows, its boxes moved by `off` pixels."""
    centres, strides = cells(size, CPU)
    index = assign(boxes, centres, strides)
    own = index >= 0
    ltrb = torch.ones(len(centres), 4)
    box = boxes[index[own]] + off
    ltrb[own] = torch.cat([centres[own] - box[:, :2], box[:, 2:] - centres[own]], 1)
    classes = torch.full((len(centres), 3), -20.0)
    classes[own, labels[index[own]]] = 20.0
    return Output(classes[None], ltrb[None], torch.where(own, 20.0, -20.0)[None])


@pytest.mark.parametrize("kind", sorted(set(detection.LOSSES.values())))
def test_losses_of_a_detector_that_knows_are_least(kind):
    boxes, labels = torch.tensor([[20.0, 20, 40, 44], [60.0, 10, 100, 70]]), torch.tensor([1, 2])
    parts = losses_of(perfect(boxes, labels, 128), [(boxes, labels)], 128, kind)
    off = losses_of(perfect(boxes, labels, 128, off=4.0), [(boxes, labels)], 128, kind)
    assert parts["classes"] < 1e-6 and parts["box"] < 1e-5 and off["box"] > 0.01
    empty = losses_of(perfect(boxes, labels, 128), [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))], 128, kind)
    assert empty["box"] == 0 and empty["centerness"] == 0 and empty["classes"] > 1


@pytest.mark.parametrize("kind", sorted(set(detection.LOSSES.values())))
def test_box_losses_are_weighted_means(kind):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(9, 4, generator=generator).cumsum(1) * 10
    pred = (target + torch.rand(9, 4, generator=generator)).requires_grad_()
    weight = torch.rand(9, generator=generator)
    for w in (None, weight):
        if kind == "focal_eiou":
            each = fastops.eiou_loss(pred, target, reduction="none")
            given = (1 - fastops.iou_loss(pred, target, reduction="none")).detach().sqrt()
        else:
            found = getattr(box_losses, kind, None)
            each = found(pred, target) if found else getattr(fastops, f"{kind}_loss")(pred, target, reduction="none")
            given = torch.ones(9)
        given = given if w is None else w * given
        expected = (given * each).sum() / given.sum()
        actual = box_loss(kind, pred, target, w)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, pred)[0] for loss in (actual, expected)))
    assert box_loss(kind, pred[:0], target[:0]) == 0


def test_centerness_weighs_the_box_loss():
    boxes, labels = torch.tensor([[20.0, 20, 60, 52]]), torch.tensor([0])
    output = perfect(boxes, labels, 128)
    output.ltrb[0, 0:64] += 5  # of cells above the middle alone
    plain, weighted = (losses_of(output, [(boxes, labels)], 128, "iou", centerness=c)["box"] for c in (False, True))
    assert 0 < weighted and not torch.isclose(plain, weighted)


def test_detections_are_the_boxes_once_each(monkeypatch):
    boxes, labels = torch.tensor([[20.0, 20, 40, 44], [60.0, 10, 100, 70]]), torch.tensor([1, 2])
    model = Detector(3, 8).eval()
    monkeypatch.setattr(model, "forward", lambda images: perfect(boxes, labels, 128))
    ((found, classes, scores),) = detect(model, torch.zeros(1, 3, 128, 128, dtype=torch.uint8))
    order = classes.argsort()
    np.testing.assert_allclose(found[order], boxes.numpy(), atol=1e-4)
    assert classes[order].tolist() == [1, 2] and (scores > 0.99).all()


# ---- AP ------------------------------------------------------------------------------------------------------


@needs_coco
def test_average_precision_of_known_detections():
    boxes = np.array([[0, 0, 40, 40], [50, 50, 150, 150], [5, 60, 15, 80]], np.float32)
    shown = Boxes(boxes, np.array([0, 0, 1]), np.array([1600.0, 10000, 200]), np.array([False, False, True]))
    found = boxes[:2], np.array([0, 0]), np.array([0.9, 0.8])
    row = detection.average_precision([shown], [found], 2)
    assert [row[key] for key in ("AP", "AP50", "APM", "APL")] == pytest.approx([100] * 4) and math.isnan(row["APS"])
    # An IoU of .8: right at .5 to .75 (and .8, by rounding), wrong above.
    moved = boxes[:2].copy()
    moved[:, 2] -= (moved[:, 2] - moved[:, 0]) * 0.22
    row = detection.average_precision([shown], [(moved, *found[1:])], 2)
    assert row["by_iou"] == pytest.approx([100] * 6 + [0] * 4) and row["AP"] == pytest.approx(60)
    # A detection of an ignored object counts for nothing; one of nothing, the surest of all, costs.
    extra = np.vstack([boxes, [[200, 200, 210, 210]]]).astype(np.float32)
    scores = np.array([0.9, 0.8, 0.99, 0.1])
    assert detection.average_precision([shown], [(extra, np.array([0, 0, 1, 0]), scores)], 2)["AP"] == pytest.approx(
        100
    )
    scores[3] = 0.999
    assert 40 < detection.average_precision([shown], [(extra, np.array([0, 0, 1, 0]), scores)], 2)["AP"] < 70
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    assert detection.average_precision([shown], [none], 2)["AP"] == 0


# ---- the experiment ------------------------------------------------------------------------------------------


def test_rates_are_the_papers():
    plan = detection.FULL
    rates = [detection.rate_at(step, plan) for step in (0, 49_999, 50_000, 69_999, 70_000, 80_000, 89_999)]
    assert rates == pytest.approx([0.01 / 20, 0.01, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5])


@pytest.mark.slow
def test_training_learns_and_is_repeatable():
    plan = detection.Plan(steps=60, batch_size=8, channels=8, size=64, images=40)
    train, _ = open_boxed_images("", plan.size, plan.images, 1)
    models = [detection.train_one(loss, 1, plan, train, CPU) for loss in ("EIoU", "EIoU", "GIoU")]
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    torch.manual_seed(1)
    parts = []
    for model in (Detector(3, plan.channels).eval(), models[0]):
        images, boxes, labels, _ = zip(*(detection.Fitted(train, plan.size)[i] for i in range(40)), strict=True)
        with torch.no_grad():
            output = model(torch.stack(images))
            parts.append(losses_of(output, list(zip(boxes, labels, strict=True)), plan.size, "eiou"))
    assert parts[1]["box"] < 0.8 * parts[0]["box"] and parts[1]["classes"] < 0.8 * parts[0]["classes"]


@needs_coco
def test_a_set_is_trained_and_scored_on(voc, tmp_path):
    options = ["--data", f"voc:{voc}", "--set", "steps=1", "--set", "batch_size=2", "--set", 'losses=["Focal-EIoU"]']
    assert main(["experiment", "detection", "--quick", "-o", str(tmp_path / "out"), *options]) == 0
    (row,) = rows_of(tmp_path / "out/detection_runs.jsonl")
    assert row["loss"] == "Focal-EIoU" and 0 <= row["AP"] <= 100 and len(row["by_iou"]) == 10


@pytest.mark.slow
@needs_coco
def test_quick_mode_writes_its_tables(tmp_path):
    assert main(["experiment", "detection", "--quick", "--output", str(tmp_path)]) == 0
    names = ("_runs.jsonl", ".csv", ".md", ".png", "_by_iou.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"detection{end}" for end in names}
    assert [row["loss"] for row in read(tmp_path / "detection.csv")] == list(detection.LOSSES)
    text = (tmp_path / "detection.md").read_text()
    assert "| Focal-EIoU | paper | 37.5 | 56.1 | 40.0 | 21.1 | 40.9 | 49.8 |" in text
    assert text.count("| here |") == len(detection.PAPER)


@needs_coco
def test_a_killed_run_loses_the_row_in_work_at_most(tmp_path):
    """Killed in the training of the third row, half a line written; the same command does what is missing."""
    losses = ["IoU", "EIoU", "SmoothL1"]
    settings = ["--quick", "-o", str(tmp_path), "--set", "steps=2", "--set", f"losses={json.dumps(losses)}"]
    code = f"""
import os, signal
from tracker.cli import main
from tracker.experiments import detection
train_one = detection.train_one
def killed(loss, *rest):
    if loss == "SmoothL1":
        with open({str(tmp_path / "detection_runs.jsonl")!r}, "a") as file:
            file.write('{{"loss": "Smoo')
        os.kill(os.getpid(), signal.SIGKILL)
    return train_one(loss, *rest)
detection.train_one = killed
main(["experiment", "detection", *{settings!r}])
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    before = (tmp_path / "detection_runs.jsonl").read_text().splitlines()
    assert len(before) == 4 and not (tmp_path / "detection.md").exists()
    assert main(["experiment", "detection", *settings]) == 0
    after = (tmp_path / "detection_runs.jsonl").read_text().splitlines()
    assert after[:3] == before[:3]
    assert [row["loss"] for row in rows_of(tmp_path / "detection_runs.jsonl")] == losses
    assert [row["loss"] for row in read(tmp_path / "detection.csv")] == losses


def test_pycocotools_is_asked_for(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert main(["experiment", "detection", "--quick", "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tracker: error: detection must have pycocotools, of the extra experiments, to score: pip ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x"], "--data must be coco:ROOT or voc:ROOT for detection, got 'x'"),
        (
            ["--data", "coco:nowhere"],
            "--data must hold one annotations/instances_train*.json, got 0 of them in nowhere",
        ),
        (["--eval", "otb:x"], "--data must be one of coco:ROOT and voc:ROOT, and --eval be left out, for detection"),
        (["--set", 'losses=["L2"]'], "losses must be among IoU, "),
        (["--set", "size=100"], "size must be a multiple of 32, got 100"),
        (["--set", "steps=0"], "steps must be above 0, got 0"),
        (["--set", "optimizer=lion"], "optimizer must be one of sgd, adam, got 'lion'"),
    ],
)
@needs_coco
def test_bad_usage_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", "detection", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"tracker: error: {message}")
