"""`open_source`: every kind of source gives the same frames; every broken one gives one clear line."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.commands import make_weights, run
from tracker import SiamFC, Tracker
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.io import sources
from tracker.io.draw import VideoWriter
from tracker.io.images import ImageError, read_image
from tracker.io.sources import Source, SourceError, open_source


def frames_of(count: int = 12, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Frames that differ in all channels and in each index."""
    y, x = np.mgrid[: size[1], : size[0]]
    return [np.dstack([x * 3, y * 4, np.full_like(x, 9 * i)]).astype(np.uint8) for i in range(count)]


def write_images(folder, images, name="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / name.format(index)), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def write_video(path, images, fps=25.0):
    with VideoWriter(path, images[0].shape[1::-1], fps) as video:
        for image in images:
            video.write(image)
    return path


def assert_frames(source: Source, expected: list[np.ndarray], tolerance: int = 0) -> None:
    got = list(source)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.uint8 and a.shape == b.shape
        assert abs(a.astype(int) - b).mean() <= tolerance


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_folder_in_natural_order(tmp_path):
    images = frames_of()  # 0.png .. 11.png: "10.png" sorts before "2.png" as text
    folder = write_images(tmp_path / "run", images)
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._0.png").write_bytes(b"resource fork")
    with open_source(folder) as source:
        assert (source.size, source.frame_count, source.fps, source.name) == ((64, 48), 12, None, str(folder))
        assert_frames(source, images)


def test_sequence_folder_and_glob_and_single_image(tmp_path):
    images = frames_of(3)
    folder = write_images(tmp_path / "Car4" / "img", images)
    (tmp_path / "Car4" / "groundtruth_rect.txt").write_text("1,1,10,10\n")
    assert_frames(open_source(str(tmp_path / "Car4")), images)
    assert_frames(open_source(str(folder / "*.png")), images)
    assert_frames(open_source(folder / "1.png"), images[1:2])


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_video_file(tmp_path, name):
    images = frames_of()
    with open_source(write_video(tmp_path / name, images)) as source:
        assert (source.size, source.frame_count, source.fps) == ((64, 48), 12, 25.0)
        assert_frames(source, images, tolerance=6)


def test_arrays_and_iterables():
    images = frames_of(4)
    assert open_source(np.stack(images)).frame_count == 4
    assert_frames(open_source(np.stack(images)), images)
    generator = open_source(image for image in images)
    assert generator.frame_count is None and generator.size == (64, 48)
    assert_frames(generator, images)
    grey = [image[..., 0] for image in images]
    for source in (np.stack(grey), iter(grey), [image[..., None] for image in grey]):
        assert_frames(open_source(source), [np.dstack([image] * 3) for image in grey])
    source = open_source(images)
    assert open_source(source) is source


def test_frames_are_read_on_demand_and_the_generator_is_closed():
    read = []

    def camera():
        try:
            for index, image in enumerate(frames_of(9)):
                read.append(index)
                yield image
        finally:
            read.append("closed")

    with open_source(camera()) as source:
        next(source), next(source)
    assert read == [0, 1, "closed"]
    source.close()
    assert list(source) == []


@pytest.mark.parametrize("number", [2, "2", "camera:2", np.int64(2)])
def test_camera_numbers(monkeypatch, number):
    opened = []
    ready = threading.Semaphore()  # a frame as soon as the one before it was taken: none is dropped

    class Capture:
        def __init__(self, index):
            opened.append(index)
            self.left = 3

        def isOpened(self):
            return True

        def get(self, _):
            return 0.0

        def read(self):
            assert ready.acquire(timeout=10)
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (10, 20, 30), np.uint8)

        def release(self):
            opened.append("released")

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    with open_source(number) as source:
        assert (source.fps, source.frame_count, source.name) == (None, None, "camera 2")
        got = []
        for frame in source:
            got.append(frame)
            ready.release()
    assert len(got) == 3 and got[0][0, 0].tolist() == [30, 20, 10]  # BGR from OpenCV became RGB
    assert opened == [2, "released"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", None])
def test_reading_ahead_changes_no_frame(tmp_path, suffix):
    images = frames_of(30)
    source = write_video(tmp_path / f"a{suffix}", images) if suffix else write_images(tmp_path / "run", images)
    expected = list(open_source(source, read_ahead=0))
    for depth in (1, 4, 100):
        assert_frames(open_source(source, read_ahead=depth), expected)
    assert len(expected) == 30 and not reading()


def test_the_thread_reads_from_the_first_frame_to_the_close(tmp_path):
    folder = write_images(tmp_path / "run", frames_of(12))
    source = open_source(folder)
    assert not reading()  # opened, perhaps only for its size
    next(source)
    assert len(reading()) == 1
    source.close()
    assert not reading() and list(source) == []
    with pytest.raises(KeyboardInterrupt), open_source(folder) as source:
        for _ in source:
            raise KeyboardInterrupt
    assert not reading()
    for _ in open_source(folder):  # no `with`, no `close`
        break
    gc.collect()
    assert not reading()
    with open_source(frames_of(3)) as source:
        next(source)
        assert not reading()  # the caller's own iterables are never read ahead
    with pytest.raises(ValueError, match="read_ahead must be at least 0, got -1"):
        open_source(folder, read_ahead=-1)


@pytest.mark.parametrize(
    ("address", "frame_count", "live"),
    [
        (0, 0, True),
        ("rtsp://camera/stream", 0, True),
        ("UDP://@:1234", -1, True),
        ("rtsp://server/recording", 90, False),
        ("http://server/video.ts", 0, False),
    ],
)
def test_live_sources_give_the_newest_frame(monkeypatch, address, frame_count, live):
    produced = threading.Semaphore(1)
    drained = threading.Event()

    class Capture:
        def __init__(self, *_):
            self.index = -1

        def isOpened(self):
            return True

        def get(self, key):
            return float(frame_count) if key == cv2.CAP_PROP_FRAME_COUNT else 30.0

        def read(self):
            if self.index == 89:
                drained.set()
                return False, None
            assert produced.acquire(timeout=10)
            self.index += 1
            return True, np.full((4, 6, 3), self.index, np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)
    with open_source(address) as source:
        got = [next(source)[0, 0, 0]]
        produced.release(89)
        if live:  # three seconds pass while the first frame is looked at
            assert drained.wait(10)
        got += [frame[0, 0, 0] for frame in source]
    assert got == ([0, 89] if live else list(range(90)))


def test_missing_and_wrong_kinds(tmp_path):
    with pytest.raises(SourceError, match="must be an existing file, folder, pattern or camera, got .*nope.mp4"):
        open_source(tmp_path / "nope.mp4")
    with pytest.raises(SourceError, match="must be a folder that holds images, got none in"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="must be a pattern that matches images, got"):
        open_source(str(tmp_path / "*.png"))
    (tmp_path / "boxes.txt").write_text("1,2,3,4\n" * 500)
    with pytest.raises(SourceError, match="must be a video or an image, got the text file .*boxes.txt"):
        open_source(tmp_path / "boxes.txt")
    with pytest.raises(SourceError, match="must be a path, a glob pattern, .* got float"):
        open_source(1.5)
    with pytest.raises(SourceError, match="must hold at least one frame, got none in list"):
        open_source([])


def test_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(
        sources.cv2, "VideoCapture", lambda _: types.SimpleNamespace(isOpened=lambda: False, release=lambda: None)
    )
    with pytest.raises(SourceError, match="camera 3 must be connected and free"):
        open_source("camera:3")


def test_unreadable_videos(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", frames_of(40)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # the index at the end of the file is gone
    with pytest.raises(SourceError, match="cut.mp4' must be a video that can be decoded"):
        open_source(tmp_path / "cut.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match="empty.mp4' must be a video that can be decoded"):
        open_source(tmp_path / "empty.mp4")


def test_raw_video_is_not_text(tmp_path):
    frame = b"FRAME\n" + bytes([120]) * (64 * 48 * 3 // 2)
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n" + frame * 3)
    with open_source(tmp_path / "a.y4m") as source:
        assert (source.size, source.fps, len(list(source))) == ((64, 48), 25.0, 3)


def stub_capture(monkeypatch, seconds_per_frame: float) -> None:
    """A video of 30 frames whose header says 100 frames, 25 per second: 4 seconds."""

    class Capture:
        def __init__(self, *_):
            self.frames = 0

        def isOpened(self):
            return True

        def get(self, key):
            position = (self.frames - 1) * seconds_per_frame * 1e3
            properties = {cv2.CAP_PROP_FRAME_COUNT: 100.0, cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_POS_MSEC: position}
            return properties.get(key, 0.0)  # OpenCV's answer to what a source does not know

        def read(self):
            self.frames += 1
            return self.frames <= 30, np.zeros((4, 6, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(sources.cv2, "VideoCapture", Capture)


def test_variable_frame_rate_is_no_truncation(monkeypatch):
    stub_capture(monkeypatch, seconds_per_frame=3.9 / 29)  # the last frame lies at the end
    assert len(list(open_source("rtsp://somewhere/stream"))) == 30


def test_truncated_file_without_a_stored_count(tmp_path):
    """Matroska stores a length, no count: OpenCV's count is a guess."""
    path = tmp_path / "whole.mkv"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no Matroska files")
    for image in frames_of(40):
        writer.write(image)
    writer.release()
    assert len(list(open_source(path))) == 40
    content = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="cut.mkv' must hold 40 frames as its header says, got "):
        list(open_source(tmp_path / "cut.mkv"))


def test_video_that_ends_before_its_header_says(monkeypatch):
    stub_capture(monkeypatch, seconds_per_frame=1 / 25)
    source = open_source("rtsp://somewhere/stream")
    got = []
    with pytest.raises(SourceError, match="must hold 100 frames as its header says, got 30"):
        for frame in source:
            got.append(frame)
    assert len(got) == 30  # what can be decoded is given first


def test_damaged_image_is_named_when_it_is_reached(tmp_path):
    folder = write_images(tmp_path / "run", frames_of(5))
    (folder / "3.png").write_bytes(b"\x89PNG\r\n but no more")
    source = open_source(folder)
    for _ in range(3):
        next(source)
    with pytest.raises(SourceError, match="3.png' must be an image that can be decoded"):
        next(source)


def test_size_change_and_wrong_frames(tmp_path):
    images = frames_of(3)
    images[2] = images[2][:, :40]
    source = open_source(write_images(tmp_path / "run", images))
    next(source), next(source)
    with pytest.raises(SourceError, match="frame 2 of .* must be 64x48 like the first, got 40x48"):
        next(source)
    with pytest.raises(SourceError, match=r"frame 0 of list must be a uint8 .*, got float32 \[4, 4, 3\]"):
        open_source([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(SourceError, match=r"frame 0 of list must be a uint8 .*\[H, W\], got float32 \[4, 4\]"):
        open_source([np.zeros((4, 4), np.float32)])
    with pytest.raises(SourceError, match=r"frame 0 of ndarray must be .*, got uint8 \[64\]"):
        open_source(np.zeros((48, 64), np.uint8))
    for channels in (1, 3):
        with pytest.raises(SourceError, match=rf"must be frames .*, got a single image \[48, 64, {channels}\]"):
            open_source(np.zeros((48, 64, channels), np.uint8))


# ---- sources as other programs have them ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, iter, "text"])
def test_paths_of_images(tmp_path, monkeypatch, kind):
    images = frames_of(5)
    folder = write_images(tmp_path / "run", images)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [folder / f"{index}.png" for index in range(5)]
    source = [f"~/run/{path.name}" for path in paths] if kind == "text" else kind(paths)
    assert_frames(open_source(source), images)
    with pytest.raises(SourceError, match="nope.png' must be an image that can be decoded: image must be a readable"):
        list(open_source([*paths, "nope.png"]))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA"])
def test_pil_images(mode):
    pil = pytest.importorskip("PIL.Image")
    images = [pil.fromarray(image).convert(mode) for image in frames_of(3)]
    assert_frames(open_source(images), [np.asarray(image.convert("RGB")) for image in images])
    with pytest.raises(SourceError, match="must be frames, got a single PIL image 64x48"):
        open_source(images[0])


def test_a_tracker_takes_pil_images():
    pil = pytest.importorskip("PIL.Image")
    video = SyntheticVideo(0, 3, (160, 120), occlusions=0)
    boxes = []
    for convert in (lambda image: image, pil.fromarray):
        for backend in ("fastops", "eager"):
            tracker = Tracker(SiamFC(width=0.125), backend=backend)
            torch.manual_seed(0)
            tracker.init(convert(video.image(0)), video.boxes[0])
            boxes.append(tracker.update(convert(video.image(1))).box.shape)
    assert set(boxes) == {(4,)}


def test_an_open_capture(tmp_path):
    images = frames_of(6)
    capture = cv2.VideoCapture(str(write_video(tmp_path / "a.avi", images)))
    capture.read()
    with open_source(capture) as source:
        assert source.fps == 25 and len(list(source)) == 5  # from its next frame on
    assert capture.isOpened()  # it is not ours to close
    capture.release()
    with pytest.raises(SourceError, match="must be an open cv2.VideoCapture, got one that is closed"):
        open_source(capture)


@pytest.mark.parametrize("name", ["run [1]", "a[b]c", "100%03d", "seq{1,2}", "*"])
def test_folders_of_odd_names(tmp_path, name):
    images = frames_of(3)
    folder = write_images(tmp_path / name, images)
    assert_frames(open_source(folder), images)
    assert_frames(open_source(str(folder / "*.png")), images)
    assert_frames(open_source(write_video(folder / "v.avi", images)), images, tolerance=4)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images = frames_of(3)
    write_images(tmp_path / "run", images)
    for source in ("~/run", "~/run/*.png", "~/run/0.png"):
        assert next(open_source(source)).shape == (48, 64, 3)
    assert sources.is_path("~/run/0.png")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_images_of_more_bits_are_scaled(tmp_path, bits, suffix):
    levels = np.linspace(0, (1 << bits) - 1, 48 * 64).reshape(48, 64, 1).repeat(3, 2)
    image = levels.round().astype(np.uint8 if bits == 8 else np.uint16)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), image)
    got = next(open_source(path))
    assert np.array_equal(got, (image >> (bits - 8)).astype(np.uint8)) and np.array_equal(got, read_image(path))


@pytest.mark.parametrize("largest", [1.0, 255.0])
def test_floating_point_images(tmp_path, largest):
    image = np.linspace(0, largest, 48 * 64, dtype=np.float32).reshape(48, 64)
    cv2.imwrite(str(tmp_path / "a.tiff"), image)
    assert next(open_source(tmp_path / "a.tiff")).max() == 255


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_every_reader_refuses_a_jpeg_cut_in_half(tmp_path, part):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(part * len(data))])
    for source in (path, tmp_path, [path]):
        with pytest.raises(
            SourceError, match="a.jpg' must be an image that can be decoded: image must be a whole JPEG"
        ):
            open_source(source)
    with pytest.raises(ImageError, match="a.jpg: image must be a whole JPEG, got a truncated one"):
        Sequence("a", [path], np.array([[1, 1, 9, 9]])).image(0)


@pytest.mark.parametrize("protocol", ["rtsp", "http", "tcp"])
def test_a_stream_that_does_not_answer(monkeypatch, protocol):
    monkeypatch.setattr(sources, "STREAM_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{protocol}://127.0.0.1:{server.getsockname()[1]}/a"
        began = time.monotonic()
        with pytest.raises(
            SourceError, match=f"stream '{address}' must be reachable and send a video, got no answer in"
        ):
            open_source(address)
        assert time.monotonic() - began < 8
    with pytest.raises(SourceError, match=f"stream '{address}' must be reachable and send a video, got no video"):
        open_source(address)  # nobody listens any more


def with_pixel_aspect(path: Path, above: int, below: int) -> Path:
    """Add a box "pasp" to the description of the frames of an MP4 file: pixels are above / below as wide as high."""
    data = bytearray(path.read_bytes())
    start = data.find(b"mp4v", data.find(b"stsd")) - 4
    end = start + int.from_bytes(data[start : start + 4], "big")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):  # the boxes around it
        at = data.find(name) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 16).to_bytes(4, "big")
    data[start : start + 4] = (end - start + 16).to_bytes(4, "big")
    data[end:end] = struct.pack(">I4sII", 16, b"pasp", above, below)
    path.write_bytes(data)
    return path


def write_mpeg4(path: Path) -> Path:
    """A video in a codec that every build of OpenCV has, so that its boxes are known."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    for image in frames_of(4):
        writer.write(image)
    writer.release()
    return path


@pytest.mark.parametrize(
    "above, below, aspect",
    [(64, 45, 64 / 45), (8, 9, 8 / 9), (1, 1, 1), (65535, 1, 1), (1, 9, 1), (0, 1, 1), (1, 0, 1), (2**32 - 1, 3, 1)],
)
def test_pixels_that_are_not_square(tmp_path, above, below, aspect):
    path = with_pixel_aspect(write_mpeg4(tmp_path / "a.mp4"), above, below)
    with open_source(path) as frames:
        assert frames.pixel_aspect == aspect and frames.size == (64, 48)
        assert next(frames).shape == (48, 64, 3) and sum(1 for _ in frames) == 3
    capture = cv2.VideoCapture(str(path))
    with open_source(capture) as frames:
        assert frames.pixel_aspect == aspect
    capture.release()


def test_a_tracked_video_has_the_shape_that_the_source_shows(capsys, tmp_path):
    source, output = with_pixel_aspect(write_mpeg4(tmp_path / "a.mp4"), 3, 2), tmp_path / "out.avi"
    weights, results = make_weights(tmp_path), tmp_path / "boxes.txt"
    code, _, _ = run(
        capsys, "track", source, "--box", "20,10,20,20", "--weights", weights, "-o", output, "--results", results
    )
    assert code == 0 and results.read_text().startswith("21.00,11.00,20.00,20.00\n")  # in the pixels of the file
    with open_source(output) as frames:
        assert frames.size == (96, 48)


@pytest.mark.parametrize("number", [-1, 2**31, "camera:99999999999999999999"])
def test_a_number_that_no_camera_has(number):
    with pytest.raises(SourceError, match="^camera must be a number from 0 to 2147483647, got "):
        open_source(number)


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    write_images(tmp_path, frames_of(2))
    monkeypatch.chdir(tmp_path)
    assert open_source(".").frame_count == 2
    with pytest.raises(SourceError, match="^source must be a path, .* got ''$"):
        open_source("")
