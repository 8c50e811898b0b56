"""The web server: the files of the page and its API. A path in a request is never a path on the disk."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from tracker.serve.guard import Guard
from tracker.serve.jobs import ENDED, Job, Jobs
from tracker.serve.limits import Limits, Refused, check_box, check_upload_size, check_video, only_whole_videos
from tracker.serve.sample import Sample
from tracker.serve.store import Store, Video, own_folder
from tracker.serve.work import Worker, encode_jpeg

PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MEDIA = {".mp4": "video/mp4", ".webm": "video/webm"}
LARGEST_REQUEST = 10_000  # bytes of JSON


def create_app(
    worker: Worker, limits: Limits, *, hosts: Collection[str] | None, sample_frames: int | None = None
) -> Starlette:
    """The page as an ASGI application. Its data are in a temporary folder that exists while it runs.

    Args:
        worker: runs the jobs.
        limits: of videos and jobs.
        hosts: host names that requests may use; None allows any.
        sample_frames: length of the built-in video.
    """
    # Read once, so no request opens a file by its name.
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in TYPES}
    server = _Server(worker, limits)

    def asset(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return Response(files[name], media_type=TYPES[Path(name).suffix])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with own_folder() as folder, only_whole_videos():
            server.open(folder, {} if sample_frames is None else {"frames": sample_frames})
            try:
                yield
            finally:
                await run_in_threadpool(server.jobs.close)

    routes = [
        Route("/", lambda request: asset("index.html")),
        Route("/page/{name}", lambda request: asset(request.path_params["name"])),
        Route("/api/limits", server.tell_limits),
        Route("/api/session", server.tell_session),
        Route("/api/videos", server.upload, methods=["POST"]),
        Route("/api/sample", server.pick_sample, methods=["POST"]),
        Route("/api/videos/{id}", server.remove, methods=["DELETE"]),
        Route("/api/videos/{id}/first.jpg", server.first_frame),
        Route("/api/jobs", server.start, methods=["POST"]),
        Route("/api/jobs/{id}", server.status),
        Route("/api/jobs/{id}", server.cancel, methods=["DELETE"]),
        Route("/api/jobs/{id}/preview.jpg", server.preview),
        Route("/api/jobs/{id}/boxes.txt", server.boxes),
        Route("/api/jobs/{id}/video", server.video),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={Refused: _refuse, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _failure},
    )


class _Server:
    """State shared by the routes. Handlers run in the event loop; slow work runs in other threads."""

    def __init__(self, worker: Worker, limits: Limits) -> None:
        self._worker, self._limits = worker, limits

    def open(self, folder: Path, sample: dict[str, Any]) -> None:
        self.jobs = Jobs(self._limits)
        self._store = Store(folder, self._limits, in_use=self.jobs.needs, removed=self.jobs.forget)
        (folder / "sample").mkdir()
        self._sample = Sample(folder / "sample", **sample)

    async def tell_limits(self, request: Request) -> Response:
        limits = self._limits
        return JSONResponse({"bytes": limits.upload_bytes, "seconds": limits.seconds, "frames": limits.frames})

    async def tell_session(self, request: Request) -> Response:
        """What a page shows after a reload: the browser's video, its last run, and a running comparison."""
        owner = request.scope["owner"]
        video = self.jobs.active_video(owner) or self._store.newest(owner)
        if video is None or video.facts is None:
            return JSONResponse({"video": None, "run": None, "comparing": None})
        jobs = self.jobs.of_video(video)
        runs = [job for job in jobs if job.task == self._worker.track and job.state not in ("failed", "cancelled")]
        comparing = [job.id for job in jobs if job.task == self._worker.compare and job.state not in ENDED]
        run = {"id": runs[-1].id, "box": runs[-1].box.tolist()} if runs else None
        return JSONResponse({"video": _describe(video), "run": run, "comparing": comparing[0] if comparing else None})

    async def upload(self, request: Request) -> Response:
        """Receive a file as the body, so that it can be counted and refused while it arrives."""
        limits = self._limits
        announced = request.headers.get("content-length", "0")
        check_upload_size(int(announced) if announced.isdecimal() else 0, limits)
        video = self._store.add(request.scope["owner"])
        try:
            received = 0
            with video.path.open("wb") as file:
                async for chunk in moving(request.stream(), limits.stall_seconds, limits.least_rate):
                    self._still_wanted(video)
                    received += len(chunk)
                    check_upload_size(received, limits)
                    await run_in_threadpool(file.write, chunk)
            try:
                facts = await run_in_threadpool(check_video, video.path, limits)
            finally:
                self._still_wanted(video)  # another upload may have removed the file: that is then the reason to report
            video.facts = facts
        except BaseException:  # also if the browser disconnects
            self._store.remove(video)
            raise
        return JSONResponse(_describe(video), 201)

    async def pick_sample(self, request: Request) -> Response:
        path = await run_in_threadpool(self._sample.path)
        facts = await run_in_threadpool(check_video, path, Limits())  # the server's limits are for uploads
        video = self._store.add(request.scope["owner"], path)
        video.facts, video.truth = facts, self._sample.truth
        return JSONResponse(_describe(video), 201)

    async def remove(self, request: Request) -> Response:
        video = self._find_video(request)
        self._store.forget(video)  # first, so that no new job starts while the running one ends
        await run_in_threadpool(self._store.drop, video)
        return Response(status_code=204)

    async def first_frame(self, request: Request) -> Response:
        facts = self._find_video(request).facts
        return Response(await run_in_threadpool(encode_jpeg, facts.first, 92), media_type="image/jpeg")

    async def start(self, request: Request) -> Response:
        asked = await _read_json(request)
        video = self._store.get(request.scope["owner"], str(asked.get("video")))
        tasks = {"track": self._worker.track, "compare": self._worker.compare}
        task = str(asked.get("task"))
        if task not in tasks:
            raise Refused(f"task must be track or compare, got {task!r}")
        job = Job(video, tasks[task], check_box(asked.get("box"), video.facts.size))
        self.jobs.submit(job)
        return JSONResponse({"id": job.id}, 202)

    async def status(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        first = int(since) if since.isdecimal() and len(since) < 10 else 0
        job = self._find_job(request)
        job.watched = time.monotonic()
        return JSONResponse(self._status(job, first))

    async def cancel(self, request: Request) -> Response:
        self.jobs.cancel(self._find_job(request))
        return Response(status_code=204)

    async def preview(self, request: Request) -> Response:
        preview = self._find_job(request).preview
        if preview is None:
            raise HTTPException(404)
        return Response(preview[1], media_type="image/jpeg")

    async def boxes(self, request: Request) -> Response:
        path = self._find_job(request).boxes
        if path is None:
            raise Refused("the boxes are there when the video was tracked to its end", 409)
        return FileResponse(path, media_type="text/plain", filename="boxes.txt")

    async def video(self, request: Request) -> Response:
        path = self._find_job(request).result
        if path is None:
            raise Refused("the annotated video is not made yet", 409)
        return FileResponse(
            path, media_type=MEDIA[path.suffix], filename=f"tracked{path.suffix}", content_disposition_type="inline"
        )

    def _still_wanted(self, video: Video) -> None:
        if not self._store.holds(video):
            raise Refused("another upload took the place of this one", 409)

    def _find_video(self, request: Request) -> Video:
        return self._store.get(request.scope["owner"], request.path_params["id"])

    def _find_job(self, request: Request) -> Job:
        return self.jobs.get(request.scope["owner"], request.path_params["id"])

    def _status(self, job: Job, since: int) -> dict[str, Any]:
        """Progress of a job, with the scores from frame `since` on."""
        ended = job.state in ENDED  # read first, so that the other values are not older
        run, recent = job.run, job.run.seconds[-20:]
        lost = run.lost[since:]
        return {
            "state": job.state,
            "ended": ended,
            "phase": job.phase,
            "before": self.jobs.position(job),
            "done": job.done,
            "total": job.total,
            "scores": [round(score, 4) for score in run.scores[since : since + len(lost)]],
            "lost": lost,
            "fps": len(recent) / sum(recent) if recent else None,
            "preview": job.preview and job.preview[0],
            "error": job.error,
            "note": job.note,
            "summary": job.summary,
            "video": job.result and f"tracked{job.result.suffix}",
            "comparison": job.comparison,
        }


def _describe(video: Video) -> dict[str, Any]:
    facts, truth = video.facts, video.truth
    return {
        "id": video.id,
        "width": facts.size[0],
        "height": facts.size[1],
        "fps": facts.fps,
        "frames": facts.frames,
        "box": [float(v) for v in np.round(truth[0])] if len(truth) else None,
    }


async def moving(chunks: AsyncIterator[bytes], seconds: float, rate: float) -> AsyncIterator[bytes]:
    """Yield the chunks of an upload; refuse one that pauses for `seconds`, or falls that far behind a rate.

    Slow uploads must not block others.

    Args:
        chunks: chunks of the upload.
        seconds: the longest pause, in seconds.
        rate: the rate, in bytes per second.
    """
    began, received = anyio.current_time(), 0
    while True:
        allowed = min(seconds, began + received / rate + seconds - anyio.current_time())
        try:
            with anyio.fail_after(max(0.0, allowed)):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refused(f"the upload stood still for {seconds:g} seconds, or was too slow", 408) from None
        received += len(chunk)
        yield chunk


async def _read_json(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in moving(request.stream(), 10, LARGEST_REQUEST):
        body += chunk
        if len(body) > LARGEST_REQUEST:
            raise Refused("the request must be smaller", 413)
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise Refused("the request must be a JSON object")
    return asked


async def _refuse(request: Request, error: Refused) -> Response:
    # The connection is useless after an upload that was not read to its end.
    headers = {"Connection": "close"} if error.status in (408, 413) else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": str(error.detail)}, error.status_code)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this failed: see the terminal of the server"}, 500)
