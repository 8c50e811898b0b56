"""Bad input to any command: one line on stderr that says what is wrong, exit code 2, and no file left behind."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest
import torch

import tracker.io.draw as draw
from tests.support.commands import BOX, VIDEO, assert_one_line, make_sequence, make_weights, run
from tracker import SiamFC
from tracker.data.otb import read_boxes
from tracker.io.draw import VideoWriter
from tracker.network.checkpoint import save_state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with one of everything that cannot be used, and what is needed beside it."""
    folder = tmp_path_factory.mktemp("input")
    make_weights(folder)
    save_state(SiamFC(width=0.125, head="box", ops="reference"), folder / "box.safetensors")
    make_sequence(folder / "otb")
    for name in ("whole.avi", "whole.mp4"):
        with VideoWriter(folder / name, VIDEO.size) as video:
            for image in VIDEO.images():
                video.write(image)
        data = (folder / name).read_bytes()
        (folder / f"half{name[5:]}").write_bytes(data[: len(data) // 2])
    for name, codec in (("none.avi", "MJPG"), ("none.mp4", "mp4v")):
        cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*codec), 30, VIDEO.size).release()
    (folder / "empty.mp4").touch()
    for name, suffix in (("texts", "txt"), ("lies", "jpg")):
        (folder / name).mkdir()
        for index in range(3):
            (folder / name / f"{index}.{suffix}").write_text("no image")
    (folder / "text").write_text("neither a video nor weights")
    return folder


TRACK = ("track", "--weights", "net.safetensors", "--backend", "eager", "--results", "boxes.txt", "-o", "out.avi")
BENCH = ("bench", "--weights", "net.safetensors", "--frames", 3, "--source")
PREPARE = ("prepare", "-o", "all.crops", "--dataset")
EXPORT = ("export", "--format", "torch", "-o", "net.pt2")
TRAIN = ("train", "-o", "run")
NO_VIDEO = "must be a video that can be decoded"

NO_WEIGHTS = "--weights must be an existing file, siamfc-relu, siamfc-mish-se, siamfc-box, siamfc-box-small, got "
BAD = [
    # sources
    ((*TRACK, "nowhere.mp4", "--box", BOX), "must be an existing file, folder, pattern or camera, got 'nowhere.mp4'"),
    ((*TRACK, "half.mp4", "--box", BOX), f"'half.mp4' {NO_VIDEO}"),
    ((*TRACK, "none.mp4", "--box", BOX), f"'none.mp4' {NO_VIDEO}"),
    ((*TRACK, "empty.mp4", "--box", BOX), f"'empty.mp4' {NO_VIDEO}"),
    ((*TRACK, "none.avi", "--box", BOX), "source must hold at least one frame, got none in none.avi"),
    ((*TRACK, "text", "--box", BOX), "source must be a video or an image, got the text file 'text'"),
    ((*TRACK, "texts", "--box", BOX), "source must be a folder that holds images, got none in 'texts'"),
    ((*TRACK, "texts/*.txt", "--box", BOX), "source must be a pattern that matches images, got 'texts/\\*.txt'"),
    ((*TRACK, "lies", "--box", BOX), "'lies/0.jpg' must be an image that can be decoded"),
    ((*TRACK, "camera:97", "--box", BOX), "camera 97 must be connected and free, it could not be opened"),
    ((*BENCH, "nowhere", "--box", BOX), "must be an existing file, folder, pattern or camera, got 'nowhere'"),
    ((*BENCH, "half.avi", "--frames", 12, "--box", BOX), "'half.avi' must hold 12 frames as its header says, got "),
    ((*BENCH, "texts", "--box", BOX), "source must be a folder that holds images, got none in 'texts'"),
    ((*BENCH, "otb/Synthetic/img/0001.png", "--box", BOX), "images must be at least two, .* got fewer"),
    # boxes
    ((*TRACK, "whole.avi", "--box", "1,2,nan,4"), "--box must be four numbers x,y,w,h .* got '1,2,nan,4'"),
    ((*TRACK, "whole.avi", "--box", "inf,2,3,4"), "--box must be four numbers x,y,w,h .* got 'inf,2,3,4'"),
    ((*TRACK, "whole.avi", "--box", "160,0,9,9"), "box must overlap the image of 160 x 120 px, got 160, 0, 9, 9"),
    ((*TRACK, "whole.avi", "--box", "-9,0,9,9"), "box must overlap the image of 160 x 120 px, got -9, 0, 9, 9"),
    ((*BENCH, "whole.avi", "--box", "nan,2,3,4"), "--box must be four numbers x,y,w,h .* got 'nan,2,3,4'"),
    ((*BENCH, "whole.avi", "--box", "0,500,9,9"), "box must overlap the image of 160 x 120 px, got 0, 500, 9, 9"),
    (("bench", "--box", BOX), "--box must come with --source"),
    # data sets
    ((*PREPARE, "otb:nowhere"), "--dataset otb:nowhere: root must be an existing folder, got nowhere"),
    ((*PREPARE, "got10k:otb:train"), "--dataset got10k:otb:train: otb/train must be an existing folder"),
    ((*PREPARE, "vot:otb"), "--dataset vot:otb: otb/Synthetic/groundtruth.txt: No such file or directory"),
    ((*PREPARE, "lasot:otb"), "--dataset lasot:otb: root must hold lasot sequences, got none in otb"),
    ((*PREPARE, "trackingnet:otb"), "root must hold trackingnet sequences, got none in otb"),
    ((*PREPARE, "imagenet-vid:otb"), "root must hold imagenet-vid sequences, got none in otb"),
    ((*PREPARE, "folder:texts"), "root must hold folder sequences, got none in texts"),
    ((*PREPARE, "otb:text"), "root must be an existing folder, got text"),
    ((*TRAIN, "--set", 'data.sequences=["otb:texts"]'), "root must hold otb sequences, got none in texts"),
    ((*TRAIN, "--set", 'data.archives=["nowhere.crops"]'), "nowhere.crops: No such file or directory"),
    (
        (*TRAIN, "--set", 'data.archives=["text"]'),
        "text: file must be an archive of `tracker prepare`, got another file",
    ),
    ((*TRAIN, "--config", "nowhere.toml"), "nowhere.toml: No such file or directory"),
    ((*TRAIN, "--config", "text"), "error: text must be TOML"),
    # weights
    ((*EXPORT, "--weights", "nowhere.pth"), NO_WEIGHTS + ".nowhere.pth"),
    ((*EXPORT, "--weights", "texts"), NO_WEIGHTS + ".texts"),
    ((*EXPORT, "--weights", "text"), "error: --weights: path must be a file of plain weights, got text"),
    ((*EXPORT, "--weights", "box.safetensors"), "error: model must have the score-map head, got head 'box'"),
    (("bench", "--weights", "nowhere.pth"), NO_WEIGHTS + ".nowhere.pth"),
    (("bench", "--activation", "relu"), "--activation must come with --weights"),
    # outputs
    ((*PREPARE, "otb:otb", "-o", "otb"), "--output must be a file, got the folder 'otb'"),
    ((*PREPARE, "otb:otb", "-o", "no/a.crops"), "--output must lie in an existing folder, got 'no/a.crops'"),
    (
        (*PREPARE, "otb:otb", "-o", "otb/Synthetic/groundtruth_rect.txt"),
        "otb/Synthetic/groundtruth_rect.txt: file must be an archive of `tracker prepare`, got another file",
    ),
    ((*PREPARE, "otb:otb", "-o", "otb/Synthetic/img/0001.png"), "file must be an archive of `tracker prepare`"),
    ((*EXPORT, "--weights", "net.safetensors", "-o", "no/net.pt2"), "--output must lie in an existing folder"),
    (("demo", "--quick", "-o", "text"), r"--output must be a folder, or be made one, got 'text' \(File exists\)"),
    (("demo", "--quick", "-o", "text/x"), r"--output must be a folder, .* got 'text/x' \(Not a directory\)"),
    (("experiment", "box-loss", "--quick", "-o", "text"), "--output must be a folder, or be made one, got 'text'"),
    (("train", "--set", "steps=1", "-o", "text"), "--output must be a folder, or be made one, got 'text'"),
]


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_line_and_leaves_nothing(capsys, monkeypatch, place, arguments, message):
    monkeypatch.chdir(place)
    before = contents(place)
    assert_one_line(run(capsys, *arguments), message)
    assert contents(place) == before


def test_a_video_that_breaks_off_keeps_what_was_tracked(capsys, monkeypatch, place, tmp_path):
    """Half of a Motion JPEG file: its header promises more."""
    monkeypatch.chdir(place)
    results, output = tmp_path / "boxes.txt", tmp_path / "out.avi"
    arguments = ("--box", BOX, "--weights", "net.safetensors", "--backend", "eager", "-q")
    result = run(capsys, "track", "half.avi", *arguments, "--results", results, "-o", output)
    assert_one_line(result, r"'half.avi' must hold 12 frames .* got (\d) \(the \1 frames before it are kept\)")
    count = int(re.search(r"got (\d)", result[2])[1])
    capture = cv2.VideoCapture(str(output))
    assert len(read_boxes(results)) == count == capture.get(cv2.CAP_PROP_FRAME_COUNT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "out.avi"]


@pytest.mark.parametrize(
    "arguments",
    [
        (*TRACK, "whole.avi", "--box", BOX),
        (*PREPARE, "otb:otb"),
        (*EXPORT, "--weights", "net.safetensors"),
        ("demo", "--quick", "-o", "texts"),
        ("experiment", "box-loss", "--quick", "-o", "texts"),
        ("train", "--set", "steps=1", "-o", "texts"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_written_is_found_before_the_work(capsys, monkeypatch, place, arguments):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(place)
    monkeypatch.setattr(draw.tempfile, "TemporaryFile", refuse)
    before = contents(place)
    message = r"--(output|results) must (?:lie in|be) a folder that can be written, got '.*' \(Permission denied\)"
    assert_one_line(run(capsys, *arguments), message)
    assert contents(place) == before


def test_an_export_never_replaces_its_weights(capsys, monkeypatch, tmp_path):
    """A name that the export would give one of its files."""
    weights = tmp_path / "net.pth"
    torch.save(SiamFC(width=0.125, ops="reference").state_dict(), weights)
    (tmp_path / "net.exemplar.pt2").symlink_to(weights)
    arguments = ("export", "--format", "torch", "--weights", weights, "-o", tmp_path / "net.pt2")
    assert_one_line(run(capsys, *arguments), "--output must be a file of its own, got .*net.exemplar.pt2")


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("train", "--output", ""), "--output"),
        (("train", "--output="), "--output"),
        (("track", ""), "an argument"),
        (("track", "whole.avi", "--weights", ""), "--weights"),
        (("eval", "otb", "--root", ""), "--root"),
        (("train", "--output", "run", "--set", "lr="), "lr"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(capsys, place, monkeypatch, arguments, name):
    monkeypatch.chdir(place)
    before = set(place.rglob("*"))
    assert_one_line(run(capsys, *arguments), f"error: {name} must not be empty$")
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments, name",
    [
        (("track", "whole.avi", "--box", BOX, "--max-frames", 10**20), "--max-frames"),
        (("track", 2**63, "--box", BOX), "an argument"),
        (("track", "whole.avi", "--box", BOX, f"--max-frames={2**63}"), "--max-frames"),
        (("train", "--output", "run", "--set", f"data.synthetic={10**20}"), "data.synthetic"),
        (("train", "--output", "run", "--set", f"seed=-{10**20}"), "seed"),
        (("experiment", "simulation", "--quick", "--seeds", f"0,{10**20}", "-o", "out"), "--seeds"),
        (("bench", "--frames", "9" * 5000), "--frames"),
    ],
)
def test_numbers_beyond_64_bits_are_one_line(capsys, place, monkeypatch, arguments, name):
    monkeypatch.chdir(place)
    before = set(place.rglob("*"))
    assert_one_line(run(capsys, *arguments), f"error: {name} must have whole numbers of at most {2**63 - 1}, got '")
    assert set(place.rglob("*")) == before


def test_the_largest_numbers_are_numbers(capsys, place, monkeypatch):
    monkeypatch.chdir(place)
    code, _, _ = run(capsys, *TRACK, "whole.avi", "--box", BOX, "--max-frames", 2**63 - 1, "--quiet")
    assert code == 0 and len(read_boxes("boxes.txt")) == len(list(VIDEO.images()))
    for name in ("boxes.txt", "out.avi"):
        Path(name).unlink()
