"""Background threads: same items, same order, bounded, overlapping with the tracker, and ended when done."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import tracker.io.background as background
from tests.support.paths import ROOT
from tracker.io.background import ReadAhead, WriteBehind


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert wait_until(lambda: set(threading.enumerate()) <= before), threading.enumerate()


def wait_until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def test_order_and_identity():
    items = [np.full(3, i) for i in range(50)]
    for depth in (1, 3, 100):
        got = list(ReadAhead(iter(items), depth=depth))
        assert len(got) == 50 and all(a is b for a, b in zip(got, items, strict=True))
    assert list(ReadAhead(iter(()))) == []


def test_an_exception_comes_after_the_items_before_it():
    def frames():
        yield from range(3)
        raise ValueError("frame 3 is damaged")

    reader = ReadAhead(frames())
    wait_until(lambda: not reader._thread.is_alive())  # the decoder failed long before frame 0 is asked for
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="frame 3 is damaged"):
        next(reader)
    assert list(reader) == []


@pytest.mark.parametrize("depth", [1, 4])
def test_reads_at_most_depth_items_ahead(depth):
    read = []
    reader = ReadAhead((read.append(i) or i for i in range(100)), depth=depth)
    for taken in range(1, 6):
        assert next(reader) == taken - 1
        assert wait_until(lambda taken=taken: len(read) == taken + depth)
        time.sleep(0.01)
        assert len(read) == taken + depth
    reader.close()


def test_newest_item_wins():
    go = threading.Semaphore(0)

    def camera():
        for i in range(1000):
            shown.append(i)  # the item before has been put
            assert go.acquire(timeout=10)
            yield i

    shown: list[int] = []
    reader = ReadAhead(camera(), newest=True)
    produced = 0
    for count in (1, 5, 1, 30):
        go.release(count)
        produced += count
        assert wait_until(lambda produced=produced: shown[-1:] == [produced]) and reader._buffer._items.qsize() == 1
        assert next(reader) == produced - 1
    go.release(1000)
    assert list(reader)[-1] == 999  # the last one is never dropped


def test_closed_once_by_the_thread_that_reads():
    closed = []

    def close():
        closed.append(threading.current_thread().name)

    def broken():
        yield 0
        raise OSError

    for items in (iter(range(3)), iter(range(1000)), broken()):
        reader = ReadAhead(items, close=close)
        next(reader)
        reader.close()
        reader.close()
        assert list(reader) == []
        assert closed == ["read-ahead"]
        closed.clear()
    for _ in ReadAhead(iter(range(1000)), close=close):
        break
    gc.collect()
    assert closed == ["read-ahead"]


def test_a_stuck_decoder_delays_the_close_for_a_while_only(monkeypatch):
    monkeypatch.setattr(background, "JOIN_SECONDS", 0.05)
    network, closed = threading.Event(), threading.Event()

    def stream():
        yield 0
        assert network.wait(10)
        yield 1

    reader = ReadAhead(stream(), close=closed.set)
    assert next(reader) == 0
    reader.close()
    assert not closed.is_set() and list(reader) == []  # a decoder is not closed while it decodes
    network.set()
    assert closed.wait(10)


def test_an_item_read_during_the_close_is_let_go():
    class Frame:
        pass

    def stream():
        reading.set()
        assert go.wait(10)
        frame = Frame()
        frames.append(weakref.ref(frame))
        yield frame

    reading, go, frames = threading.Event(), threading.Event(), []
    reader = ReadAhead(stream())
    assert reading.wait(10)
    threading.Timer(0.05, go.set).start()
    reader.close()
    gc.collect()
    assert list(reader) == [] and frames[0]() is None


def test_a_program_ends_with_a_reader_open():
    program = (
        "import itertools\n"
        "from tracker.io.background import ReadAhead\n"
        "reader = ReadAhead(itertools.count(), close=lambda: print('closed'))\n"
        "print(next(reader))\n"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (child.returncode, child.stdout, child.stderr) == (0, "0\nclosed\n", "")


def test_decoding_tracking_and_writing_overlap():
    def decoder():
        for i in range(20):
            time.sleep(0.02)
            yield i

    def write(item):
        time.sleep(0.02)
        written.append(item)

    times = []
    for _ in range(3):
        written: list[int] = []
        began = time.perf_counter()
        with WriteBehind(write) as writer:
            for item in ReadAhead(decoder()):
                time.sleep(0.02)
                writer(item)
        times.append(time.perf_counter() - began)
        assert written == list(range(20))
    assert min(times) < 0.75 * 60 * 0.02  # 22 steps of 20 ms where 60 would be one after the other


def test_calls_keep_their_order_and_are_done_at_the_end():
    calls = []
    with WriteBehind(lambda *args, **kwargs: calls.append((args, kwargs)), depth=2) as write:
        for i in range(50):
            write(i, frame=i)
    assert calls == [((i,), {"frame": i}) for i in range(50)]


def test_at_most_depth_calls_wait():
    go, begun, done = threading.Semaphore(0), [], threading.Event()

    def write(item):
        begun.append(item)
        assert go.acquire(timeout=10)

    def caller():
        with WriteBehind(write, depth=2) as writer:
            for i in range(4):
                writer(i)
                handed.append(i)
        done.set()

    handed: list[int] = []
    thread = threading.Thread(target=caller)
    thread.start()
    assert wait_until(lambda: len(handed) == 3)  # one is being written, two wait
    assert not done.wait(0.05) and len(handed) == 3 and begun == [0]
    go.release(4)
    thread.join(10)
    assert done.is_set() and begun == [0, 1, 2, 3]


def test_an_error_stops_the_writing_and_is_raised():
    calls = []

    def write(item):
        calls.append(item)
        if item == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind(write, depth=2) as writer:
        for i in range(1000):
            writer(i)
    assert calls == [0, 1, 2, 3]
    with pytest.raises(OSError, match="disk full"), WriteBehind(write) as writer:
        writer(3)  # nothing follows that could raise it


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_drops_what_waits(error):
    go, begun = threading.Event(), threading.Event()
    calls = []

    def write(item):
        begun.set()
        assert go.wait(10)
        calls.append(item)

    with pytest.raises(error), WriteBehind(write) as writer:
        for i in range(4):
            writer(i)
        assert begun.wait(10)
        threading.Timer(0.05, go.set).start()
        raise error
    assert calls == [0]


INTERRUPTED = """
import faulthandler, itertools, sys, threading, time
from tracker.io.background import ReadAhead, WriteBehind

FILES = ("background.py", "queue.py", "threading.py")


class Interrupt:
    '''Ctrl-C at the n-th line that this thread runs there, after the other thread had time to go as far as it can.'''

    def __init__(self, n):
        self.left = n

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.endswith(FILES):
            return None
        if event == "call":
            self.at_try = frame.f_code.co_name == "__exit__"  # its first line, before which nothing can be caught
        elif event == "line" and self.at_try:
            self.at_try = False
        elif event == "line":
            self.left -= 1
            if self.left == 0:
                time.sleep(0.003)
                raise KeyboardInterrupt
        return self


def interrupted(n, body):
    '''Whether the n-th line was reached.'''
    interrupt = Interrupt(n)
    try:
        body(interrupt)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return interrupt.left <= 0


def write_behind(interrupt):
    with WriteBehind(lambda item: None, depth=2) as write:
        sys.settrace(interrupt)
        try:
            for item in range(4):
                write(item)
        except KeyboardInterrupt:
            time.sleep(0.003)  # unwinding gives the other thread time to wait again
            raise


def read_ahead(interrupt):
    reader = ReadAhead(iter(range(5)), depth=2)
    sys.settrace(interrupt)
    try:
        for item in range(5):
            try:
                assert next(reader) >= item
            except KeyboardInterrupt:
                time.sleep(0.003)
                next(reader, None)
                raise
    finally:
        sys.settrace(None)
        reader.close()


faulthandler.dump_traceback_later(60, exit=True)
for body in write_behind, read_ahead:
    lines = next(n for n in itertools.count(1) if not interrupted(n, body))
    print(body.__name__, "interrupted" if lines > 10 else lines, threading.active_count())
"""


def test_an_interrupt_at_any_line_leaves_no_thread_waiting():
    child = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout == "write_behind interrupted 1\nread_ahead interrupted 1\n"
