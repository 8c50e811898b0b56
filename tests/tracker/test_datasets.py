"""Data sets in their authors' layouts, made small here: what is read, and how each mistake in them is reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tracker.data.annotations import parse_region
from tracker.data.datasets import LAYOUTS, open_dataset, open_place
from tracker.data.pairs import PairDataset

BOXES = np.array([[30.0, 20, 24, 16], [31, 21, 24, 16], [32.5, 22, 24, 17], [33, 23, 25, 17]])


def write_frames(folder: Path, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        image = np.full((64, 96, 3), 20 * index, np.uint8)
        cv2.imwrite(str(folder / name), image)


def write_lines(path: Path, rows, separator=",", offset=0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shifted = np.asarray(rows) + ([offset, offset, 0, 0] if np.shape(rows)[-1] == 4 else 0)
    path.write_text("".join(separator.join(f"{v:g}" for v in row) + "\n" for row in shifted))


def got10k(root: Path, split="train", names=("GOT-10k_Train_000002", "GOT-10k_Train_000010")) -> Path:
    for name in names:
        folder = root / split / name
        write_frames(folder, [f"{i:08d}.jpg" for i in range(1, 5)])
        write_lines(folder / "groundtruth.txt", BOXES, offset=1)
        (folder / "absence.label").write_text("0\n0\n1\n0\n")
    (root / split / "list.txt").write_text("\n".join(names) + "\n")
    return root


def otb(root: Path) -> Path:
    for name, separator in (("Car4", ","), ("Deer", "\t"), ("Dog", " "), ("Jogging", ",")):
        write_frames(root / name / "img", [f"{i:04d}.jpg" for i in range(1, 5)])
        if name == "Jogging":
            write_lines(root / name / "groundtruth_rect.1.txt", BOXES, offset=1)
            write_lines(root / name / "groundtruth_rect.2.txt", BOXES + 5, offset=1)
        else:
            write_lines(root / name / "groundtruth_rect.txt", BOXES, separator, offset=1)
    return root


def vot(root: Path) -> Path:
    write_frames(root / "bag", [f"{i:08d}.jpg" for i in range(1, 5)])
    x, y, w, h = BOXES.T
    corners = np.stack([x + w / 2, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h / 2], 1)  # a diamond in the box
    write_lines(root / "bag" / "groundtruth.txt", corners)
    write_frames(root / "ball" / "color", [f"{i:08d}.jpg" for i in range(1, 5)])
    write_lines(root / "ball" / "groundtruth.txt", BOXES)
    (root / "list.txt").write_text("bag\nball\n")
    return root


def lasot(root: Path) -> Path:
    for name in ("car-1", "car-12", "dog-3"):
        folder = root / name.split("-")[0] / name
        write_frames(folder / "img", [f"{i:08d}.jpg" for i in range(1, 5)])
        write_lines(folder / "groundtruth.txt", BOXES, offset=1)
        (folder / "full_occlusion.txt").write_text("0,1,0,0\n")
        (folder / "out_of_view.txt").write_text("0,0,0,1\n")
    (root / "training_set.txt").write_text("car-1\ndog-3\n")
    (root / "testing_set.txt").write_text("car-12\n")
    return root


def trackingnet(root: Path) -> Path:
    for part, name, rows in (("TRAIN_0", "aaa", 4), ("TRAIN_11", "bbb", 4), ("TEST", "ccc", 1)):
        write_frames(root / part / "frames" / name, [f"{i}.jpg" for i in range(4)])
        write_lines(root / part / "anno" / f"{name}.txt", BOXES[:rows])
    return root


def xml_of(objects) -> str:
    lines = ["<annotation>", "  <folder>x</folder>"]
    for track, (x, y, w, h) in objects:
        lines += ["  <object>", f"    <trackid>{track}</trackid>", "    <name>n02691156</name>", "    <bndbox>"]
        sides = {"xmax": x + w, "xmin": x, "ymax": y + h, "ymin": y}
        lines += [f"      <{side}>{value:g}</{side}>" for side, value in sides.items()]
        lines += ["    </bndbox>", "    <occluded>0</occluded>", "  </object>"]
    return "\n".join([*lines, "</annotation>"])


def imagenet_vid(root: Path) -> Path:
    """Track 0 is in all frames, track 1 in frames 1 and 3."""
    for split, inner in (("train", "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"), ("val", "ILSVRC2015_val_1")):
        write_frames(root / "Data" / "VID" / split / inner, [f"{i:06d}.JPEG.jpg" for i in range(4)])
        for path in (root / "Data" / "VID" / split / inner).iterdir():
            path.rename(path.with_name(path.name.removesuffix(".jpg")))
        folder = root / "Annotations" / "VID" / split / inner
        folder.mkdir(parents=True)
        for i in range(4):
            objects = [(0, BOXES[i])] + ([(1, BOXES[i] + 3)] if i in (1, 3) else [])
            (folder / f"{i:06d}.xml").write_text(xml_of(objects))
    return root


def folder(root: Path) -> Path:
    for name, inner in (("mine", "."), ("yours", "img")):
        write_frames(root / name / inner, [f"{i}.png" for i in range(9, 14)])  # 10.png sorts before 9.png as text
        write_lines(root / name / "groundtruth.txt", BOXES, offset=1)
    return root


MAKE = {
    "got10k": got10k,
    "otb": otb,
    "vot": vot,
    "lasot": lasot,
    "trackingnet": trackingnet,
    "imagenet-vid": imagenet_vid,
    "folder": folder,
}
SPLIT = {"got10k": "train"}


def open_made(layout: str, root: Path, **options):
    return open_dataset(layout, root, SPLIT.get(layout), **options)


def names_of(sequences) -> list[str]:
    return [sequence.name for sequence in sequences]


# ---- what is read --------------------------------------------------------------------------------------------


def test_every_layout_is_tested():
    assert MAKE.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_and_frames(layout, tmp_path):
    sequences = open_made(layout, MAKE[layout](tmp_path))
    assert len(set(names_of(sequences))) == len(sequences)
    first = sequences[0]
    assert np.allclose(first.boxes, BOXES) and len(first) == 4
    assert [round(int(first.image(i)[0, 0, 0]) / 20) for i in range(4)] == [0, 1, 2, 3]
    pairs = PairDataset.from_sequences(sequences)
    assert len(pairs) == len(sequences) and pairs[0].search.shape == (287, 287, 3)


def test_got10k(tmp_path):
    got10k(tmp_path)
    got10k(tmp_path, "val", ["GOT-10k_Val_000001"])
    test = got10k(tmp_path, "test", ["GOT-10k_Test_000001"]) / "test" / "GOT-10k_Test_000001"
    write_lines(test / "groundtruth.txt", BOXES[:1], offset=1)
    train = open_dataset("got10k", tmp_path, "train")
    assert names_of(train) == ["GOT-10k_Train_000002", "GOT-10k_Train_000010"]
    assert train[0].absent.tolist() == [False, False, True, False]
    assert names_of(open_dataset("got10k", tmp_path, "val")) == ["GOT-10k_Val_000001"]
    assert names_of(open_dataset("got10k", tmp_path / "val")) == ["GOT-10k_Val_000001"]
    (only,) = open_dataset("got10k", tmp_path, "test")
    assert len(only) == 1 and len(only.frames) == 4
    (tmp_path / "train" / "list.txt").unlink()  # then the folders tell
    assert names_of(open_dataset("got10k", tmp_path, "train")) == names_of(train)


TRUTHS = {
    "got10k": "train/GOT-10k_Train_000002/groundtruth.txt",
    "otb": "Car4/groundtruth_rect.txt",
    "vot": "bag/groundtruth.txt",
    "lasot": "car/car-1/groundtruth.txt",
    "trackingnet": "TRAIN_0/anno/aaa.txt",
    "folder": "mine/groundtruth.txt",
}
ABSENT = [
    "-1,-1,-1,-1",
    "5,5,-9,9",
    "nan,nan,nan,nan",
    "NaN\tNaN\tNaN\tNaN",
    ",".join(["nan"] * 8),
    "5,5,0,9",
    "0,0,0,0",
    "",
]


@pytest.mark.parametrize("line", [*ABSENT, ",".join(["nan"] * 8)])
@pytest.mark.parametrize("layout", TRUTHS)
def test_a_line_that_marks_an_absent_target_means_the_same_in_every_layout(tmp_path, layout, line):
    path = MAKE[layout](tmp_path) / TRUTHS[layout]
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:1], line, *rows[2:]]))
    sequence = open_made(layout, tmp_path)[0]
    assert sequence.absent[1] and not sequence.absent[0] and np.isnan(sequence.seen_boxes[1]).all()
    path.write_text("\n".join([line or "nan,nan,nan,nan", *rows[1:]]))
    assert open_made(layout, tmp_path)[0].start > 0


@pytest.mark.parametrize("layout", TRUTHS)
def test_a_polygon_is_a_box_in_every_layout(tmp_path, layout):
    path = MAKE[layout](tmp_path) / TRUTHS[layout]
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:1], "5,5,15,5,15,25,5,25", *rows[2:]]))
    assert open_made(layout, tmp_path)[0].boxes[1][2:].tolist() == [10, 20]


@pytest.mark.parametrize("line", ["1e300,1,1,1", "1,1,1e300,1e300", "1,1,2e7,5"])
def test_coordinates_that_no_image_has_are_refused(tmp_path, line):
    path = MAKE["otb"](tmp_path) / TRUTHS["otb"]
    change_line(2, line)(path)
    with pytest.raises(ValueError, match=r"groundtruth_rect.txt:2: line must have coordinates up to 10,000,000 pixels"):
        open_dataset("otb", tmp_path)


def test_an_empty_file_of_a_target_is_left_out(tmp_path):
    """Human4 of OTB-100 comes so."""
    folder = otb(tmp_path) / "Human4"
    (tmp_path / "Jogging").rename(folder)
    (folder / "groundtruth_rect.1.txt").write_text("\n")
    (human,) = [sequence for sequence in open_dataset("otb", tmp_path) if "Human4" in sequence.name]
    assert human.name == "Human4" and np.allclose(human.boxes, BOXES + 5)
    write_lines(folder / "groundtruth_rect.3.txt", BOXES, offset=1)
    assert names_of(open_dataset("otb", tmp_path))[-2:] == ["Human4.1", "Human4.2"]
    for path in folder.glob("groundtruth_rect.*.txt"):
        path.write_text("")
    with pytest.raises(ValueError, match=r"Human4/groundtruth_rect.1.txt:1: file must hold at least one box, got none"):
        open_dataset("otb", tmp_path)


@pytest.mark.parametrize("layout", ["got10k", "otb", "vot", "lasot", "folder"])
def test_stray_folders_are_left_out_with_a_note(tmp_path, layout):
    root = MAKE[layout](tmp_path)
    expected = names_of(open_made(layout, root))
    where = root / "train" if layout == "got10k" else root
    (where / "list.txt").unlink(missing_ok=True)
    (where / "__MACOSX" / "Deer").mkdir(parents=True)
    (where / "anno").mkdir()
    (where / "anno" / "Deer.txt").write_text("1,1,2,2\n")
    (where / ".hidden").mkdir()
    skipped = []
    assert names_of(open_made(layout, root, skipped=skipped)) == expected
    assert skipped and all("folder left out, it holds neither ground truth nor images" in line for line in skipped)


def test_names_in_a_list_without_a_folder_are_left_out_with_a_note(tmp_path):
    for layout, path in (("got10k", "train/list.txt"), ("vot", "list.txt"), ("lasot", "training_set.txt")):
        root = MAKE[layout](tmp_path / layout)
        expected = names_of(open_dataset(layout, root, "train" if layout != "vot" else None))
        with (root / path).open("a") as file:
            file.write("nowhere\n")
        skipped = []
        assert names_of(open_dataset(layout, root, "train" if layout != "vot" else None, skipped=skipped)) == expected
        (line,) = skipped
        assert line.endswith(f"{path}: nowhere left out, there is no such folder")


def test_dot_files_beside_annotations_are_no_annotations(tmp_path):
    (trackingnet(tmp_path / "t") / "TRAIN_0" / "anno" / "._aaa.txt").write_bytes(b"\x00\x05")
    assert len(open_dataset("trackingnet", tmp_path / "t")) == 2
    (imagenet_vid(tmp_path / "i") / "Annotations" / VID / "._000000.xml").write_bytes(b"\x00\x05")
    assert len(open_dataset("imagenet-vid", tmp_path / "i")) == 2


def test_otb_variants(tmp_path):
    sequences = open_dataset("otb", otb(tmp_path))
    assert names_of(sequences) == ["Car4", "Deer", "Dog", "Jogging.1", "Jogging.2"]
    for sequence in sequences[:4]:
        assert np.allclose(sequence.boxes, BOXES)
    assert np.allclose(sequences[4].boxes, BOXES + 5) and sequences[4].frames == sequences[3].frames
    write_lines(tmp_path / "Dog" / "groundtruth_rect.txt", BOXES[:2])  # fewer boxes: the others are not annotated
    with pytest.warns(UserWarning, match="Dog/groundtruth_rect.txt: 2 boxes for 4 images, the last images are not"):
        assert len(open_dataset("otb", tmp_path)[2]) == 2


def test_vot_polygons_and_rectangles(tmp_path):
    bag, ball = open_dataset("vot", vot(tmp_path))
    assert (bag.name, ball.name) == ("bag", "ball")
    assert np.allclose(bag.boxes, BOXES) and np.allclose(ball.boxes, BOXES)


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("334.02,128.36,438.19,188.78,396.39,260.83,292.23,200.41", [292.23, 128.36, 145.96, 132.47]),
        ("0,0,4,1,2,6", [0, 0, 4, 6]),
        ("1,2,3,4", [1, 2, 3, 4]),
    ],
)
def test_polygon_becomes_the_box_around_it(line, box):
    assert parse_region(line) == pytest.approx(box)


def test_real_sequences(real_data):
    sequences = {sequence.name: sequence for sequence in open_dataset("otb", real_data / "sequences")}
    assert len(sequences) == 13 and {"Jogging.1", "Jogging.2", "vot_bag"} <= sequences.keys()
    assert all(len(sequence) == len(sequence.frames) for sequence in sequences.values())
    polygons = (real_data / "sequences" / "vot_bag" / "groundtruth_poly.txt").read_text().split()
    boxes = sequences["vot_bag"].boxes + [1, 1, 0, 0]
    assert abs(boxes - [parse_region(line) for line in polygons]).max() < 0.51  # its file is rounded here and there


def test_lasot(tmp_path):
    everything = open_dataset("lasot", lasot(tmp_path))
    assert names_of(everything) == ["car-1", "car-12", "dog-3"]
    assert everything[0].absent.tolist() == [False, True, False, True]
    assert names_of(open_dataset("lasot", tmp_path, "train")) == ["car-1", "dog-3"]
    assert names_of(open_dataset("lasot", tmp_path, "test")) == ["car-12"]
    assert names_of(open_dataset("lasot", tmp_path / "car")) == ["car-1", "car-12"]  # without the folders of classes


def test_trackingnet(tmp_path):
    trackingnet(tmp_path)
    for split, names in ((None, ["aaa", "bbb"]), ("train", ["aaa", "bbb"]), ("TRAIN_11", ["bbb"]), ("test", ["ccc"])):
        assert names_of(open_dataset("trackingnet", tmp_path, split)) == names
    shutil.rmtree(tmp_path / "TRAIN_0" / "frames" / "aaa")
    write_frames(tmp_path / "TRAIN_0" / "frames" / "aaa", [f"{i}.jpg" for i in range(12)])
    write_lines(tmp_path / "TRAIN_0" / "anno" / "aaa.txt", np.repeat(BOXES, 3, 0))
    (aaa,) = open_dataset("trackingnet", tmp_path, "TRAIN_0")
    assert [path.name for path in aaa.frames[:3]] == ["0.jpg", "1.jpg", "2.jpg"]


def test_imagenet_vid(tmp_path):
    zero, one = open_dataset("imagenet-vid", imagenet_vid(tmp_path))
    assert names_of([zero, one]) == ["ILSVRC2015_train_00000000.0", "ILSVRC2015_train_00000000.1"]
    assert np.allclose(zero.boxes, BOXES)
    assert [path.name for path in one.frames] == ["000001.JPEG", "000002.JPEG", "000003.JPEG"]
    assert one.absent.tolist() == [False, True, False] and np.allclose(one.boxes[[0, 2]], BOXES[[1, 3]] + 3)
    assert names_of(open_dataset("imagenet-vid", tmp_path, "val")) == ["ILSVRC2015_val_1.0", "ILSVRC2015_val_1.1"]


def test_plain_folder(tmp_path):
    folder(tmp_path)
    assert names_of(open_dataset("folder", tmp_path)) == ["mine", "yours"]
    (mine,) = open_dataset("folder", tmp_path / "mine")
    assert mine.name == "mine" and [path.name for path in mine.frames[:2]] == ["9.png", "10.png"]
    assert len(mine) == 4 and len(mine.frames) == 5


def test_places(tmp_path):
    trackingnet(tmp_path / "a:b")
    assert names_of(open_place(f"trackingnet:{tmp_path}/a:b")) == ["aaa", "bbb"]
    assert names_of(open_place(f"trackingnet:{tmp_path}/a:b:test")) == ["ccc"]
    for place in ("trackingnet", "trackingnet:", f":{tmp_path}"):
        with pytest.raises(ValueError, match="place must be LAYOUT:ROOT or LAYOUT:ROOT:SPLIT"):
            open_place(place)


# ---- what is wrong -------------------------------------------------------------------------------------------


def change_line(number: int, text: str):
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[number - 1] = text
        path.write_text("\n".join(lines) + "\n")

    return change


def write(text: str | bytes):
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


GOT = "train/GOT-10k_Train_000002"
VID = "VID/train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
# layout, file, what happens to it, the message, and how many sequences are left when it is skipped
MISTAKES = [
    (
        "got10k",
        f"{GOT}/groundtruth.txt",
        change_line(3, "1,2,3"),
        r"groundtruth\.txt:3: line must be four finite numbers .* got '1,2,3'",
        2,
    ),
    (
        "got10k",
        f"{GOT}/groundtruth.txt",
        change_line(2, "1,2,nan,4"),
        r"groundtruth\.txt:2: line must be four finite numbers",
        2,
    ),
    (
        "got10k",
        f"{GOT}/groundtruth.txt",
        write(""),
        r"groundtruth\.txt:1: file must hold at least one box, got none",
        1,
    ),
    ("got10k", f"{GOT}/groundtruth.txt", write(b"\xff\xfe\x00"), r"groundtruth\.txt:1: file must be text", 1),
    (
        "got10k",
        f"{GOT}/groundtruth.txt",
        write("1,1,9,9\n" * 3),
        r"groundtruth\.txt:3: file must hold one box per frame \(4\), got 3",
        1,
    ),
    ("got10k", f"{GOT}/groundtruth.txt", remove, r"No such file or directory: .*000002/groundtruth\.txt", 1),
    ("got10k", f"{GOT}/absence.label", write("0\n0\n2\n0\n"), r"absence\.label:3: flag must be 0 or 1, got '2'", 1),
    (
        "got10k",
        f"{GOT}/absence.label",
        write("0\n0\n"),
        r"absence\.label:1: file must hold one flag per box \(4\), got 2",
        1,
    ),
    ("got10k", f"{GOT}/00000003.jpg", remove, r"groundtruth\.txt:4: file must hold one box per frame \(3\), got 4", 1),
    (
        "otb",
        "Deer/groundtruth_rect.txt",
        change_line(4, "1\t2\tx\t4"),
        r"groundtruth_rect\.txt:4: line must be four finite numbers",
        5,
    ),
    ("otb", "Deer/groundtruth_rect.txt", remove, r"folder must hold groundtruth_rect\.txt or \.1\.txt, got .*Deer", 4),
    ("otb", "Deer/img", remove, r"Deer/img must hold image files, got none", 4),
    ("otb", "Deer/img/0004.jpg", remove, r"must have at most one box per frame \(3\), got 4", 4),
    (
        "vot",
        "bag/groundtruth.txt",
        change_line(2, "1,2,3,4,5"),
        r"groundtruth\.txt:2: line must be four finite numbers x, y, w, h, or three or more corners",
        2,
    ),
    (
        "vot",
        "bag/groundtruth.txt",
        change_line(1, "m10,10,4,4,16"),
        r"groundtruth\.txt:1: line must be a box or a polygon, got a mask",
        2,
    ),
    (
        "lasot",
        "car/car-1/out_of_view.txt",
        write("0,0,1"),
        r"out_of_view\.txt:1: file must hold one flag per box \(4\), got 3",
        2,
    ),
    ("lasot", "car/car-1/full_occlusion.txt", remove, r"No such file or directory: .*car-1/full_occlusion\.txt", 2),
    ("trackingnet", "TRAIN_0/anno/aaa.txt", change_line(2, "a,b"), r"aaa\.txt:2: line must be four finite numbers", 2),
    ("trackingnet", "TRAIN_0/frames/aaa", remove, r"frames/aaa: folder must hold image files, got none", 1),
    (
        "imagenet-vid",
        f"Annotations/{VID}/000001.xml",
        change_line(9, "</bad>"),
        r"000001\.xml:9: file must be XML, got mismatched tag",
        2,
    ),
    (
        "imagenet-vid",
        f"Annotations/{VID}/000001.xml",
        change_line(7, "<xmax>9x</xmax>"),
        r"000001\.xml:13: object must have a trackid and numbers",
        2,
    ),
    (
        "imagenet-vid",
        f"Annotations/{VID}/000001.xml",
        change_line(7, "<xmax>2</xmax>"),
        r"000001\.xml:13: object must have xmin <= xmax",
        2,
    ),
    (
        "imagenet-vid",
        f"Annotations/{VID}/000001.xml",
        write(""),
        r"000001\.xml:1: file must be XML, got no element found",
        2,
    ),
    (
        "imagenet-vid",
        f"Data/{VID}/000003.JPEG",
        remove,
        r"000003\.xml:1: file must have an image of its name in .*, got none",
        2,
    ),
    (
        "folder",
        "mine/groundtruth.txt",
        write("1,1,9,9\n" * 7),
        r"groundtruth\.txt:6: file must hold at most one box per frame \(5\), got 7",
        1,
    ),
    (
        "folder",
        "mine/groundtruth.txt",
        change_line(1, "one"),
        r"groundtruth\.txt:1: line must be four finite numbers",
        2,
    ),
]


@pytest.mark.parametrize(
    ("layout", "file", "spoil", "message", "left"), MISTAKES, ids=[f"{m[0]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistakes_are_named_and_skipped_only_when_asked(layout, file, spoil, message, left, tmp_path):
    root = MAKE[layout](tmp_path)
    spoil(root / file)
    with pytest.raises((ValueError, OSError), match=message):
        open_made(layout, root)
    skipped: list[str] = []
    sequences = open_made(layout, root, skip_bad=True, skipped=skipped)
    assert len(sequences) == left and len(skipped) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(skipped[0])
    with pytest.warns(UserWarning, match="skipped 1: "):
        open_made(layout, root, skip_bad=True)


def test_malformed_lines_are_absent_when_skipped(tmp_path):
    path = otb(tmp_path) / "Deer" / "groundtruth_rect.txt"
    change_line(2, "bad")(path)
    change_line(4, "worse")(path)
    skipped: list[str] = []
    deer = open_dataset("otb", tmp_path, skip_bad=True, skipped=skipped)[1]
    assert deer.absent.tolist() == [False, True, False, True] and len(skipped) == 2
    pairs = PairDataset.from_sequences([deer], repeat=20)
    assert {round(int(crop[143, 143, 0]) / 20) for i in range(20) for crop in pairs[i][:2]} == {0, 2}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_root_without_sequences(layout, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=".*(got none in|existing folder)"):
        open_made(layout, tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="root must be an existing folder, got .*nowhere"):
        open_made(layout, tmp_path / "nowhere")


def test_everything_bad_is_an_error_even_when_skipped(tmp_path):
    root = got10k(tmp_path)
    for path in root.rglob("groundtruth.txt"):
        path.write_text("")
    with pytest.raises(ValueError, match=r"got10k sequences, got none in .*; 2 skipped, the first: .*:1:"):
        open_dataset("got10k", root, "train", skip_bad=True)


def test_layout_and_split_are_checked(tmp_path):
    with pytest.raises(ValueError, match="layout must be one of got10k, otb, vot, .*, got 'coco'"):
        open_dataset("coco", tmp_path)
    with pytest.raises(ValueError, match="split of got10k must be one of train, val, test, got 'all'"):
        open_dataset("got10k", tmp_path, "all")
    with pytest.raises(ValueError, match="split of otb must be one of otb50, otb2013, otb100, got 'train'"):
        open_dataset("otb", tmp_path, "train")


def test_the_lists_of_otb():
    from tracker.data.otb_lists import OTB_LISTS

    assert {name: len(set(folders)) for name, folders in OTB_LISTS.items()} == {
        "otb50": 49,
        "otb2013": 50,
        "otb100": 98,
    }
    assert set(OTB_LISTS["otb50"]) < set(OTB_LISTS["otb100"]) > set(OTB_LISTS["otb2013"])


def test_a_split_of_otb_takes_its_sequences(tmp_path, monkeypatch):
    from tracker.data import datasets

    for name in ("Deer", "Dog", "Girl"):
        (tmp_path / name / "img").mkdir(parents=True)
        for i in (1, 2):
            (tmp_path / name / "img" / f"{i:04d}.jpg").touch()
        (tmp_path / name / "groundtruth_rect.txt").write_text("1,1,5,5\n1,1,5,5\n")
    with pytest.raises(
        FileNotFoundError, match="must hold all sequences of otb50, got .* without Basketball, Biker, Bird1 and "
    ):
        datasets.open_dataset("otb", tmp_path, "otb50")
    monkeypatch.setitem(datasets.OTB_LISTS, "otb2013", ("Girl", "Deer"))
    assert [sequence.name for sequence in datasets.open_dataset("otb", tmp_path, "otb2013")] == ["Girl", "Deer"]
    with pytest.raises(ValueError, match="split of otb must be one of otb50, otb2013, otb100, got 'otb'"):
        datasets.open_dataset("otb", tmp_path, "otb")
