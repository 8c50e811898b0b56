"""Training pairs: a function of (seed, epoch, i) alone, the frames they may come from, and where the box lies."""

from __future__ import annotations

import copy
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tracker.data.augment import collate
from tracker.data.crops import crop_side, crop_target, read_crop, usable_frames
from tracker.data.pairs import PairDataset, choose_frames
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.io.images import ImageError, decode_image, read_image, read_reduced

pytestmark = pytest.mark.usefixtures("one_thread")


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def numbered(count: int, absent=()) -> Sequence:
    """Frame i is of the grey level i all over, so a crop tells the frame it comes from."""
    flags = np.isin(np.arange(count), absent)
    return Sequence(
        "numbered", lambda i: np.full((60, 80, 3), i, np.uint8), np.tile([30, 20, 20, 16.0], (count, 1)), flags
    )


def textured(size=(640, 480)) -> np.ndarray:
    return SyntheticVideo(5, 2, size).frame(0)[0]


def write_jpeg(path, image) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 98])


# ---- sequences and images ------------------------------------------------------------------------------------


def test_boxes_tell_absent_frames():
    boxes = np.array([[1, 1, 5, 5], [1, 1, 0, 5], [1, 1, 5, -2], [np.nan] * 4, [1, 1, np.inf, 5], [1, 1, 9, 9]])
    assert Sequence("a", [None] * 6, boxes).absent.tolist() == [False, True, True, True, True, False]
    given_flags = Sequence("a", [None] * 6, boxes, np.array([1, 0, 0, 0, 0, 0]))
    assert given_flags.absent.tolist() == [True, True, True, True, True, False]
    assert usable_frames(Sequence("a", [None] * 6, boxes)).tolist() == [5]
    assert usable_frames(Sequence("a", [None] * 6, boxes), min_side=5).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], np.zeros((3, 5))), r"boxes must be \[N, 4\], got shape \(3, 5\) in a"),
        (([None], np.ones((2, 4))), r"boxes must be at most one per frame \(1\), got 2 in a"),
        (([None] * 2, np.ones((2, 4)), [True]), r"absent must be \[2\], got \[1\] in a"),
    ],
)
def test_sequence_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sequence("a", *arguments)


def test_read_image_is_rgb_and_reports_what_is_wrong(tmp_path):
    image = np.zeros((24, 32, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    with pytest.raises(ImageError, match=r"none\.jpg: image must be a readable file, got No such file"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: image must be of a format that OpenCV decodes, got 0 bytes"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg: image must be of a format that OpenCV decodes, got 8 bytes"):
        read_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("progressive", [0, 1])
def test_truncated_jpeg_is_an_error(tmp_path, progressive):
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    data = cv2.imencode(".jpg", textured((160, 120)), flags)[1].tobytes()
    decode_image(data)
    decode_image(data + b"trailing bytes")
    for length in (len(data) - 1, len(data) // 2, 2):
        with pytest.raises(ValueError, match="image must be a whole JPEG, got a truncated one"):
            decode_image(data[:length])


def test_reduced_jpeg_pixels_cover_blocks_of_the_whole(tmp_path):
    image = cv2.GaussianBlur(textured((321, 241)), (0, 0), 4)
    write_jpeg(tmp_path / "a.jpg", image)
    for reduce in (1, 2, 4, 8):
        small, factor = read_reduced(tmp_path / "a.jpg", reduce)
        height, width = 241 // reduce, 321 // reduce
        blocks = image[: height * reduce, : width * reduce].reshape(height, reduce, width, reduce, 3).mean((1, 3))
        assert factor == reduce and small.shape == (-(-241 // reduce), -(-321 // reduce), 3)
        assert abs(small[:height, :width] - blocks).mean() < 1.5
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert read_reduced(tmp_path / "a.png", 4)[1] == 1  # reducing anything else gains nothing


# ---- crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(200, 150, 60, 40), (201.4, 150.7, 33.3, 81.9), (-10, 430, 70, 60), (600, 5, 30, 40)])
@pytest.mark.parametrize("size", [287, 255, 400])
def test_box_follows_the_crop(box, size):
    x, y, w, h = box
    image = np.zeros((480, 640, 3), np.uint8)
    image[max(0, round(y)) : round(y + h), max(0, round(x)) : round(x + w)] = 255
    crop, moved = crop_target(image, np.array(box), size)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8 and moved.dtype == np.float32
    zoom = size / crop_side(box, size)
    assert moved[2:] == pytest.approx([w * zoom, h * zoom], rel=0.01)
    assert moved[:2] + moved[2:] / 2 == pytest.approx([size / 2, size / 2], abs=0.51 * zoom)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    left, top = moved[:2] - np.minimum(box[:2], 0) * zoom  # what lies outside the image is not drawn
    right, bottom = moved[0] + min(w, 640 - x) * zoom, moved[1] + min(h, 480 - y) * zoom
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert edges == pytest.approx([left, top, right, bottom], abs=0.5 * zoom + 1)


def test_crop_holds_the_exemplar_at_its_size():
    # (w + p)(h + p) with p = (w + h) / 2 = 50 is 110 x 90 for 60 x 40; this square becomes 127 px.
    assert crop_side((0, 0, 60, 40), 127) == pytest.approx(np.sqrt(110 * 90))
    assert crop_side((0, 0, 60, 40)) == pytest.approx(np.sqrt(110 * 90) * 287 / 127)


def test_padding_has_the_mean_colour():
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, 50:] = (100, 60, 20)
    crop, _ = crop_target(image, np.array([0, 0, 80, 80]))
    assert crop[0, 0].tolist() == [50, 30, 10]


def test_crop_from_a_reduced_jpeg_is_the_crop_of_the_whole(tmp_path):
    image = cv2.GaussianBlur(textured((1280, 960)), (0, 0), 6)
    write_jpeg(tmp_path / "a.jpg", image)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    for box in ([500, 300, 200, 190], [801, 203, 411, 303], [13, 700, 330, 250]):
        (crop, moved), (whole, expected) = (
            read_crop(Sequence("a", [tmp_path / name], np.array([box])), 0) for name in ("a.jpg", "a.png")
        )
        assert moved == pytest.approx(expected, abs=1)
        # Rounding to whole pixels may move one against the other by less than a pixel: they are put in register first.
        dx, dy = moved[:2] - expected[:2]
        moved_back = cv2.warpAffine(whole, np.float32([[1, 0, dx], [0, 1, dy]]), (287, 287))
        assert abs(crop[4:-4, 4:-4].astype(int) - moved_back[4:-4, 4:-4]).mean() < 2


# ---- which frames --------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 400), min_size=1, max_size=60), st.integers(1, 120), st.integers(0, 2**32))
def test_frames_are_near_each_other_and_differ_where_they_can(frames, max_gap, seed):
    frames = np.array(sorted(frames))
    first, second = choose_frames(frames, max_gap, np.random.default_rng(seed))
    assert first in frames and second in frames and abs(first - second) < max_gap
    if ((abs(frames - first) < max_gap) & (frames != first)).any():
        assert first != second


def test_every_near_frame_is_chosen():
    rng, frames = np.random.default_rng(0), np.array([0, 3, 5, 104, 200])
    seen = {choose_frames(frames, 100, rng) for _ in range(500)}
    assert seen == {(0, 3), (0, 5), (3, 0), (3, 5), (5, 0), (5, 3), (5, 104), (104, 5), (104, 200), (200, 104)}


def test_absent_frames_are_never_chosen():
    absent = [0, 1, 5, 6, 7, 19]
    pairs = PairDataset.from_sequences([numbered(20, absent)], repeat=100)
    seen = {int(crop[143, 143, 0]) for pair in (pairs[i] for i in range(100)) for crop in pair[:2]}
    assert seen == set(range(20)) - set(absent)


def test_one_pair_per_sequence_and_epoch():
    sequences = [numbered(200), numbered(1), numbered(3, absent=[0, 1, 2]), numbered(50)]
    pairs = PairDataset.from_sequences(sequences, max_gap=10)
    assert len(pairs) == 3  # one of them shows its target nowhere
    frames = {}
    for epoch in range(2):
        pairs.set_epoch(epoch)
        frames[epoch] = [tuple(int(crop[143, 143, 0]) for crop in pairs[i][:2]) for i in range(3)]
        assert all(abs(a - b) < 10 for a, b in frames[epoch])
        assert frames[epoch][1] == (0, 0)
    assert frames[0] != frames[1]
    assert len(PairDataset.from_sequences(sequences, repeat=4)) == 12


# ---- determinism ---------------------------------------------------------------------------------------------


def test_pairs_depend_on_seed_epoch_and_index():
    make = lambda seed: PairDataset.synthetic(seed, pairs=4)  # noqa: E731
    one, other = make(7), make(7)
    assert [equal(one[i], other[i]) for i in (3, 0, 1)] == [True] * 3
    other.set_epoch(1)
    assert not equal(one[0], other[0]) and equal(one.pair(1, 0), other[0])
    assert not equal(one[0], make(8)[0]) and not equal(one[0], one[1])
    assert equal(copy.deepcopy(other)[2], other[2])


def test_synthetic_pairs_show_one_target():
    """The boxes are centred on it, and both crops hold the same object at the same scale."""
    pairs = PairDataset.synthetic(0, pairs=20)
    for exemplar, search, *boxes in (pairs[i] for i in range(20)):
        assert exemplar.shape == search.shape == (287, 287, 3) and exemplar.dtype == np.uint8
        for x, y, w, h in boxes:
            assert abs(x + w / 2 - 143.5) < 2 and abs(y + h / 2 - 143.5) < 2
            assert (w + (w + h) / 2) * (h + (w + h) / 2) == pytest.approx(127**2, rel=0.03)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_the_same_pairs_and_know_the_epoch(start):
    video = Sequence.from_video("video", SyntheticVideo(3, 9, (320, 240)))
    parts = [PairDataset.synthetic(0, pairs=4), PairDataset.from_sequences([video], repeat=3)]
    pairs = PairDataset.concat(parts, seed=2)
    loader = DataLoader(
        pairs, batch_size=4, num_workers=2, collate_fn=collate, multiprocessing_context=start, persistent_workers=True
    )
    for epoch in (0, 5):
        pairs.set_epoch(epoch)
        first, second = loader
        assert equal([field[2] for field in first], pairs[2]) and equal([field[2] for field in second], pairs[6])
        assert first.exemplar.shape == (4, 287, 287, 3) and second.search_box.shape == (3, 4)


def test_concatenated_parts_follow_each_other():
    parts = [PairDataset.from_sequences([numbered(9)], repeat=2), PairDataset.synthetic(0, 3)]
    parts.append(PairDataset.from_sequences([numbered(1)]))
    pairs = PairDataset.concat(parts)
    assert len(pairs) == 6
    same = [bool((pairs[i].exemplar == pairs[i].exemplar[143, 143]).all()) for i in range(6)]
    assert same == [True, True, False, False, False, True]
    assert not equal(*(PairDataset.concat([PairDataset.synthetic(0, 1)] * 2)[i] for i in (0, 1)))  # not one twice


# ---- bad images and arguments --------------------------------------------------------------------------------


def test_bad_image_is_named_and_skipped_only_when_asked(tmp_path):
    for i in range(6):
        write_jpeg(tmp_path / f"{i}.jpg", np.full((60, 80, 3), 40 * i, np.uint8))
    frames = [tmp_path / f"{i}.jpg" for i in range(6)]
    frames[2].write_bytes(frames[2].read_bytes()[:200])
    frames[4].unlink()
    sequence = Sequence("a", frames, np.tile([30, 20, 20, 16.0], (6, 1)))
    strict = PairDataset.from_sequences([sequence], repeat=20)
    with pytest.raises(ImageError, match=r"(2\.jpg: image must be a whole JPEG|4\.jpg: image must be a readable file)"):
        [strict[i] for i in range(20)]
    lenient = PairDataset.from_sequences([sequence], repeat=40, skip_bad=True)
    with pytest.warns(UserWarning, match=r"skipped .*[24]\.jpg: image must be"):
        seen = {round(crop[143, 143, 0] / 40) for pair in (lenient[i] for i in range(40)) for crop in pair[:2]}
    assert seen == {0, 1, 3, 5}
    for path in frames:
        path.unlink(missing_ok=True)
    with warnings.catch_warnings(), pytest.raises(ImageError, match="image must be a readable file"):
        warnings.simplefilter("ignore")
        lenient[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairDataset.synthetic(-1), "seed must not be negative, got -1"),
        (lambda: PairDataset.synthetic(0, 0), "pairs must be at least 1, got 0"),
        (lambda: PairDataset.synthetic(0, 2).set_epoch(-1), "epoch must not be negative, got -1"),
        (lambda: PairDataset.from_sequences([numbered(2)], max_gap=0), "max_gap must be at least 1, got 0"),
        (lambda: PairDataset.from_sequences([numbered(2)], repeat=0), "repeat must be at least 1, got 0"),
        (lambda: PairDataset.from_sequences([numbered(2, [0, 1])]), "sequences must hold a target .* got none in 1"),
        (lambda: PairDataset.concat([]), "parts must be at least one, got none"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_index_out_of_range():
    with pytest.raises(IndexError, match="index must be from 0 to 1, got 2"):
        PairDataset.synthetic(0, 2)[2]
