"""The queue of `tracker serve`, one job at a time, and its store of videos: neither needs a page."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.serve_jobs import LIMITS, Slow, until
from tracker.serve.jobs import KEPT, Job, Jobs
from tracker.serve.limits import Facts, Refused
from tracker.serve.store import PREFIX, Store, Video, own_folder

BOX = (60.0, 40.0, 30.0, 20.0)


@pytest.fixture
def jobs():
    jobs = Jobs(LIMITS)
    yield jobs
    jobs.close()


def make_job(owner: str, task, tmp_path: Path) -> Job:
    return Job(Video(owner, tmp_path, tmp_path / "video"), task, np.array(BOX))


def test_jobs_run_one_after_the_other(jobs, tmp_path):
    slow = Slow()
    first, second, third = queue = [make_job(owner, slow, tmp_path) for owner in "abc"]
    jobs.submit(first)
    until(lambda: slow.ran)
    jobs.submit(second)
    jobs.submit(third)
    assert [jobs.position(job) for job in queue] == [0, 1, 2]
    assert [job.state for job in queue] == ["running", "waiting", "waiting"]
    with pytest.raises(Refused, match="too many runs are waiting"):
        jobs.submit(make_job("d", slow, tmp_path))
    with pytest.raises(Refused, match="your last run has not ended"):
        jobs.submit(make_job("a", slow, tmp_path))
    slow.go_on.set()
    until(lambda: third.state == "done")
    assert slow.ran == queue


def test_the_last_results_of_a_video_stay(jobs, tmp_path):
    def task(job: Job) -> None:
        job.boxes = tmp_path / f"{job.id}.txt"
        job.boxes.write_text("1,2,3,4")

    first = make_job("a", task, tmp_path)
    made = [first, *(Job(first.video, task, first.box) for _ in range(KEPT + 1))]
    for job in made:
        jobs.submit(job)
        until(lambda job=job: job.state == "done" and not jobs.needs(job.video))
    assert sorted(tmp_path.glob("*.txt")) == sorted(job.boxes for job in made[-KEPT:])
    assert jobs.get("a", made[-1].id) is made[-1]
    with pytest.raises(Refused, match="no longer here"):
        jobs.get("a", made[0].id)


def test_cancel(jobs, tmp_path):
    slow = Slow()
    running, waiting = (make_job(owner, slow, tmp_path) for owner in "ab")
    jobs.submit(running)
    until(lambda: slow.ran)
    jobs.submit(waiting)
    jobs.cancel(waiting)
    assert waiting.state == "cancelled" and running.state == "running"
    jobs.cancel(running)
    until(lambda: running.state == "cancelled")
    assert slow.ran == [running]
    jobs.submit(make_job("a", slow, tmp_path))  # the owner may go on


def test_a_job_that_fails_tells_its_user_no_paths(jobs, tmp_path, caplog):
    def broken(job):
        raise OSError(f"{tmp_path} is gone")

    def infinite(job):
        raise FloatingPointError("response must be finite")

    failed, other = make_job("a", broken, tmp_path), make_job("b", infinite, tmp_path)
    jobs.submit(failed)
    jobs.submit(other)
    until(lambda: other.state == "failed")
    assert failed.state == "failed" and failed.error == "this run failed: see the terminal of the server"
    assert other.error == "response must be finite"
    assert str(tmp_path) in caplog.text


def test_forget_and_close_wait_for_the_running_job(tmp_path):
    jobs, slow = Jobs(LIMITS), Slow()
    job = make_job("a", slow, tmp_path)
    jobs.submit(job)
    until(lambda: slow.ran)
    assert jobs.needs(job.video)
    jobs.forget(job.video)
    assert job.state == "cancelled" and not jobs.needs(job.video)
    with pytest.raises(Refused, match="no longer here"):
        jobs.get("a", job.id)
    last = make_job("a", slow, tmp_path)
    jobs.submit(last)
    until(lambda: len(slow.ran) == 2)
    jobs.close()
    assert last.state == "cancelled"


def test_store_keeps_the_newest_and_what_is_in_use(tmp_path):
    used: list[Video] = []
    gone: list[Video] = []
    store = Store(tmp_path, LIMITS, in_use=used.__contains__, removed=gone.append)
    videos = []
    for owner in "abc":
        videos.append(store.add(owner))
        with pytest.raises(Refused, match="no longer here"):  # before it is whole
            store.get(owner, videos[-1].id)
        videos[-1].facts = object()
    used.append(videos[0])
    videos.append(store.add("d"))
    assert gone == [videos[1]] and not videos[1].folder.exists() and videos[0].folder.exists()
    used.append(videos[2])
    with pytest.raises(Refused, match="too many videos"):  # the last one is still on its way
        store.add("e")
    newer = store.add("d")  # of the same browser: it has gone on to another file
    assert store.holds(newer) and not store.holds(videos[3]) and not videos[3].folder.exists()


def test_a_forgotten_video_is_found_by_nobody_while_its_job_ends(tmp_path):
    jobs, slow = Jobs(LIMITS), Slow()
    store = Store(tmp_path, LIMITS, in_use=jobs.needs, removed=jobs.forget)
    video = store.add("a")
    video.facts = object()
    jobs.submit(Job(video, slow, np.array(BOX)))
    until(lambda: slow.ran)
    assert store.forget(video) and jobs.needs(video) and video.folder.exists()
    with pytest.raises(Refused, match="no longer here"):
        store.get("a", video.id)
    store.drop(video)
    assert not jobs.needs(video) and not video.folder.exists() and not store.forget(video)
    jobs.close()


def test_a_job_that_nobody_watches_ends(tmp_path):
    jobs = Jobs(replace(LIMITS, unwatched_seconds=0.2))
    try:
        slow = Slow()
        watched, unwatched, waiting = queue = [make_job(owner, slow, tmp_path) for owner in "abc"]
        for job in queue:
            jobs.submit(job)
            until(lambda: slow.ran)
        for _ in range(50):
            watched.watched = time.monotonic()
            time.sleep(0.01)
        assert watched.state == "running"  # the others are past their time meanwhile, and never begin
        until(lambda: all(job.state == "cancelled" for job in queue))
        assert slow.ran == [watched] and not unwatched.done and not waiting.done
    finally:
        jobs.close()


def test_each_browser_has_places_of_its_own(tmp_path):
    """Many uploads of one browser leave the video of another alone."""
    store = Store(tmp_path, LIMITS, in_use=lambda video: False, removed=lambda video: None)
    facts = Facts((4, 4), 30.0, 1, np.zeros((4, 4, 3), np.uint8))

    def add(owner: str) -> Video:
        video = store.add(owner)
        video.facts = facts
        return video

    mine = add("me")
    for _ in range(20):
        last = add("flood")
    assert store.get("me", mine.id) is mine and store.newest("flood") is last
    assert len(list(tmp_path.iterdir())) <= LIMITS.videos
    others = [add(name) for name in "xyz"]  # all places are taken: whoever has most gives way
    assert store.newest("z") is others[2] and len(list(tmp_path.iterdir())) == LIMITS.videos


def test_a_video_in_use_never_goes(tmp_path):
    used = set()
    limits = replace(LIMITS, videos=3, videos_per_owner=2)
    store = Store(tmp_path, limits, in_use=lambda video: video.id in used, removed=lambda video: None)
    for owner in ("a", "a", "b"):
        video = store.add(owner)
        video.facts = Facts((4, 4), 30.0, 1, np.zeros((4, 4, 3), np.uint8))
        used.add(video.id)
    for owner in ("a", "c"):
        with pytest.raises(Refused, match="too many videos are being tracked"):
            store.add(owner)


def test_folders_of_killed_servers_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old = time.time() - 3600
    left, fresh, link = (tmp_path / f"{PREFIX}{name}" for name in ("left", "fresh", "link"))
    (left / "inside").mkdir(parents=True)
    fresh.mkdir()
    (tmp_path / "precious").mkdir()
    link.symlink_to(tmp_path / "precious")
    os.utime(left, (old, old))
    with own_folder() as living:
        os.utime(living, (old, old))
        with own_folder() as other:
            assert living.is_dir() and other.is_dir() and fresh.is_dir() and not left.exists()
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, link.name, "precious"}
