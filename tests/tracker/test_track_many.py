"""`tracker track` with several sources, alone and shared by processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from tracker import SiamFC
from tracker.cli import main
from tracker.data.otb import read_boxes
from tracker.data.synthetic import SyntheticVideo
from tracker.network.checkpoint import save_state

FRAMES = 4


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[list[str], str]:
    """Three sequence folders, and weights."""
    root, sources = tmp_path_factory.mktemp("many"), []
    for seed in range(3):
        video = SyntheticVideo(seed, FRAMES, (160, 120))
        images = root / f"video{seed}" / "img"
        images.mkdir(parents=True)
        for index in range(FRAMES):
            cv2.imwrite(str(images / f"{index:04d}.png"), video.image(index)[:, :, ::-1])
        lines = (",".join(f"{value:.3f}" for value in box + (1, 1, 0, 0)) for box in video.boxes)
        (images.parent / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")
        sources.append(str(images.parent))
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), root / "net.safetensors")
    return sources, str(root / "net.safetensors")


def run(capsys, sources, weights, *more):
    code = main(["track", *sources, "--weights", weights, "--backend", "eager", *map(str, more)])
    return code, *capsys.readouterr()


def test_each_source_has_its_summary_and_its_files(capsys, tmp_path, places):
    code, out, err = run(capsys, *places, "--json", "-o", tmp_path / "videos", "--results", tmp_path / "boxes")
    assert (code, err) == (0, "")
    summaries = [json.loads(line) for line in out.splitlines()]
    assert [summary["source"] for summary in summaries] == places[0]
    assert all(summary["frames"] == FRAMES and summary["mean_overlap"] > 0 for summary in summaries)
    for name in ("video0", "video1", "video2"):
        assert len(read_boxes(tmp_path / "boxes" / f"{name}.txt")) == FRAMES
        assert (tmp_path / "videos" / f"{name}.mp4").is_file()
    code, out, _ = run(capsys, *places)
    assert code == 0 and [line for line in out.splitlines() if line[:3] == "== "] == [f"== {s}" for s in places[0]]


def test_boxes_belong_to_the_sources_in_their_order(capsys, tmp_path, places):
    sources, weights = places
    boxes = ("10,20,30,40", "20,30,25,25", "30,10,40,30")
    options = [part for box in boxes for part in ("--box", box)]
    assert run(capsys, sources, weights, *options, "--quiet", "--results", tmp_path)[0] == 0
    for source, box in zip(sources, boxes, strict=True):
        first = read_boxes(tmp_path / f"{source.split('/')[-1]}.txt")[0] - (1, 1, 0, 0)
        assert first.tolist() == [float(value) for value in box.split(",")]


def test_one_that_fails_is_named_and_the_others_go_on(capsys, tmp_path, places):
    (a, _, c), weights = places
    (tmp_path / "none.mp4").write_text("no video")
    sources, boxes = [a, str(tmp_path / "none.mp4"), c], ("--box", "10,20,30,40") * 3
    code, _, err = run(capsys, sources, weights, *boxes, "--results", tmp_path / "boxes", "--quiet")
    lines = err.splitlines()
    assert code == 2 and len(lines) == 2
    assert "none.mp4: source must be a video or an image, got the text file" in lines[0]
    assert lines[1] == "tracker: error: SOURCE: 1 of 3 could not be tracked to their end"
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == ["video0.txt", "video2.txt"]


def test_what_is_known_to_fail_is_told_before_the_first_is_tracked(capsys, monkeypatch, tmp_path, places):
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    (a, _, c), weights = places
    results = "--results", tmp_path / "boxes"
    code, _, err = run(capsys, [a, str(tmp_path / "none"), c], weights, *results)
    assert code == 2 and err.startswith(
        "tracker: error: SOURCE must be an existing file or folder, a pattern or a camera"
    )
    frames = str(next(Path(a).rglob("*.png")).parent)
    code, _, err = run(capsys, [a, frames], weights, *results)
    assert code == 2 and err.startswith(f"tracker: error: --box must be given for {frames!r}: it has no ground truth")
    code, _, err = run(capsys, [a, c], weights, "--output", tmp_path / "all.mp4")
    assert code == 2 and "--output must be a folder for several SOURCEs" in err and "the name of a file" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "tracked"), [(0, ["video0.txt", "video2.txt"]), (1, ["video1.txt"])])
def test_processes_of_torchrun_share_them(capsys, monkeypatch, tmp_path, places, rank, tracked):
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    assert run(capsys, *places, "--results", tmp_path, "--quiet")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == tracked
    single = tmp_path / "single"
    single.mkdir()
    assert run(capsys, places[0][:1], places[1], "--results", single / "boxes.txt", "--quiet")[0] == 0
    assert (single / "boxes.txt").is_file() == (rank == 0)


def test_mistakes_are_one_line(capsys, tmp_path, places):
    sources, weights = places

    def refused(message, sources, *more):
        code, out, err = run(capsys, sources, weights, *more)
        assert (code, out) == (2, "") and err.count("\n") == 1 and message in err, err

    refused("--box must be given once per SOURCE, 3 times, or never, got 1", sources, "--box", "1,2,3,4")
    refused("--target must come with a single SOURCE, got 3", sources, "--target", 1)
    refused("SOURCE: names must differ because the outputs are named after them, got 'video0' twice",
            [sources[0], sources[0]], "-o", tmp_path / "videos")  # fmt: skip
    (tmp_path / "file").write_text("")
    refused("--results must be a folder for several SOURCEs, got the file", sources, "--results", tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
