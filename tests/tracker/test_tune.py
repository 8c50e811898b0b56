"""The search over the tracker's settings: trials track as trackers alone do, resume, and say what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.support.commands import assert_one_line, make_weights, run
from tests.support.eval_data import TRUTH, otb
from tracker import SiamFC, Tracker
from tracker.config import TrackerConfig, parse_settings
from tracker.data.datasets import open_places
from tracker.eval.ope import score_boxes
from tracker.eval.tune import RANGES, SharedNetwork, draw, follow, lost_rates, make_network

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return f"otb:{otb(tmp_path_factory.mktemp('data') / 'otb', frames=8)}"


@pytest.mark.parametrize("head", RANGES)
def test_trials_track_as_trackers_alone(place, head):
    torch.manual_seed(0)
    model = SiamFC("mish", "se", head=head, width=0.125).eval()
    (sequence,) = open_places([place], ["Deer"], frames=6)
    assert len(sequence) == 6
    configs = [draw(number, 1, TrackerConfig(), RANGES[head]) for number in (0, 1, 2, 0)]
    network = make_network(model)
    boxes, scores = follow(network, configs, sequence)
    for config, found, own in zip(configs, boxes, scores, strict=True):
        tracker = Tracker(model, config=config)
        tracker.init(sequence.image(0), sequence.boxes[0])
        results = [tracker.update(sequence.image(index)) for index in range(1, 6)]
        np.testing.assert_allclose(found[1:], [result.box for result in results], rtol=1e-5)
        np.testing.assert_allclose(own[1:], [result.score for result in results], rtol=1e-4)
    assert isinstance(network, SharedNetwork)
    crops = 1 if head == "box" else 3
    # The exemplar, the first frame and its successors, for the first trial; nothing for the last, its double.
    assert 1 + 6 * crops <= network.computed <= network.asked * 3 / 4


def test_draws_depend_on_seed_and_number_alone():
    first = [draw(number, 0, TrackerConfig(), RANGES["box"]) for number in range(20)]
    assert first[0] == TrackerConfig() and len(set(first)) == 20
    assert first[7] == draw(7, 0, TrackerConfig(), RANGES["box"]) != draw(7, 1, TrackerConfig(), RANGES["box"])
    for config in first[1:]:
        assert all(low <= getattr(config, name) <= high for name, (low, high) in RANGES["box"].items())
    assert parse_settings(["scale_num=1", "box_lr=0.5"]) == {"scale_num": 1, "box_lr": 0.5}


def test_scores_are_those_of_the_protocol(place):
    (sequence,) = open_places([place], ["Deer"])
    perfect = score_boxes("otb", sequence, sequence.boxes)
    assert perfect["success"] == pytest.approx(20 / 21) and perfect["precision"] == 1
    off = score_boxes("otb", sequence, sequence.boxes + (30, 0, 0, 0))
    assert off["precision"] == 1 / len(sequence)  # the first frame has the true box


def test_lost_rates_count_misses_in_a_row():
    overlaps = np.array([0.9, 0.9, 0.2, 0.0, 0.0, np.nan, 0.0, 0.8])
    scores = np.array([0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    (one, two, three, never) = lost_rates([(overlaps, scores)], [0.5, 0.05], [1, 2])
    assert (one["true_rate"], one["false_rate"]) == (1.0, pytest.approx(2 / 3))
    assert (two["true_rate"], two["false_rate"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert (three["true_rate"], never["false_rate"]) == (0.0, 0.0)
    # Misses do not go on from one sequence into the next.
    (apart,) = lost_rates([(np.zeros(1), np.zeros(1)), (np.zeros(1), np.zeros(1))], [0.5], [2])
    assert (apart["true_rate"], apart["false_rate"]) == (0.0, None)


def test_a_search_goes_on_where_it_was_stopped(capsys, tmp_path, place):
    weights, output = make_weights(tmp_path), tmp_path / "tune.jsonl"
    arguments = ["tune", "--data", place, "--weights", weights, "--frames", 4, "-o", output, "--json", "--trials"]
    code, out, err = run(capsys, *arguments, 3)
    result = json.loads(out)
    assert (code, err) == (0, "") and len(result["trials"]) == 3
    assert result["best"] == max(result["trials"], key=lambda row: row["success"])
    assert result["default"]["settings"]["scale_lr"] == TrackerConfig().scale_lr
    lines = output.read_text().splitlines()
    assert len(lines) == 1 + 3 * 2  # what is searched, then trials x sequences
    rows = [json.loads(line) for line in lines[1:]]
    own = [row["success"] for row in rows if row["trial"] == result["best"]["trial"]]
    assert result["best"]["success"] == pytest.approx(np.mean(own))
    # A row that was cut off is tracked again, more trials come behind.
    changed = [json.dumps(rows[0] | {"success": 2.0}), *lines[2:-1], lines[-1][:20]]
    output.write_text("\n".join([lines[0], *changed]))
    code, out, _ = run(capsys, *arguments, 4)
    again = [json.loads(line) for line in output.read_text().splitlines()[1:]]
    assert code == 0 and len(again) == 4 * 2 and again[0]["success"] == 2.0 and rows[5] in again
    assert len(json.loads(out)["trials"]) == 4
    assert_one_line(run(capsys, *arguments, 3, "--seed", 1), r"output must be .* of the same search, got .*\(seed\)")


def test_rates_of_lost_are_printed(capsys, tmp_path, place):
    arguments = ["tune", "--data", place, "--only", "Deer", "--weights", make_weights(tmp_path), "--lost"]
    code, out, err = run(capsys, *arguments, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "") and result["sure_frames"] + result["bad_frames"] <= len(TRUTH)
    assert {"lost_score", "lost_frames", "true_rate", "false_rate"} == set(result["rates"][0])
    assert "lost in bad frames" in run(capsys, *arguments)[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "Nobody"], "--only must name sequences of --data, got Nobody"),
        (["--range", "scale_lr=1"], "--range must be NAME=LOW:HIGH, got 'scale_lr=1'"),
        (["--range", "scale_lr=0.2:1.5"], "scale_lr must be between 0 and 1, got 1.5"),
        (["--range", "scale_num=1:3"], "range must be of one of .*, got 'scale_num'"),
        (["--range", "scale_lr=0.5:0.2"], "range of scale_lr must be LOW:HIGH with LOW <= HIGH, got 0.5:0.2"),
        (["--set", "box_lr"], "settings must be KEY=VALUE with a number as the value, got 'box_lr'"),
    ],
)
def test_mistakes_are_named(capsys, tmp_path, place, more, message):
    arguments = ["tune", "--data", place, "--weights", make_weights(tmp_path), "-o", tmp_path / "no.jsonl"]
    assert_one_line(run(capsys, *arguments, *more), message)
    assert not (tmp_path / "no.jsonl").exists()
