"""Archives of crops: they return what was written, a killed run continues, and damaged data is never read."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.support.paths import ROOT
from tracker.cli import main
from tracker.data import archive as module
from tracker.data.archive import FOOTER, HEADER, RECORD, ArchiveError, ArchiveWriter, CropArchive
from tracker.data.augment import collate
from tracker.data.crops import read_crop
from tracker.data.pairs import PairDataset
from tracker.data.prepare import prepare_archive
from tracker.data.sequence import Sequence
from tracker.io.images import ImageError

pytestmark = pytest.mark.usefixtures("one_thread")


def make_sequence(folder: Path, count: int, level: int = 0, noise: int = 0) -> Sequence:
    """Frames whose grey levels, and boxes whose sizes, tell them apart; two of them show no target."""
    folder.mkdir(parents=True)
    rng, frames, boxes = np.random.default_rng(level), [], []
    for i in range(count):
        image = np.full((96, 128, 3), level + 5 * i, np.uint8)
        if noise:
            image = rng.integers(0, noise, image.shape, dtype=np.uint8)
        frames.append(folder / f"{i:04d}.jpg")
        cv2.imwrite(str(frames[-1]), image)
        boxes.append([40 + i % 7, 30, 0 if i in (1, 4) else 20 + i % 20, 24])
    lines = (f"{x + 1},{y + 1},{w},{h}\n" for x, y, w, h in boxes)
    (folder / "groundtruth.txt").write_text("".join(lines))
    return Sequence(folder.name, frames, np.array(boxes, float))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> list[Sequence]:
    root = tmp_path_factory.mktemp("frames")
    return [
        make_sequence(root / "a", 9),
        make_sequence(root / "b", 7, level=100),
        make_sequence(root / "c", 2, level=200),
    ]


@pytest.fixture(scope="module")
def whole(sequences, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "all.crops"
    prepare_archive(sequences, path, crop_size=64)
    return path


# ---- what is in it -------------------------------------------------------------------------------------------


def test_crops_are_those_of_the_frames(sequences, whole):
    archive = CropArchive(whole)
    assert archive.sequences == [("a", 0, 7), ("b", 7, 12), ("c", 12, 13)] and archive.skipped == []
    assert len(archive) == 13 and archive.frames.tolist() == [0, 2, 3, 5, 6, 7, 8, 0, 2, 3, 5, 6, 0]
    number = 0
    for sequence, (_, start, stop) in zip(sequences, archive.sequences, strict=True):
        for number in range(start, stop):
            crop, box = read_crop(sequence, archive.frames[number], 64)
            assert np.array_equal(archive.boxes[number], box)
            assert abs(archive.crop(number).astype(int) - crop).mean() < 2  # the JPEG's error
    archive.verify()


def test_workers_change_nothing(sequences, whole, tmp_path):
    calls = []
    made = prepare_archive(
        sequences, tmp_path / "b", crop_size=64, workers=3, progress=lambda done, total: calls.append((done, total))
    )
    assert made.crops == 13 and calls == [(done, 13) for done in range(14)]
    assert (tmp_path / "b").read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_every_and_min_side(sequences, tmp_path):
    prepare_archive(sequences, tmp_path / "a", crop_size=64, every=3)
    assert CropArchive(tmp_path / "a").frames.tolist() == [0, 5, 8, 0, 5, 0]
    prepare_archive(sequences, tmp_path / "b", crop_size=64, min_side=24)
    assert CropArchive(tmp_path / "b").frames.tolist() == [5, 6, 7, 8, 5, 6]


def test_quality(sequences, whole, tmp_path):
    prepare_archive(sequences, tmp_path / "low", crop_size=64, quality=10)
    assert (tmp_path / "low").stat().st_size < whole.stat().st_size


def test_pairs_from_an_archive(sequences, whole):
    pairs = PairDataset.from_archive(whole, seed=3, repeat=2)
    frames = PairDataset.from_sequences(sequences, seed=3, repeat=2, crop_size=64)
    assert len(pairs) == len(frames) == 6
    for i in range(6):  # the same frames are chosen, whatever they are read from
        for one, other in zip(pairs[i], frames[i], strict=True):
            assert one.shape == other.shape and one.dtype == other.dtype
            assert abs(one.astype(float) - other).mean() < 2
    again = PairDataset(pickle.loads(pickle.dumps(pairs.source)), seed=3)  # as workers that are spawned get it
    assert np.array_equal(again[5].search, pairs[5].search)
    loader = DataLoader(pairs, batch_size=3, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    assert np.array_equal(list(loader)[1].search[2], pairs[5].search)


def test_leave_out(whole):
    pairs = PairDataset.from_archive(whole, leave_out=["a", "c"])
    assert len(pairs) == 1 and pairs[0].search[32, 32, 0] >= 98
    with pytest.raises(ValueError, match="leave_out must name sequences of .*all.crops, got d, e"):
        PairDataset.from_archive(whole, leave_out=["e", "a", "d"])
    with pytest.raises(ValueError, match="archive must hold sequences to take, got none in .*all.crops"):
        PairDataset.from_archive(whole, leave_out=["a", "b", "c"])


# ---- killed --------------------------------------------------------------------------------------------------


def record_ends(path: Path) -> list[int]:
    """Where the header and each record end."""
    data = path.read_bytes()
    ends = [HEADER.size + HEADER.unpack_from(data)[1]]
    while data[ends[-1] : ends[-1] + 4] in (module.CROP, module.SKIP):
        record = np.frombuffer(data, RECORD, 1, ends[-1])[0]
        ends.append(ends[-1] + RECORD.itemsize + int(record["length"]))
    return ends


def cuts(path: Path) -> list[int]:
    ends, size = record_ends(path), path.stat().st_size
    near = [0, 1, 9, HEADER.size, ends[0] - 1, *(end + d for end in ends for d in (0, 1, RECORD.itemsize, 200))]
    return sorted({cut for cut in (*near, size - FOOTER.size, size - 1, size) if cut <= size})


def test_a_part_cut_anywhere_is_completed_to_the_same_bytes(sequences, whole, tmp_path):
    data, ends = whole.read_bytes(), record_ends(whole)
    assert len(ends) == 14
    for cut in cuts(whole):
        path = tmp_path / "all.crops"
        path.with_name("all.crops.part").write_bytes(data[:cut])
        calls = []
        prepare_archive(sequences, path, crop_size=64, progress=lambda done, _: calls.append(done))  # noqa: B023
        assert calls[0] == sum(end <= cut for end in ends[1:])  # whole records are not made again
        assert path.read_bytes() == data
        path.unlink()


def test_a_part_damaged_in_the_middle_is_redone_from_there(sequences, whole, tmp_path):
    data, ends = bytearray(whole.read_bytes()), record_ends(whole)
    data[ends[5] + 60] ^= 1
    (tmp_path / "a.part").write_bytes(data[: ends[9]])
    calls = []
    prepare_archive(sequences, tmp_path / "a", crop_size=64, progress=lambda done, _: calls.append(done))
    assert calls[0] == 5 and (tmp_path / "a").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("spoil", ["other", "boxes", "settings", "text"])
def test_a_part_of_another_run_is_refused(sequences, whole, tmp_path, spoil):
    part, path, options, taken = tmp_path / "a.part", tmp_path / "a", {"crop_size": 64}, sequences
    part.write_bytes(whole.read_bytes()[: record_ends(whole)[3]])
    if spoil == "other":
        taken = sequences[:2]
    elif spoil == "boxes":
        taken = [Sequence(s.name, s.frames, s.boxes + [0, 0.5, 0, 0]) for s in sequences]
    elif spoil == "settings":
        options = {"crop_size": 64, "quality": 89}
    else:
        part.write_text("not a part of anything")
    before = part.read_bytes()
    with pytest.raises(
        ArchiveError, match=r"a\.part: part must be of the same sequences and settings, got .* \(remove it"
    ):
        prepare_archive(taken, path, **options)
    assert part.read_bytes() == before and not path.exists()


def test_a_part_in_use_is_refused(sequences, tmp_path):
    pytest.importorskip("fcntl")
    with ArchiveWriter(tmp_path / "a", {"names": []}):
        with pytest.raises(ArchiveError, match=r"a\.part: part must not be in use, got another process"):
            ArchiveWriter(tmp_path / "a", {"names": []})
    ArchiveWriter(tmp_path / "a", {"names": []}).__exit__()


@pytest.mark.slow
def test_killed_processes_lose_and_repeat_nothing(tmp_path):
    """`kill -9` at several sizes of the part; the archive completed in the end equals one that was written at once."""
    make_sequence(tmp_path / "data" / "one", 40, noise=255)
    make_sequence(tmp_path / "data" / "two", 40, level=1, noise=255)
    command = [
        sys.executable, "-m", "tracker", "prepare", "--dataset", f"folder:{tmp_path / 'data'}", "--quality", "100",
        "--crop-size", "600", "--workers", "2", "--output",
    ]  # fmt: skip
    output, part = tmp_path / "killed.crops", tmp_path / "killed.crops.part"
    for size in (1, 3_000_000, 6_000_000):
        process = subprocess.Popen([*command, str(output)], cwd=ROOT, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size >= size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL  # it was not done yet
        assert not output.exists() and part.stat().st_size >= size
    kept = part.stat().st_size
    subprocess.run([*command, str(output)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    once = tmp_path / "once.crops"
    assert main([*command[3:], str(once), "--quiet"]) == 0
    assert output.read_bytes() == once.read_bytes() and kept > 6_000_000
    archive = CropArchive(output)
    archive.verify()
    assert archive.frames.tolist() == [i for i in range(40) if i not in (1, 4)] * 2
    assert not part.exists()


# ---- damaged -------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused(whole, tmp_path):
    data = whole.read_bytes()
    for cut in cuts(whole)[:-1]:
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(ArchiveError, match=r"/cut: (file|header|index) must .*, got"):
            CropArchive(tmp_path / "cut")


def test_any_changed_byte_is_noticed(whole, tmp_path):
    data, ends = bytearray(whole.read_bytes()), record_ends(whole)
    places = [*range(HEADER.size + 3), *range(ends[3], ends[3] + 60), ends[4] - 1, *range(ends[-1], ends[-1] + 50)]
    places += range(len(data) - FOOTER.size, len(data))
    for place in places:
        data[place] ^= 0x11
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(ArchiveError, match=r"/bad: .* must "):
            CropArchive(tmp_path / "bad").verify()
        data[place] ^= 0x11


def test_a_damaged_crop_is_named_when_it_is_read(whole, tmp_path):
    data, ends = bytearray(whole.read_bytes()), record_ends(whole)
    data[ends[2] + RECORD.itemsize + 40] ^= 0x40
    (tmp_path / "bad").write_bytes(data)
    archive = CropArchive(tmp_path / "bad")  # the index is as it was
    archive.crop(1)
    with pytest.raises(ArchiveError, match=r"/bad: crop 2 must match its checksum, got a damaged one"):
        archive.crop(2)
    with pytest.raises(ArchiveError, match="crop 2 must match"):
        archive.verify()
    with pytest.raises(ArchiveError, match="crop 2 must match"):
        pairs = PairDataset.from_archive(tmp_path / "bad", repeat=20)
        [pairs[i] for i in range(60)]


def test_other_files_are_no_archives(sequences, tmp_path):
    (tmp_path / "text").write_text("a file of another kind, longer than a header")
    for use in (CropArchive, lambda path: prepare_archive(sequences, path)):
        with pytest.raises(ArchiveError, match="/text: file must be an archive of `tracker prepare`, got another file"):
            use(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        CropArchive(tmp_path / "none")


# ---- the command ---------------------------------------------------------------------------------------------


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["prepare", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_command_writes_and_then_checks(capsys, sequences, tmp_path):
    root, output = sequences[0].frames[0].parents[1], tmp_path / "all.crops"
    arguments = "--dataset", f"folder:{root}", "--dataset", f"folder:{root / 'a'}", "--output", output, "--workers", 2
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "") and out.startswith(f"{output}: 20 crops of 4 sequences, ")
    before = output.stat()
    assert run(capsys, *arguments) == (code, out, err)
    assert output.stat().st_mtime_ns == before.st_mtime_ns
    code, out, err = run(capsys, *arguments, "--every", 2)
    assert code == 2 and "archive must be of the same sequences and settings, got one of others" in err
    data = bytearray(output.read_bytes())
    data[len(data) // 2] ^= 1
    output.write_bytes(data)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and "must match its checksum, got a damaged one" in err


def test_command_reports_bad_images_and_skips_them_when_asked(capsys, sequences, tmp_path):
    root, output = tmp_path / "data", tmp_path / "all.crops"
    shutil.copytree(sequences[0].frames[0].parents[1], root)
    bad = root / "b" / "0003.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    (root / "c" / "groundtruth.txt").write_text("1,1,x,4\n41,31,20,24\n")
    arguments = "--dataset", f"folder:{root}", "--output", output
    code, _, err = run(capsys, *arguments)
    assert code == 2 and f"{root / 'c' / 'groundtruth.txt'}:1: line must be four finite numbers" in err
    line = (root / "c" / "groundtruth.txt").read_text().replace("x", "1")
    (root / "c" / "groundtruth.txt").write_text(line)
    code, _, err = run(capsys, *arguments)
    assert code == 2 and f"{bad}: image must be a whole JPEG, got a truncated one" in err and not output.exists()
    assert output.with_name("all.crops.part").stat().st_size > 0
    code, out, err = run(capsys, *arguments, "--skip-bad")  # goes on where the bad image stopped it
    assert code == 0 and out.startswith(f"skipped {bad}: image must be a whole JPEG") and "12 crops" in out
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "skip_bad must be set where frames were left out before, got not" in err
    output.unlink()
    (root / "c" / "groundtruth.txt").write_text(line.replace("1,1,1,4", "1,1,x,4"))
    results = [run(capsys, *arguments, "--skip-bad") for _ in range(2)]
    for code, out, err in results:  # the second time they come from the archive
        assert code == 0 and err == ""
        first, second, third = out.splitlines()
        assert first.startswith(f"skipped {root / 'c' / 'groundtruth.txt'}:1: line must be four finite numbers")
        assert second == f"skipped {bad}: image must be a whole JPEG, got a truncated one"
        assert third.startswith(f"{output}: 12 crops of 3 sequences")
    archive = CropArchive(output)
    assert archive.frames.tolist() == [0, 2, 3, 5, 6, 7, 8, 0, 2, 5, 6, 1] and len(archive.skipped) == 1


def test_command_stopped_by_ctrl_c_keeps_what_is_done(capsys, sequences, tmp_path, monkeypatch):
    arguments = "--dataset", f"folder:{sequences[0].frames[0].parents[1]}", "--output", tmp_path / "a"
    add = ArchiveWriter.add

    def stop_at_the_fifth(self, *values):
        if self.done == 5:
            raise KeyboardInterrupt
        add(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "add", stop_at_the_fifth)
        code, out, err = run(capsys, *arguments)
    assert (code, out) == (130, "") and f"stopped; the same command continues with {tmp_path / 'a'}.part" in err
    assert len(record_ends(tmp_path / "a.part")) == 6
    assert run(capsys, *arguments)[0] == 0 and len(CropArchive(tmp_path / "a")) == 13


def test_skipped_frames_are_resumed_too(sequences, tmp_path):
    broken = [Sequence(s.name, list(s.frames), s.boxes) for s in sequences]
    broken[0].frames[3] = tmp_path / "gone.jpg"
    made = prepare_archive(broken, tmp_path / "a", crop_size=64, skip_bad=True)
    assert made.crops == 12 and len(made.skipped) == 1 and "gone.jpg: image must be a readable file" in made.skipped[0]
    for count in (2, 3, 4):
        (tmp_path / "b.part").write_bytes((tmp_path / "a").read_bytes()[: record_ends(tmp_path / "a")[count] + 5])
        assert prepare_archive(broken, tmp_path / "b", crop_size=64, skip_bad=True) == made
        assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
        (tmp_path / "b").unlink()
    with pytest.raises(ImageError, match="gone.jpg: image must be a readable file"):
        prepare_archive(broken, tmp_path / "c", crop_size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be at least 1, got 0"),
        ({"quality": 101}, "quality must be from 1 to 100, got 101"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"min_side": 1000}, "sequences must hold usable frames, got none in 3"),
    ],
)
def test_arguments_are_checked(sequences, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_archive(sequences, tmp_path / "a", **options)
    assert not list(tmp_path.iterdir())


def test_command_refuses_what_it_cannot_use(capsys, tmp_path):
    for arguments, message in (
        (["--dataset", "coco:/x", "--output", tmp_path / "a"], "layout must be one of got10k, otb, "),
        (["--dataset", "otb", "--output", tmp_path / "a"], "place must be LAYOUT:ROOT or LAYOUT:ROOT:SPLIT, got 'otb'"),
        (["--dataset", f"otb:{tmp_path / 'none'}", "--output", tmp_path / "a"], "root must be an existing folder"),
        (
            ["--dataset", f"otb:{tmp_path}", "--output", tmp_path / "no" / "a"],
            "--output must lie in an existing folder",
        ),
        (["--dataset", f"otb:{tmp_path}", "--output", tmp_path], "--output must be a file, got the folder"),
    ):
        code, out, err = run(capsys, *arguments)
        assert code == 2 and out == "" and message in err and err.count("\n") == 1
