"""Scores of result files: the got10k toolkit's own experiments on the same files, formulas written out, bad input."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.eval_data import FRAMES, MAKE, SIZE, TRUTH, corners, noisy, one_based, write_rows
from tracker.data.datasets import open_dataset
from tracker.data.otb import load_sequence
from tracker.eval.metrics import iou
from tracker.eval.polygons import polygon_overlap
from tracker.eval.protocols import score
from tracker.eval.results import claim_folder, find_results, read_regions, result_path, write_regions
from tracker.eval.vot import eao_curve

os.environ.setdefault("MPLBACKEND", "Agg")  # the toolkit imports pyplot
toolkit = pytest.importorskip("got10k.experiments", reason="needs the got10k toolkit, in the extra dev")
from got10k import datasets  # noqa: E402
from got10k.experiments import got10k as got10k_module  # noqa: E402
from got10k.experiments import otb as otb_module  # noqa: E402
from got10k.experiments import vot as vot_module  # noqa: E402
from got10k.trackers import Tracker as ToolkitTracker  # noqa: E402
from got10k.utils.metrics import poly_iou  # noqa: E402


@pytest.fixture(autouse=True)
def _toolkit(monkeypatch):
    """The toolkit without downloads and plots."""
    monkeypatch.setattr(otb_module, "OTB", lambda *a, download, **k: datasets.OTB(*a, download=False, **k))
    for experiment in (otb_module.ExperimentOTB, got10k_module.ExperimentGOT10k):
        monkeypatch.setattr(experiment, "plot_curves", lambda *_: None)


def open_made(layout: str, root: Path):
    return open_dataset(layout, root, "val" if layout == "got10k" else None)


def otb_experiment(root: Path, out: Path):
    return toolkit.ExperimentOTB(str(root), "tb100", result_dir=str(out / "results"), report_dir=str(out / "reports"))


# ---- the toolkit's experiments on the same files -------------------------------------------------------------


def compare_otb(root: Path, out: Path, truths: dict[str, np.ndarray]) -> None:
    experiment = otb_experiment(root, out)
    folder = Path(experiment.result_dir) / "noise"
    for seed, (name, truth) in enumerate(truths.items()):
        experiment._record(str(folder / f"{name}.txt"), noisy(seed, truth, 0.15 * truth[:, 2:].mean()), np.ones(9))
    report = experiment.report(["noise"])["noise"]
    scores = score("otb", open_dataset("otb", root), folder)
    assert scores.name == "noise" and 0.2 < scores.overall["success"] < 0.9
    keys = {"success": "success_score", "success_rate": "success_rate", "precision": "precision_score"}
    for ours, theirs in keys.items():
        assert scores.overall[ours] == pytest.approx(report["overall"][theirs], abs=1e-6)
        for name in truths:
            assert scores.sequences[name][ours] == pytest.approx(report["seq_wise"][name][theirs], abs=1e-6)
    for key in ("success", "precision"):
        assert scores.curves[key].values == pytest.approx(report["overall"][f"{key}_curve"], abs=1e-6)


def test_otb_is_the_toolkits(tmp_path):
    root = MAKE["otb"](tmp_path / "OTB")
    compare_otb(root, tmp_path, dict.fromkeys(("Car4", "Deer"), one_based(TRUTH)))


def test_otb_is_the_toolkits_on_real_sequences(tmp_path, real_data):
    root = tmp_path / "OTB"
    names = ("Car4", "Crossing", "Girl", "MotorRolling")
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(real_data / "sequences" / name)
    compare_otb(root, tmp_path, {name: one_based(load_sequence(root / name).boxes) for name in names})


def test_got10k_is_the_toolkits(tmp_path):
    root = MAKE["got10k"](tmp_path / "data")
    out = tmp_path / "out"
    experiment = toolkit.ExperimentGOT10k(str(root), "val", result_dir=str(out), report_dir=str(out / "reports"))
    folder = Path(experiment.result_dir) / "noise"
    for index, name in enumerate(experiment.dataset.seq_names):
        for repetition in (1, 2):
            path = folder / name / f"{name}_{repetition:03d}.txt"
            boxes = noisy(10 * index + repetition, one_based(TRUTH))
            boxes[3] = -20, -20, 60, 60  # leaves the image: how boxes are cut matters
            experiment._record(str(path), boxes, np.full(FRAMES, 0.01))
    report = experiment.report(["noise"])["noise"]
    scores = score("got10k", open_made("got10k", root), folder)
    assert scores.overall["ao"] == pytest.approx(report["overall"]["ao"], abs=1e-6)
    assert scores.overall["sr_50"] == pytest.approx(report["overall"]["sr"], abs=1e-6)
    assert scores.overall["fps"] == pytest.approx(100)
    assert scores.curves["success"].values == pytest.approx(report["overall"]["succ_curve"], abs=1e-6)
    assert scores.overall["sr_75"] == pytest.approx(report["overall"]["succ_curve"][75], abs=1e-6)
    for name, row in report["seq_wise"].items():
        assert scores.sequences[name]["ao"] == pytest.approx(row["ao"], abs=1e-6)
        assert scores.sequences[name]["sr_50"] == pytest.approx(row["sr"], abs=1e-6)
    assert scores.overall["frames"] == 2 * ((FRAMES - 1 - 4) + (FRAMES - 1 - 3))  # two repetitions of two sequences


class Drifting(ToolkitTracker):
    """Follows with noise and now and then jumps away, differently in each repetition."""

    def __init__(self) -> None:
        super().__init__("drifting")
        self.rng = np.random.default_rng(5)

    def init(self, image, box) -> None:
        self.box, self.frames = np.array(box), 0

    def update(self, image) -> np.ndarray:
        self.frames += 1
        jump = 500 if self.rng.random() < 0.08 else 0
        return self.box + self.rng.normal(0, 1.5, 4) * (1, 1, 0.2, 0.2) + (jump, 0, 0, 0)


def overlaps_of(experiment, boxes, anno, bound, burnin=False):
    """ExperimentVOT._calc_iou, which NumPy 2 refuses (a list of arrays and numbers), written out.

    The toolkit's own also lengthens a sequence in which a start is less than 10 frames from the end.
    """
    known = np.array([len(box) > 1 for box in boxes])
    if burnin:
        for start in [i for i, box in enumerate(boxes) if box == [1.0]]:
            known[start : start + experiment.burnin] = False
    rows = zip(boxes, anno, known, strict=True)
    return np.array([poly_iou(np.array(b), a, bound)[0] if k else np.nan for b, a, k in rows])


@pytest.mark.parametrize("with_tags", [True, False])
def test_vot_is_the_toolkits(tmp_path, monkeypatch, with_tags):
    monkeypatch.setattr(np, "NaN", np.nan, raising=False)  # which NumPy 2 no longer has
    monkeypatch.setattr(vot_module.ExperimentVOT, "_calc_iou", overlaps_of)
    root = MAKE["vot"](tmp_path / "data")
    if not with_tags:
        for path in [*root.rglob("*.tag"), *root.rglob("*.label")]:
            path.unlink()
    out = {"result_dir": str(tmp_path / "out"), "report_dir": str(tmp_path / "reports")}
    experiment = toolkit.ExperimentVOT(str(root), 2018, experiments="supervised", **out)
    experiment.repetitions = 3
    experiment.run(Drifting())
    report = experiment.report(["drifting"])["drifting"]
    folder = Path(experiment.result_dir) / "drifting"
    scores = score("vot", open_made("vot", root), folder, interval=(3, 12))
    assert scores.overall["failures"] > 1
    assert scores.overall["accuracy"] == pytest.approx(report["accuracy"], abs=1e-6)
    assert scores.overall["robustness"] == pytest.approx(report["robustness"], abs=1e-6)
    if not with_tags:
        assert scores.overall["robustness"] == pytest.approx(scores.overall["failures"]) and not scores.attributes
    else:
        assert set(scores.attributes) == {"camera_motion", "empty", "occlusion"}
        assert scores.attributes["empty"]["frames"] == 10 + (FRAMES - 3)


# ---- formulas written out -------------------------------------------------------------------------------------


def test_expected_average_overlap_written_out(tmp_path):
    root = MAKE["vot"](tmp_path / "data")
    sequences = open_made("vot", root)
    boxes = noisy(0, scale=1.0)
    rows = [list(box) for box in boxes]
    rows[0] = [1]
    failed = [*rows[:8], [2], [0], [0], [0], [0], [1], *rows[14:]]
    for sequence, lines in zip(sequences, (failed, rows), strict=True):
        write_regions(result_path("vot", tmp_path / "results", sequence.name), lines)
    scores = score("vot", sequences, tmp_path / "results", interval=(5, 14))
    bag, ball = polygon_overlap(boxes, corners(TRUTH), SIZE), polygon_overlap(boxes, TRUTH, SIZE)
    # Behind the starts: 7 frames to a failure, and 16 and 29 to the ends of the sequences.
    runs = [(np.append(bag[1:8], np.zeros(40)), 40), (bag[14:], 16), (ball[1:], 29)]
    curve = [np.mean([values[:n].mean() for values, reach in runs if n <= reach]) for n in range(5, 15)]
    assert scores.overall["eao"] == pytest.approx(np.mean(curve), abs=1e-9)
    assert scores.curves["eao"].values[5:15] == pytest.approx(curve, abs=1e-9)
    assert scores.overall["failures"] == 1 and scores.sequences["bag"]["failures"] == 1
    # 10 frames from each start on do not count, and those marked by a tag are not "empty".
    assert scores.sequences["bag"]["accuracy"] == pytest.approx(bag[23:].mean())
    assert scores.attributes["empty"]["accuracy"] == pytest.approx(np.r_[bag[23:], ball[10:]].mean())
    assert score("vot", sequences, tmp_path / "results", interval=(100, 356)).overall["eao"] is None


def test_eao_of_runs_of_perfect_overlap():
    perfect = np.ones(10)
    assert eao_curve([(perfect, False)])[1:] == pytest.approx(np.ones(9))
    assert eao_curve([(perfect, False), (perfect[:5], True)])[9] == pytest.approx((1 + 4 / 9) / 2)
    assert eao_curve([(perfect, False), (perfect[:5], False)])[9] == pytest.approx(1)  # the short one stops to count


def test_lasot_counts_absent_frames_as_misses(tmp_path):
    root = MAKE["lasot"](tmp_path / "data")
    boxes = noisy(1, one_based(TRUTH))
    write_rows(tmp_path / "results" / "car-1.txt", boxes)
    scores = score("lasot", open_made("lasot", root), tmp_path / "results")
    boxes[0] = one_based(TRUTH)[0]
    hits, truth = np.ones(FRAMES, bool), one_based(TRUTH)
    hits[4:7] = False
    centers = [b[:, :2] + (b[:, 2:] - 1) / 2 for b in (boxes, truth)]
    shift = centers[0] - centers[1]
    assert scores.overall["precision"] == np.mean(hits & (np.hypot(*shift.T) <= 20))
    assert scores.overall["normalized_precision"] == np.mean(hits & (np.hypot(*(shift / truth[:, 2:]).T) <= 0.2))
    expected = [np.mean(hits & (iou(boxes, truth) > step / 20)) for step in range(21)]
    assert scores.curves["success"].values == pytest.approx(expected, abs=1e-12)
    assert scores.attributes["full_occlusion"]["success"] == pytest.approx(np.mean(expected))
    assert list(scores.attributes) == ["full_occlusion"]


def test_attributes_of_lasot_are_those_of_its_toolkit(tmp_path):
    root = MAKE["lasot"](tmp_path / "data")
    write_rows(tmp_path / "results" / "car-1.txt", one_based(TRUTH))
    for place in (root, root / "car"):
        (place / "att").mkdir()
        (place / "att" / "car-1.txt").write_text("0,1,0,0,0,1,0,0,1,0,0,0,1,0\n")
        scores = score("lasot", open_dataset("lasot", place), tmp_path / "results")
        assert list(scores.attributes) == ["LR", "POC", "ROT", "SV"]
        (place / "att" / "car-1.txt").write_text("0,many\n")
        with pytest.raises(ValueError, match=r"att/car-1.txt: file must hold a number per frame, got .*'many'"):
            score("lasot", open_dataset("lasot", place), tmp_path / "results")
        (place / "att" / "car-1.txt").unlink()
        (place / "att").rmdir()


def test_attributes_of_got10k(tmp_path):
    root = MAKE["got10k"](tmp_path / "data")
    names = ("GOT-10k_Val_000001", "GOT-10k_Val_000002")
    for name, kind in zip(names, ("animal", "vehicle"), strict=True):
        with (root / "val" / name / "meta_info.ini").open("a") as meta:
            meta.write(f"root_class: {kind}\nmotion_class: walking\nmotion_adverb: quickly\n")
        write_rows(tmp_path / "results" / name / f"{name}_001.txt", noisy(len(kind), one_based(TRUTH)))
    folder = root / "val" / names[0]
    (folder / "cut_by_image.label").write_text("\n".join(str(int(20 <= i < 26)) for i in range(FRAMES)) + "\n")
    (folder / "cover.label").write_text("\n".join(["8"] * 10 + ["3", "0", "7"] + ["8"] * 17) + "\n")
    scores = score("got10k", open_made("got10k", root), tmp_path / "results")
    found = scores.attributes
    assert list(found) == ["cut_by_image", "motion: walking", "occluded", "root: animal", "root: vehicle"]
    assert {name: row["frames"] for name, row in found.items()} == {
        "cut_by_image": 6, "motion: walking": 28 + 26, "occluded": 2, "root: animal": 28, "root: vehicle": 26,
    }  # fmt: skip
    assert found["root: animal"]["ao"] == scores.sequences[names[0]]["ao"]
    assert found["motion: walking"]["ao"] == pytest.approx(scores.overall["ao"])
    overlaps = iou(noisy(len("animal"), one_based(TRUTH)), one_based(TRUTH))  # all in the image: nothing is cut
    assert found["occluded"]["ao"] == pytest.approx(overlaps[[10, 12]].mean(), abs=1e-3)


def test_binary_results_of_the_vot_toolkit(tmp_path):
    root, folder = MAKE["vot"](tmp_path / "data"), tmp_path / "results/baseline/bag"
    folder.mkdir(parents=True)
    (folder / "bag_001.bin").write_bytes(b"\0")
    with pytest.raises(
        FileNotFoundError, match="result of bag must be text, got a .bin file: set VOT_RESULTS_BINARY=0"
    ):
        score("vot", open_made("vot", root), tmp_path / "results")


def test_absent_frames_of_a_folder_do_not_count(tmp_path):
    root = MAKE["folder"](tmp_path / "data")
    truth = one_based(TRUTH)
    truth[4:9, 2:] = 0
    write_rows(root / "mine" / "groundtruth.txt", truth)
    write_rows(tmp_path / "results" / "mine.txt", one_based(TRUTH))
    row = score("folder", open_made("folder", root), tmp_path / "results").overall
    assert row["frames"] == FRAMES - 5 and row["success"] == pytest.approx(20 / 21) and row["precision"] == 1


def test_attributes_of_otb_are_means_over_their_sequences(tmp_path):
    root = MAKE["otb"](tmp_path / "OTB")
    for seed, name in enumerate(("Car4", "Deer")):
        write_rows(tmp_path / "results" / f"{name}.txt", noisy(seed, one_based(TRUTH)))
    scores = score("otb", open_made("otb", root), tmp_path / "results")
    car, deer = scores.sequences["Car4"]["success"], scores.sequences["Deer"]["success"]
    assert scores.attributes["IV"]["success"] == car and scores.attributes["IV"]["sequences"] == 1
    assert scores.attributes["SV"]["success"] == pytest.approx((car + deer) / 2)
    for path in root.rglob("attrs.txt"):
        path.unlink()
    assert score("otb", open_made("otb", root), tmp_path / "results").attributes == {}


def test_got10k_without_its_labels(tmp_path):
    root = MAKE["got10k"](tmp_path / "data")
    folder = tmp_path / "results"
    for name in ("GOT-10k_Val_000001", "GOT-10k_Val_000002"):
        write_rows(folder / name / f"{name}_001.txt", noisy(0, one_based(TRUTH)))
    before = score("got10k", open_made("got10k", root), folder).overall
    for path in [*root.rglob("cover.label"), *root.rglob("meta_info.ini")]:
        path.unlink()  # absence.label says the same here, and the images are of the same size
    assert score("got10k", open_made("got10k", root), folder).overall == before


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", list(MAKE))
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "", r":1: file must hold at least one box, got none"),
        (lambda text: text.replace("\n", "\none,two,3,4\n", 1), r":2: line must be .*got 'one,two,3,4'"),
        (lambda text: text + "1,2,3,4\n", rf": file must hold one line per frame \({FRAMES}\), got {FRAMES + 1}"),
        (lambda text: text.replace("\n", "\n1,2,nan,4\n", 1), r":2: line must be .*got '1,2,nan,4'"),
        (None, r": result of .* must be an existing file"),
    ],
    ids=["empty", "malformed", "longer", "nan", "missing"],
)
def test_bad_result_files_are_named(tmp_path, layout, spoil, message):
    sequences = open_made(layout, MAKE[layout](tmp_path / "data"))
    for sequence in sequences:
        path = result_path(layout, tmp_path / "results", sequence.name)
        write_rows(path, one_based(TRUTH))
        if layout == "vot":
            path.write_text("1\n" + path.read_text().partition("\n")[2])
    first = result_path(layout, tmp_path / "results", sequences[0].name)
    score(layout, sequences, tmp_path / "results")
    first.unlink() if spoil is None else first.write_text(spoil(first.read_text()))
    with pytest.raises((ValueError, FileNotFoundError), match=f"{first.name}{message}"):
        score(layout, sequences, tmp_path / "results")


def test_regions_of_vot_results(tmp_path):
    path = tmp_path / "bag_001.txt"
    path.write_text("1\n1,2,3,4\n0\n0,0,1,0,1,1,0,1\n2\n")
    regions = read_regions(path, 5)
    assert regions[[0, 2, 4], 0].tolist() == [1, 0, 2] and np.isnan(regions[[0, 2, 4], 1:]).all()
    assert regions[[1, 3]].tolist() == [[1, 2, 4, 2, 4, 6, 1, 6], [0, 0, 1, 0, 1, 1, 0, 1]]
    for line in ("3", "1,2,3", "1,2,3,4,5,6"):
        path.write_text(f"1\n{line}\n")
        with pytest.raises(ValueError, match=rf"bag_001.txt:2: line must be 0, 1, 2, a box .*got '{line}'"):
            read_regions(path, 2)


def test_a_vot_result_begins_with_a_start(tmp_path):
    sequences = open_made("vot", MAKE["vot"](tmp_path / "data"))
    for sequence in sequences:
        write_rows(result_path("vot", tmp_path, sequence.name), TRUTH)
    with pytest.raises(ValueError, match="bag_001.txt:1: line must be 1, the start of the tracker"):
        score("vot", sequences, tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("bag/groundtruth.txt", "1,2,3,4,5,6\n" * FRAMES, "groundtruth.txt:1: line must be a box .* or four corners"),
        ("bag/occlusion.tag", "yes\n", "occlusion.tag: file must hold a number per frame"),
        ("bag/occlusion.tag", "1\n" * 99, rf"occlusion.tag: file must hold at most one .*\({FRAMES}\), got 99"),
    ],
)
def test_bad_annotations_are_named(tmp_path, file, text, message):
    root = MAKE["vot"](tmp_path / "data")
    (root / file).write_text(text)
    sequences = open_made("vot", root)
    for sequence in sequences:
        write_regions(result_path("vot", tmp_path, sequence.name), [[1], *TRUTH[1:]])
    with pytest.raises(ValueError, match=message):
        score("vot", sequences, tmp_path)


def test_a_folder_takes_results_of_one_setting(tmp_path):
    claim = partial(claim_folder, tmp_path / "net")
    claim({"dtype": "float32", "config": {"scale_num": 3}})
    claim({"dtype": "float32", "config": {"scale_num": 3}})
    with pytest.raises(ValueError, match="of the same settings, got dtype auto, but they were made with float32: give"):
        claim({"dtype": "auto", "config": {"scale_num": 3}})
    (tmp_path / "net" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings.json: file must be the settings of a run"):
        claim({})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "Deer.txt").touch()
    with pytest.raises(ValueError, match="other must hold results of this command, got results without settings.json"):
        claim_folder(tmp_path / "other", {})


@pytest.mark.parametrize(
    ("name", "file"), [("Jogging.1", "Jogging-1"), ("Jogging.1", "jogging_1"), ("Human4", "Human4-2")]
)
def test_results_of_targets_named_otherwise(tmp_path, name, file):
    write_rows(tmp_path / f"{file}.txt", one_based(TRUTH))
    write_rows(tmp_path / "Jogging-10.txt", one_based(TRUTH))
    assert find_results("otb", tmp_path, name) == [tmp_path / f"{file}.txt"]
    with pytest.raises(FileNotFoundError, match="Jogging.2.txt: result of Jogging.2 must be an existing file"):
        find_results("otb", tmp_path, "Jogging.2")


def test_a_tracker_that_reports_no_target_misses(tmp_path):
    root = MAKE["got10k"](tmp_path / "data")
    sequences = open_made("got10k", root)
    for sequence in sequences:
        boxes = one_based(TRUTH).copy()
        boxes[12] = np.nan
        write_rows(result_path("got10k", tmp_path / "net", sequence.name), boxes)
    assert 0.9 < score("got10k", sequences, tmp_path / "net").overall["ao"] < 1
