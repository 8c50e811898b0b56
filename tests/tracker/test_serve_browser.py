"""`tracker serve` as a user has it: the command, headless Chromium, the mouse."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.paths import ROOT
from tracker import SiamFC
from tracker.data.otb import read_boxes
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.io.draw import VideoWriter
from tracker.io.sources import open_source
from tracker.network.checkpoint import save_state

pytest.importorskip("starlette", reason="needs the extra serve: pip install '.[serve]'")
pytest.importorskip("uvicorn", reason="needs the extra serve: pip install '.[serve]'")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
]

VIDEO = SyntheticVideo(0, 16, (192, 144), occlusions=0, distractors=0, speed=0.05)
PATIENCE = 300_000  # milliseconds, on a machine that is busy with other things


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights, a video, and what is no video."""
    folder = tmp_path_factory.mktemp("serve")
    torch.manual_seed(0)
    save_state(SiamFC("mish", "se", width=0.125, ops="reference"), folder / "net.safetensors")
    with VideoWriter(folder / "clip.mp4", VIDEO.size, 30) as video:
        for image in VIDEO.images():
            video.write(image)
    (folder / "notes.mp4").write_text("these are notes\n" * 50)
    (folder / "temporary").mkdir()
    return folder


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    """The command in a process of its own; Ctrl-C ends it, and nothing is left of it."""
    command = [sys.executable, "-m", "tracker", "serve", "--weights", folder / "net.safetensors", "--device", "cpu"]
    command += ["--port", "0", "--no-open", "--max-upload", "0.5", "--max-frames", "150"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "temporary")}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = server.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+ ", line), (line, (folder / "log").read_text())
        yield line.split()[0]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=PATIENCE / 1e3) == 0
        assert list((folder / "temporary").iterdir()) == []
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        server.kill()
        server.stdout.close()


@pytest.fixture(scope="module")
def browser(address) -> Iterator[api.Browser]:
    with api.sync_playwright() as playwright:
        # Most machines that run tests have no sandbox to give; nothing but our own page is opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator[api.Page]:
    """The page in a browser that was never here; every request must go to the server, and no script may fail."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    api.expect(page.locator("#limits")).to_contain_text("up to 0.5 MB", timeout=PATIENCE)
    yield page
    context.close()
    assert asked and all(url.startswith((f"{address}/", f"blob:{address}")) for url in asked), asked
    assert problems == []


def shows(page: api.Page, view: str | re.Pattern[str]) -> None:
    api.expect(page.locator("body")).to_have_attribute("data-view", view, timeout=PATIENCE)


def drag(page: api.Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag on the first frame, from one of its pixels to another."""
    place = page.locator("#frame").bounding_box()
    scale = place["width"] / VIDEO.size[0]
    page.mouse.move(place["x"] + start[0] * scale, place["y"] + start[1] * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + end[0] * scale, place["y"] + end[1] * scale, steps=4)
    page.mouse.up()


def box_shown(page: api.Page) -> list[float]:
    return [float(page.locator(f"#{name}").input_value() or "nan") for name in "xywh"]


def download(page: api.Page, link: str, path: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator(link).click()
    waiting.value.save_as(path)
    return path


def test_upload_draw_track_compare_download(page, folder, tmp_path):
    page.locator("#file").set_input_files(folder / "clip.mp4")
    shows(page, "draw")
    api.expect(page.locator("#about-video")).to_have_text("clip.mp4: 192 × 144, 16 frames, 0.5 s")

    # A click draws nothing, and without a box the page says what is missing.
    drag(page, (20, 20), (20, 20))
    page.locator("#track").click()
    api.expect(page.locator("#error")).to_contain_text("Draw a box around the target first", timeout=PATIENCE)
    page.locator("#x").fill("500")
    for name in "ywh":
        page.locator(f"#{name}").fill("20")
    page.locator("#track").click()
    api.expect(page.locator("#error")).to_contain_text("Box must overlap the image", timeout=PATIENCE)

    # Drawn with the mouse over half of the target, then the corner dragged to its end and the box moved there and back.
    x, y, w, h = (round(v) for v in VIDEO.boxes[0])
    drag(page, (x, y), (x + w // 2, y + h // 2))
    api.expect(page.locator("#error")).to_be_hidden()
    assert box_shown(page) == pytest.approx([x, y, w // 2, h // 2], abs=1)
    drag(page, (x + w // 2, y + h // 2), (x + w, y + h))
    assert box_shown(page) == pytest.approx([x, y, w, h], abs=1)
    drag(page, (x + w / 2, y + h / 2), (x + w / 2 - 9, y + h / 2))
    assert box_shown(page) == pytest.approx([x - 9, y, w, h], abs=1)
    drag(page, (x + w / 2 - 9, y + h / 2), (x + w / 2, y + h / 2))
    drawn = box_shown(page)
    assert drawn == pytest.approx([x, y, w, h], abs=2)

    page.locator("#track").click()
    shows(page, "done")
    api.expect(page.locator("#error")).to_be_hidden()
    api.expect(page.locator("#count")).to_have_text("16")
    assert re.fullmatch(r"[\d.]+ fps", page.locator("#fps").inner_text())
    # The browser plays the video, and the curve has ink.
    deadline = time.monotonic() + PATIENCE / 1e3
    while not page.evaluate("() => document.getElementById('result').currentTime > 0.1"):
        assert time.monotonic() < deadline, page.evaluate("() => document.getElementById('result').error?.message")
        time.sleep(0.1)
    assert page.evaluate("() => document.getElementById('result').videoWidth") == VIDEO.size[0]
    assert page.evaluate(
        "() => { const c = document.getElementById('curve');"
        " return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v) }"
    )

    boxes = read_boxes(download(page, "#get-boxes", tmp_path / "boxes.txt")) - (1, 1, 0, 0)
    assert len(boxes) == len(VIDEO)
    np.testing.assert_allclose(boxes[0], drawn)
    assert iou(boxes, VIDEO.boxes).mean() > 0.5
    name = page.locator("#get-video").get_attribute("download")
    with open_source(download(page, "#get-video", tmp_path / name)) as frames:
        assert frames.size == VIDEO.size and sum(1 for _ in frames) == len(VIDEO)

    page.locator("#compare").click()
    api.expect(page.locator("#agreement")).to_contain_text("over 15 frames", timeout=PATIENCE)
    agreement = re.search(r"× as fast; overlap of the boxes ([\d.]+)", page.locator("#agreement").inner_text())
    assert float(agreement[1]) > 0.99
    api.expect(page.locator("#compare")).to_be_visible(timeout=PATIENCE)


def test_sample_cancel_and_another_box(page):
    page.locator("#sample").click()
    shows(page, "draw")
    assert np.isfinite(box_shown(page)).all()  # a proposal
    page.locator("#track").click()
    shows(page, "run")
    page.locator("#cancel").click()
    shows(page, re.compile("draw|done"))  # done where all was tracked and only the video was left to make
    api.expect(page.locator("#get-video")).to_be_hidden()
    page.locator("#again").click()
    shows(page, "empty")
    api.expect(page.locator("#drop")).to_contain_text("Drop a video here")


def test_mistakes_are_told(page, folder):
    page.locator("#file").set_input_files(folder / "notes.mp4")
    api.expect(page.locator("#error")).to_contain_text("This file is not a video that can be read", timeout=PATIENCE)
    shows(page, "empty")
    page.locator("#file").set_input_files({"name": "big.mp4", "mimeType": "video/mp4", "buffer": bytes(600_000)})
    api.expect(page.locator("#error")).to_contain_text("The file must have at most 0.5 MB", timeout=PATIENCE)
    page.locator("#error button").click()
    api.expect(page.locator("#error")).to_be_hidden()


def test_a_reload_finds_the_run_again(page):
    page.locator("#sample").click()
    shows(page, "draw")
    box = box_shown(page)
    page.locator("#track").click()
    shows(page, "run")
    page.reload()
    shows(page, re.compile("run|done"))
    api.expect(page.locator("#error")).to_be_hidden()
    api.expect(page.locator("#about-video")).to_contain_text("Sample")
    shows(page, "done")
    assert box_shown(page) == box and page.locator("#count").inner_text() != "–"
    page.reload()  # what was tracked is still there
    shows(page, "done")
    page.locator("#again").click()
    shows(page, "empty")


def test_cancel_after_a_reload(page):
    page.locator("#sample").click()
    shows(page, "draw")
    page.locator("#track").click()
    shows(page, "run")
    page.reload()
    shows(page, "run")
    api.expect(page.locator("#cancel")).to_be_visible()
    page.locator("#cancel").click()
    shows(page, re.compile("draw|done"))
