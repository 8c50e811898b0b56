"""`tracker serve` without a browser: what it takes, what it gives, and what it gives to nobody."""

from __future__ import annotations

import re
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import tracker.cli as cli
from tests.support.commands import make_weights
from tracker import SiamFC, Tracker
from tracker.data.otb import read_boxes
from tracker.data.synthetic import SyntheticVideo
from tracker.io.draw import VideoError, VideoWriter
from tracker.io.sources import open_source
from tracker.network.checkpoint import save_state

pytest.importorskip("starlette", reason="needs the extra serve: pip install '.[serve]'")
anyio = pytest.importorskip("anyio", reason="comes with starlette")
httpx = pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")
from starlette.testclient import TestClient  # noqa: E402

from tests.support.serve_jobs import LIMITS, PATIENCE, Slow, until  # noqa: E402
from tracker.serve.app import create_app, moving  # noqa: E402
from tracker.serve.guard import COOKIE  # noqa: E402
from tracker.serve.jobs import Job  # noqa: E402
from tracker.serve.limits import Limits, Refused, check_box, check_video, only_whole_videos  # noqa: E402
from tracker.serve.store import Video  # noqa: E402
from tracker.serve.work import Worker  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

VIDEO = SyntheticVideo(0, 10, (160, 120), occlusions=0)
BOX = [float(v) for v in np.round(VIDEO.boxes[0])]
HOSTS = {"127.0.0.1", "localhost"}


def write_video(path: Path, frames: int = 10, size: tuple[int, int] = (160, 120), fps: float = 30) -> Path:
    with VideoWriter(path, size, fps) as video:
        for index in range(frames):
            video.write(VIDEO.image(index % 10) if size == (160, 120) else np.zeros((size[1], size[0], 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return Path(make_weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def worker(weights) -> Worker:
    return Worker(weights, device="cpu", limits=LIMITS)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.avi").read_bytes()


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """Where the server keeps what it has."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def app(folder, worker):
    return create_app(worker, LIMITS, hosts=HOSTS, sample_frames=6)


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client


def upload(client: TestClient, data: bytes) -> str:
    answer = client.post("/api/videos", content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def start(client: TestClient, video: str, task: str = "track", box: object = BOX) -> str:
    answer = client.post("/api/jobs", json={"task": task, "video": video, "box": box})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def wait(client: TestClient, job: str) -> dict:
    deadline = time.monotonic() + PATIENCE
    while not (status := client.get(f"/api/jobs/{job}").json())["ended"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def assert_refused(answer, status: int, match: str) -> None:
    message = answer.json()["error"]
    assert answer.status_code == status and re.search(match, message), (answer.status_code, message)
    assert "\n" not in message and str(Path(tempfile.gettempdir())) not in message


# --- what is tracked, and what is given


def test_track_and_download(client, clip, tmp_path, weights):
    described = client.post("/api/videos", content=clip).json()
    assert (described["width"], described["height"], described["frames"]) == (160, 120, 10)
    assert described["box"] is None
    first = client.get(f"/api/videos/{described['id']}/first.jpg").content
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(shown.astype(int) - VIDEO.image(0)).mean() < 8

    job = start(client, described["id"])
    status = wait(client, job)
    assert status["state"] == "done" and status["error"] == status["note"] == ""
    assert len(status["scores"]) == len(status["lost"]) == 10 and status["scores"][0] == 1
    assert client.get(f"/api/jobs/{job}?since=7").json()["scores"] == status["scores"][7:]
    assert status["summary"]["frames"] == 10 and status["summary"]["fps_tracker"] > 0
    assert status["summary"]["mean_overlap"] is None

    # The boxes are the tracker's own on the same frames.
    (tmp_path / "clip.avi").write_bytes(clip)
    expected = [r.box for r in Tracker.from_pretrained(weights, device="cpu").track(tmp_path / "clip.avi", BOX)]
    answer = client.get(f"/api/jobs/{job}/boxes.txt")
    assert "attachment" in answer.headers["content-disposition"]
    (tmp_path / "boxes.txt").write_bytes(answer.content)
    np.testing.assert_allclose(read_boxes(tmp_path / "boxes.txt") - (1, 1, 0, 0), expected, atol=0.006)

    answer = client.get(f"/api/jobs/{job}/video")
    assert answer.headers["content-type"] in ("video/webm", "video/mp4")
    result = tmp_path / status["video"]
    result.write_bytes(answer.content)
    with open_source(result) as frames:
        assert frames.size == (160, 120) and sum(1 for _ in frames) == 10
    part = client.get(f"/api/jobs/{job}/video", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == answer.content[10:20]
    preview = client.get(f"/api/jobs/{job}/preview.jpg").content
    assert cv2.imdecode(np.frombuffer(preview, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)


def test_sample_is_made_once_and_has_a_truth(client, folder):
    first, second = (client.post("/api/sample").json() for _ in range(2))
    assert first["frames"] == 6 and len(first["box"]) == 4 and first["id"] != second["id"]
    assert len(list(folder.glob("*/sample/*"))) == 1
    status = wait(client, start(client, first["id"], box=first["box"]))
    assert 0.1 < status["summary"]["mean_overlap"] <= 1
    client.delete(f"/api/videos/{first['id']}")
    assert len(list(folder.glob("*/sample/*"))) == 1  # of all who picked it


def test_comparison_gives_both_the_same_frames(client, clip):
    status = wait(client, start(client, upload(client, clip), "compare"))
    comparison = status["comparison"]
    assert status["state"] == "done" and comparison["frames"] == LIMITS.compared_frames - 1
    assert min(comparison["fused_fps"], comparison["reference_fps"]) > 0
    assert comparison["agreement"] > 0.99 and comparison["least"] > 0.98


def test_comparison_of_a_network_with_a_box_head(tmp_path, clip):
    torch.manual_seed(0)
    save_state(SiamFC(width=0.125, head="box", ops="reference"), tmp_path / "box.safetensors")
    video = Video("me", tmp_path, tmp_path / "clip.avi")
    video.path.write_bytes(clip)
    video.facts = check_video(video.path, LIMITS)
    worker = Worker(tmp_path / "box.safetensors", device="cpu", limits=LIMITS)
    job = Job(video, worker.compare, np.array(BOX))
    worker.compare(job)
    assert job.comparison["agreement"] > 0.99


def make_track(worker: Worker, folder: Path, data: bytes) -> Job:
    video = Video("me", folder, folder / "clip.avi")
    video.path.write_bytes(data)
    video.facts = check_video(video.path, LIMITS)
    return Job(video, worker.track, np.array(BOX))


def test_damaged_and_endless_videos_keep_what_was_tracked(tmp_path, worker, weights, clip):
    short = Worker(weights, device="cpu", limits=Limits(frames=4))
    job = make_track(short, tmp_path, clip)
    short.track(job)
    assert job.note.startswith("only the first 4 frames") and len(read_boxes(job.boxes)) == 4
    job = make_track(worker, tmp_path, clip[: len(clip) // 2])
    worker.track(job)
    count = len(read_boxes(job.boxes))
    assert 1 < count < 10 and job.note.startswith(f"the video could not be read beyond frame {count}")
    with open_source(job.result) as frames:
        assert sum(1 for _ in frames) == count


@pytest.mark.parametrize(
    ("cancelled", "match"), [(True, "the annotated video was not made"), (False, "could not be written")]
)
def test_boxes_are_kept_where_the_video_is_not_made(monkeypatch, tmp_path, worker, clip, cancelled, match):
    job = make_track(worker, tmp_path, clip)

    def begin(folder):
        if not cancelled:
            raise VideoError("no space left")
        job.cancelled.set()
        return ".avi"

    monkeypatch.setattr("tracker.serve.work.browser_format", begin)
    worker.track(job)
    assert match in job.note and job.result is None and len(read_boxes(job.boxes)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["clip.avi", job.boxes.name])


# --- what is refused


@pytest.mark.parametrize(
    ("box", "match"),
    [
        (None, "draw a box around the target first"),
        ([500, 10, 20, 20], "must overlap the image of 160 x 120 px, got 500, 10, 20, 20"),
        ([10, 10, 0, 20], "must have sides above 0"),
        ([10, 10, 20], "must be four finite numbers"),
        ("everything", "must be four finite numbers"),
        ([10, 10, float("inf"), 20], "must be four finite numbers"),
    ],
)
def test_bad_boxes(box, match):
    with pytest.raises(Refused, match=match):
        check_box(box, (160, 120))


def test_bad_requests(client, clip):
    video = upload(client, clip)
    assert_refused(client.post("/api/jobs", content=b"{"), 400, "must be a JSON object")
    assert_refused(client.post("/api/jobs", content=b" " * 20_000), 413, "must be smaller")
    assert_refused(client.post("/api/jobs", json={"video": "no"}), 404, "no longer here")
    answer = client.post("/api/jobs", json={"video": video, "task": "shell", "box": BOX})
    assert_refused(answer, 400, "task must be track or compare, got 'shell'")
    nan = f'{{"video": "{video}", "task": "track", "box": [NaN, 1, 2, 3]}}'
    assert_refused(client.post("/api/jobs", content=nan), 400, "must be four finite numbers")
    assert_refused(client.post("/api/jobs", json={"video": video, "task": "track"}), 400, "draw a box")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"plain text\n" * 100,
        b"\0" * 1000,
        b"\0\0\0\x18ftypmp42" + b"\0" * 500,
        b"#EXTM3U\n#\1\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        cv2.imencode(".png", VIDEO.image(0))[1].tobytes(),
    ],
    ids=["empty", "text", "zeros", "cut", "playlist", "picture"],
)
def test_files_that_are_no_video(client, folder, data):
    assert_refused(client.post("/api/videos", content=data), 415, "not a video that can be read here")
    assert [path.name for path in folder.glob("*/*")] == ["sample"]


def test_no_file_makes_the_server_read_another(folder, client, tmp_path):
    """A script that names another file on the disk: FFmpeg would play that file."""
    write_video(tmp_path / "private.avi")
    script = b"ffconcat version 1.0\n#\1\nfile private.avi\n"
    (tmp_path / "script").write_bytes(script)
    with pytest.raises(ValueError, match="must be a video that can be decoded"), only_whole_videos():
        open_source(tmp_path / "script")
    assert_refused(client.post("/api/videos", content=script), 415, "not a video")


def test_limits_of_a_video(client, folder, clip, tmp_path):
    made = tmp_path / "made"
    made.mkdir()

    def send(name: str, **how) -> object:
        return client.post("/api/videos", content=write_video(made / name, **how).read_bytes())

    assert_refused(send("long.avi", frames=31, fps=60), 400, "at most 30 frames, got 31")
    assert_refused(send("slow.avi", frames=10, fps=5), 400, "at most 1 seconds, got 2")
    assert_refused(send("wide.avi", size=(320, 240)), 400, "at most 0.04 million pixels, got 320 x 240")
    large = bytes(LIMITS.upload_bytes + 1)
    assert_refused(client.post("/api/videos", content=large), 413, "at most 0.5 MB")
    chunks = (large[:100_000] for _ in range(6))  # of no announced length
    assert_refused(client.post("/api/videos", content=chunks), 413, "at most 0.5 MB")
    assert [path.name for path in folder.glob("tracker-serve-*/*")] == ["sample"]


def test_the_pixels_of_the_picture_count_and_not_those_of_the_header(monkeypatch, tmp_path):
    class Wide:
        def __enter__(self):
            return iter([np.zeros((400, 600, 3), np.uint8)])

        def __exit__(self, *_):
            return None

    monkeypatch.setattr("tracker.serve.limits.open_source", lambda path, read_ahead: Wide())
    with pytest.raises(Refused, match="at most 0.04 million pixels, got 600 x 400"):
        check_video(write_video(tmp_path / "clip.avi"), LIMITS)


def test_an_upload_that_stands_still_ends():
    closed = []

    async def chunks():
        try:
            yield b"first"
            await anyio.sleep(PATIENCE)
        finally:
            closed.append(True)

    async def read():
        return [chunk async for chunk in moving(chunks(), 0.05, 1e9)]

    with pytest.raises(Refused, match="stood still for 0.05 seconds") as error:
        anyio.run(read)
    assert error.value.status == 408 and closed

    async def whole():
        yield b"a"
        yield b"b"

    async def read_whole():
        return [chunk async for chunk in moving(whole(), PATIENCE, 1.0)]

    assert anyio.run(read_whole) == [b"a", b"b"]

    async def trickle():
        while True:
            await anyio.sleep(0.01)
            yield b"a"

    async def read_slowly():
        return [chunk async for chunk in moving(trickle(), 0.1, 1e6)]  # never still for so long, and far too slow

    with pytest.raises(Refused, match="or was too slow"):
        anyio.run(read_slowly)


def test_a_newer_upload_takes_the_place_of_one_under_way(app, clip):
    """As when the page is loaded again while a file is on its way."""

    async def run():
        first_is_here = anyio.Event()
        answers = {}

        async def slowly():
            yield clip[:100]
            first_is_here.set()
            while "second" not in answers:
                await anyio.sleep(0.01)
            yield clip[100:]

        async def send(name, content):
            answers[name] = await browser.post("/api/videos", content=content)

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            await browser.get("/")  # the cookie
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, "first", slowly())
                await first_is_here.wait()
                await send("second", clip)
        return answers

    with TestClient(app, base_url="http://127.0.0.1"):  # the application, started
        answers = anyio.run(run)
    assert answers["second"].status_code == 201
    assert_refused(answers["first"], 409, "another upload took the place")


def test_cancel_through_the_page(client, worker, monkeypatch, clip):
    slow = Slow()
    monkeypatch.setattr(worker, "track", slow)
    job = start(client, upload(client, clip))
    until(lambda: slow.ran)
    assert_refused(client.get(f"/api/jobs/{job}/boxes.txt"), 409, "tracked to its end")
    assert_refused(client.get(f"/api/jobs/{job}/video"), 409, "not made yet")
    assert client.get(f"/api/jobs/{job}/preview.jpg").status_code == 404
    assert client.delete(f"/api/jobs/{job}").status_code == 204
    assert wait(client, job)["state"] == "cancelled"


# --- who gets what


def test_nobody_gets_what_is_of_others(app, clip):
    with TestClient(app, base_url="http://127.0.0.1") as mine:
        other = TestClient(app, base_url="http://127.0.0.1")  # another browser at the same server
        video = upload(mine, clip)
        job = start(mine, video)
        wait(mine, job)
        paths = [f"/api/jobs/{job}{end}" for end in ("", "/preview.jpg", "/boxes.txt", "/video")]
        paths.append(f"/api/videos/{video}/first.jpg")
        for path in paths:
            assert mine.get(path).status_code == 200
            assert_refused(other.get(path), 404, "no longer here")
        assert_refused(other.delete(f"/api/videos/{video}"), 404, "no longer here")
        assert_refused(other.delete(f"/api/jobs/{job}"), 404, "no longer here")
        answer = other.post("/api/jobs", json={"task": "track", "video": video, "box": BOX})
        assert_refused(answer, 404, "no longer here")
        assert mine.get(paths[0]).json()["state"] == "done"
        other.cookies.set(COOKIE, "guess", domain="127.0.0.1")
        assert other.get("/").cookies[COOKIE] != "guess"  # no token of a user's own choice


@pytest.mark.parametrize(
    "path",
    [
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/%2e%2e/app.py",
        "/page/....//app.py",
        "/page/..\\app.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/page/index.html%00.js",
        "/page/",
        "/etc/passwd",
        "//etc/passwd",
        "/../../../../etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/static//etc/passwd",
        "/api/jobs/..%2f..%2fetc%2fpasswd/video",
        "/api/jobs/%2e%2e/boxes.txt",
        "/api/videos/..%2f..%2f..%2fetc%2fpasswd/first.jpg",
        "/api/videos//etc/passwd",
    ],
)
def test_no_path_leads_to_a_file(client, path):
    """Sent as they stand: clients tidy paths up before they send them."""
    url = httpx.URL("http://127.0.0.1:7860").copy_with(raw_path=path.encode())
    answer = client.send(httpx.Request("GET", url))
    assert answer.status_code in (404, 405), answer.text
    assert "root:" not in answer.text and "import" not in answer.text


def test_the_page_is_whole_and_answers_are_guarded(client):
    page = client.get("/")
    assert page.status_code == 200 and "<h1>SiamFC tracker</h1>" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["cache-control"] == "no-store"
    assert re.search(r"HttpOnly; SameSite=Strict", page.headers["set-cookie"])
    names = set(re.findall(r'(?:src|href)="(/[^"]+)"', page.text))
    for name in list(names):
        answer = client.get(name)
        assert answer.status_code == 200
        names |= set(re.findall(r'from "(/[^"]+)"', answer.text)) if name.endswith(".js") else set()
    for name in names:
        text = client.get(name).text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"//[a-z0-9-]+\.[a-z]+", text), name  # comments have a blank there
    assert names == {f"/page/{name}" for name in "icon.svg style.css page.js box.js curve.js server.js".split()}


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ({"Host": "evil.example"}, "another name"),
        ({"Host": "evil.example:7860"}, "another name"),
        ({"Host": "127.0.0.1.evil.example"}, "another name"),
        ({"Origin": "http://evil.example"}, "another page"),
        ({"Origin": "null"}, "another page"),
        ({"Origin": "http://127.0.0.1:9999"}, "another page"),
    ],
)
def test_other_sites_get_nothing_done(client, headers, match):
    assert_refused(client.post("/api/sample", headers=headers), 403, match)


def test_own_names_and_origin_pass(client):
    for host in ("127.0.0.1:7860", "localhost:7860"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert client.post("/api/jobs", json={"video": ""}, headers=headers).status_code == 404


def test_nothing_is_left_behind(app, folder, clip):
    with TestClient(app, base_url="http://127.0.0.1") as client:
        kept, removed = upload(client, clip), upload(client, clip)
        wait(client, start(client, kept))
        assert len(list(folder.glob("tracker-serve-*/*"))) == 3
        assert client.delete(f"/api/videos/{removed}").status_code == 204
        assert len(list(folder.glob("tracker-serve-*/*"))) == 2
    assert list(folder.glob("tracker-serve-*")) == []
    assert "tracker-jobs" not in {thread.name for thread in threading.enumerate()}


def test_a_failure_shows_no_traceback(app, monkeypatch, clip):
    def broken(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("tracker.serve.app.check_video", broken)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        assert_refused(client.post("/api/videos", content=clip), 500, "see the terminal of the server")


# --- the command


def run(capsys, *arguments) -> tuple[int, str]:
    code = cli.main(["serve", "--no-open", *map(str, arguments)])
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return code, printed.err


def test_mistakes_of_the_command_are_one_line(capsys, monkeypatch, tmp_path, weights):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, error = run(capsys, "--weights", weights, "--device", "cpu", "--port", taken.getsockname()[1])
        assert code == 2 and re.search(r"--host and --port must be free to listen at, got 127.0.0.1:\d+ \(", error)
    code, error = run(capsys, "--weights", weights, "--device", "cpu", "--host", "no.such.host.invalid")
    assert code == 2 and "--host must be an address of this machine, got 'no.such.host.invalid'" in error
    code, error = run(capsys, "--weights", tmp_path / "none.pth")
    assert code == 2 and "--weights must be an existing file" in error
    code, error = run(capsys, "--device", "toaster")
    assert code == 2 and "--device must be cpu, cuda or cuda:N, got 'toaster'" in error
    code, error = run(capsys, "--max-frames", 0)
    assert code == 2 and "max-frames" in error
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, error = run(capsys)
    assert code == 2 and "uvicorn must be installed: pip install" in error


# ---- a page that is loaded again -----------------------------------------------------------------------------


def test_a_page_that_is_loaded_again_finds_its_run(client, clip, monkeypatch, worker):
    assert client.get("/api/session").json() == {"video": None, "run": None, "comparing": None}
    slow = Slow()
    monkeypatch.setattr(worker, "track", slow)
    video = upload(client, clip)
    assert client.get("/api/session").json()["run"] is None
    job = start(client, video)
    until(lambda: slow.ran)
    session = client.get("/api/session").json()
    assert session["video"]["id"] == video and session["run"] == {"id": job, "box": BOX}
    upload(client, clip)  # in a second tab: the page shows the run that is under way, and its Cancel
    assert client.get("/api/session").json()["run"]["id"] == job
    assert client.delete(f"/api/jobs/{job}").status_code == 204
    assert wait(client, job)["state"] == "cancelled"
    assert client.get("/api/session").json()["run"] is None
    client.cookies.clear()
    assert client.get("/api/session").json()["video"] is None


def test_a_page_asks_for_the_state_of_its_job(client, clip, monkeypatch, worker):
    slow = Slow()
    monkeypatch.setattr(worker, "track", slow)
    job = start(client, upload(client, clip))
    until(lambda: slow.ran)
    slow.ran[0].watched = before = time.monotonic() - 100
    client.get(f"/api/jobs/{job}")
    assert slow.ran[0].watched > before
    slow.go_on.set()


def test_the_connection_of_an_upload_that_is_refused_closes(client):
    answer = client.post("/api/videos", content=bytes(LIMITS.upload_bytes + 1))
    assert answer.status_code == 413 and answer.headers["connection"] == "close"
