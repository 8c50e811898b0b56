"""The tracker behind the interfaces of the got10k and VOT toolkits: their own code runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support.eval_data import FRAMES, MAKE, TRUTH, one_based
from tests.support.paths import ROOT
from tracker import SiamFC, Tracker
from tracker.data.datasets import open_dataset
from tracker.eval.runner import track_once, track_supervised
from tracker.integrations import vot as vot_integration
from tracker.network.checkpoint import save_state

os.environ.setdefault("MPLBACKEND", "Agg")  # the got10k toolkit imports pyplot

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    torch.manual_seed(0)
    return Tracker(SiamFC("mish", "se", width=0.125, ops="reference"), backend="eager")


# ---- got10k ----------------------------------------------------------------------------------------------------


@pytest.fixture
def toolkit():
    return pytest.importorskip("got10k.experiments", reason="needs the got10k toolkit, in the extra dev")


def test_got10k_runs_the_tracker(tmp_path, toolkit, tracker):
    from tracker.integrations.got10k import Got10kTracker

    root = MAKE["got10k"](tmp_path / "data")
    out = {"result_dir": str(tmp_path / "results"), "report_dir": str(tmp_path / "reports")}
    toolkit.ExperimentGOT10k(str(root), "val", **out).run(Got10kTracker(tracker, "ours"))
    for sequence in open_dataset("got10k", root, "val"):
        boxes, _ = track_once(tracker, sequence, FRAMES)
        path = tmp_path / "results/GOT-10k/ours" / sequence.name / f"{sequence.name}_001.txt"
        assert np.loadtxt(path, delimiter=",") == pytest.approx(one_based(np.array(boxes)), abs=6e-4)


def test_got10k_runs_the_tracker_on_otb(tmp_path, monkeypatch, toolkit, tracker):
    from got10k.datasets import OTB

    from tracker.integrations.got10k import Got10kTracker

    root = MAKE["otb"](tmp_path / "OTB", 8)
    monkeypatch.setattr("got10k.experiments.otb.OTB", lambda *a, download: OTB(*a, download=False))
    experiment = toolkit.ExperimentOTB(str(root), "tb100", str(tmp_path / "results"), str(tmp_path / "reports"))
    experiment.run(Got10kTracker(tracker))
    for sequence in open_dataset("otb", root):
        boxes, _ = track_once(tracker, sequence, 8)
        path = tmp_path / "results/OTBtb100/SiamFC" / f"{sequence.name}.txt"
        assert np.loadtxt(path, delimiter=",") == pytest.approx(one_based(np.array(boxes)), abs=6e-4)


def test_got10k_runs_the_tracker_on_vot(tmp_path, monkeypatch, toolkit, tracker):
    """The toolkit's supervised loop gives what `tracker eval vot` gives, starts and failures included."""
    from tracker.integrations.got10k import Got10kTracker

    monkeypatch.setattr(np, "NaN", np.nan, raising=False)  # which the toolkit uses and NumPy 2 no longer has
    root = MAKE["vot"](tmp_path / "data")
    out = {"result_dir": str(tmp_path / "results"), "report_dir": str(tmp_path / "reports")}
    ours = Got10kTracker(tracker, one_based=False)
    real = tracker.update
    calls = []

    def straying(image):
        calls.append(image)
        result = real(image)
        return type(result)(result.box + (500 if len(calls) % 9 == 0 else 0), result.score, result.lost)

    monkeypatch.setattr(tracker, "update", straying)
    toolkit.ExperimentVOT(str(root), 2018, experiments="supervised", **out).run(ours)
    calls.clear()
    for sequence in open_dataset("vot", root):
        rows, _ = track_supervised(tracker, sequence)
        path = tmp_path / "results/VOT2018/SiamFC/baseline" / sequence.name / f"{sequence.name}_001.txt"
        theirs = [[float(field) for field in line.split(",")] for line in path.read_text().splitlines()]
        assert [len(row) for row in theirs] == [len(row) for row in rows]
        assert [2.0] in theirs and theirs.count([1.0]) > 1
        for mine, their in zip(rows, theirs, strict=True):
            assert np.asarray(mine) == pytest.approx(their, abs=6e-5)


def test_without_the_got10k_toolkit_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "got10k.trackers", None)
    monkeypatch.delitem(sys.modules, "tracker.integrations.got10k", raising=False)
    with pytest.raises(ImportError, match=r"needs the toolkit, pip install "):
        import tracker.integrations.got10k  # noqa: F401


# ---- VOT -------------------------------------------------------------------------------------------------------


class Script:
    """A toolkit that asks for these frames and keeps the answers."""

    def __init__(self, requests) -> None:
        self._requests, self.replies = requests, []

    def requests(self):
        yield from self._requests

    def reply(self, box, score) -> None:
        self.replies.append((np.array(box), score))


def test_requests_of_the_vot_toolkit_are_answered(tmp_path, tracker):
    sequence = open_dataset("folder", MAKE["folder"](tmp_path))[0]
    starts = {0: TRUTH[0], 5: TRUTH[5]}
    script = Script([(sequence.frames[index], starts.get(index)) for index in range(8)])
    vot_integration.follow(tracker, script)
    assert len(script.replies) == 8
    for index, box in starts.items():
        assert np.array_equal(script.replies[index][0], box) and script.replies[index][1] == 1
    tracker.init(sequence.image(5), TRUTH[5])
    for index in (6, 7):
        result = tracker.update(sequence.image(index))
        assert np.array_equal(script.replies[index][0], result.box) and script.replies[index][1] == result.score
    with pytest.raises(ValueError, match="the first request must have a region, got a frame alone"):
        vot_integration.follow(tracker, Script([(sequence.frames[0], None)]))


@pytest.mark.slow
def test_a_trax_client_drives_the_tracker(tmp_path):
    """The VOT toolkit wants another build of OpenCV than this package; its side is played by the client it uses."""
    trax = pytest.importorskip("trax", reason="needs vot-trax, in the extra dev")
    from trax.client import Client

    torch.manual_seed(0)
    weights = tmp_path / "net.safetensors"
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), weights)
    sequence = open_dataset("folder", MAKE["folder"](tmp_path / "data"))[0]
    command = [sys.executable, "-m", "tracker.integrations.vot", "--weights", str(weights)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        stream = child.stdin.fileno(), child.stdout.fileno()
        client = Client(stream, log=lambda text: None)  # without a log it cannot be made
        assert client.tracker_name == "SiamFC" and client.region_formats == [trax.Region.RECTANGLE]

        def image(index):
            return {"color": trax.FileImage.create(str(sequence.frames[index]))}

        replies = [client.initialize(image(0), [(trax.Rectangle.create(*TRUTH[0]), {})], {})]
        replies += [client.frame(image(index), {}, []) for index in range(1, 6)]
        client.quit()
    finally:
        child.stdin.close()
        child.stdout.close()
        assert child.wait(timeout=60) == 0
    tracker = Tracker.from_pretrained(weights)
    tracker.init(sequence.image(0), np.float32(TRUTH[0]))
    for index, (objects, _) in enumerate(replies):
        (region, properties), box = objects[0], TRUTH[0]
        if index:
            result = tracker.update(sequence.image(index))
            box = result.box
            assert float(properties["confidence"]) == pytest.approx(result.score, abs=1e-5)
        assert region.bounds() == pytest.approx(box, abs=1e-2)


def test_without_trax_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "trax", None)
    with pytest.raises(ImportError, match=r"needs TraX, pip install "):
        vot_integration.TraxConnection()
