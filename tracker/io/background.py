"""Threads next to the tracker: one decodes frames in advance, one writes results.

The threads communicate through `SimpleQueue`, which is atomic. `Queue` and `Condition` are written in Python. With
them, Ctrl-C during a `notify` leaves a stale waiter, which takes the next notification, and the other thread waits for
ever.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

DEPTH = 4  # frames, enough for key frames and slow disks; 25 MB each in 4K
JOIN_SECONDS = 5.0  # OpenCV waits 10 s for a camera, and 30 s for a stream that does not respond


class ReadAhead(Iterator[T]):
    """Iterator that reads the items of another iterator ahead of time, in a thread.

    Items keep their order. An exception is raised after the items before it, as without the thread. The thread ends
    with the items, in `close`, or when nothing refers to the object any more.

    Args:
        items: the other iterator, which is used in the thread only.
        depth: the largest number of stored items, with the one being read.
        newest: for live sources: keep reading without waiting, and store only the latest item.
        close: called once, in the thread, after the last item. A decoder is never closed while it decodes.

    Example:
        >>> list(ReadAhead(iter("abc")))
        ['a', 'b', 'c']
    """

    def __init__(
        self,
        items: Iterator[T],
        *,
        depth: int = DEPTH,
        newest: bool = False,
        close: Callable[[], None] | None = None,
    ) -> None:
        # The thread refers to the buffer only, so it does not keep this object alive.
        self._buffer: _Buffer[T] = _Buffer(depth, newest)
        self._thread = threading.Thread(target=_fill, args=(self._buffer, items, close), name="read-ahead", daemon=True)
        self._finalizer = weakref.finalize(self, _stop, self._buffer, self._thread)  # also runs at exit
        self._thread.start()

    def __iter__(self) -> ReadAhead[T]:
        return self

    def __next__(self) -> T:
        return self._buffer.get()

    def close(self) -> None:
        """End the thread. Further iteration gives nothing. May be called twice.

        If the decoder does not return for 5 s, the thread is not joined. It closes the decoder when that returns.
        """
        self._finalizer()


class _Buffer(Generic[T]):
    """Shared by the thread of a `ReadAhead` and its consumer."""

    def __init__(self, depth: int, newest: bool) -> None:
        self._items: SimpleQueue[T | object] = SimpleQueue()
        self._taken: SimpleQueue[None] = SimpleQueue()  # not empty: look again whether an item may be added
        self._depth, self._newest = depth, newest
        self._closed = False
        self._end: BaseException | None = None  # what `get` raises once the items are used up

    def wait_for_space(self) -> bool:
        """Wait until one more item may be read; False if no more are wanted."""
        while not self._closed and not self._newest and self._items.qsize() >= self._depth:
            self._taken.get()
        return not self._closed

    def put(self, item: T) -> None:
        if self._newest:
            self._drop()
        self._items.put(item)
        if self._closed:  # while the item was read
            self.stop()

    def get(self) -> T:
        _wake(self._taken)  # in case an interrupt kept the last `get` from it
        while not self._closed:
            if self._end is not None and self._items.empty():
                end, self._end = self._end, StopIteration()
                raise end
            item = self._items.get()
            if item is not _WAKE and not self._closed:
                _wake(self._taken)
                return item  # type: ignore[return-value]
        raise StopIteration

    def finish(self, end: BaseException) -> None:
        self._end = end
        self._items.put(_WAKE)

    def stop(self) -> None:
        self._closed = True
        self._drop()
        self._taken.put(None)
        self._items.put(_WAKE)

    def _drop(self) -> None:
        with suppress(Empty):
            while True:
                self._items.get_nowait()


_WAKE = object()  # not an item: makes the consumer check whether more will come


def _wake(queue: SimpleQueue[None]) -> None:
    """Make the thread that waits on `queue`, or is about to, check its condition again."""
    if queue.empty():
        queue.put(None)


def _fill(buffer: _Buffer[T], items: Iterator[T], close: Callable[[], None] | None) -> None:
    try:
        while buffer.wait_for_space():
            buffer.put(next(items))
    except BaseException as end:  # StopIteration like any other
        buffer.finish(end)
    finally:
        if close is not None:
            close()


def _stop(buffer: _Buffer[Any], thread: threading.Thread) -> None:
    buffer.stop()
    # The garbage collector may run this in any thread, even in the one to be joined.
    if thread is not threading.current_thread():
        thread.join(JOIN_SECONDS)


class WriteBehind:
    """Calls a function in a thread, one call after the other, while the caller continues. It is a context manager.

    A call blocks only if `depth` others are waiting. The arguments must not be modified after the call. If the function
    raises an error, the next call or `__exit__` raises it, and the function is not called again. If an exception leaves
    the context, waiting calls are dropped. At the end of the context the thread has ended.

    Example:
        >>> with WriteBehind(print) as write:
        ...     write("frame", 0)
        frame 0
    """

    def __init__(self, function: Callable[..., object], *, depth: int = DEPTH) -> None:
        self._function = function
        self._calls: SimpleQueue[tuple[tuple, dict] | None] = SimpleQueue()  # None: there are no more
        self._taken: SimpleQueue[None] = SimpleQueue()  # not empty: look again whether an item may be added
        self._depth = depth
        self._error: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self._error is not None:
            raise self._error
        while self._calls.qsize() >= self._depth:
            self._taken.get()
        self._calls.put((args, kwargs))

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._dropping = kind is not None
            self._calls.put(None)
            self._thread.join()
        except BaseException:  # Ctrl-C while it waits: drop the rest
            self._dropping = True
            self._calls.put(None)
            self._thread.join()
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _wake(self._taken)
            if self._dropping or self._error is not None:
                continue  # keeps emptying the queue, so that no caller waits for ever
            args, kwargs = call
            try:
                self._function(*args, **kwargs)
            except BaseException as error:
                self._error = error
