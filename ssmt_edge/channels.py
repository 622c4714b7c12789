"""How the pipeline's threads hand work to each other: bounded channels, and threads that pass on how they ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Channel(Generic[_T]):
    """Hands items from one thread to another, at most `size` waiting. Iterating ends after the last item.

    Args:
        size: items that wait at most.
        newest: a full channel drops its oldest item instead of making the sender wait.
        changed: a condition that several channels share, so that one thread can wait for any of them (`take_each`).
        senders: how many threads put items; the channel ends when all of them have ended.
    """

    def __init__(
        self, size: int, newest: bool = False, changed: threading.Condition | None = None, senders: int = 1
    ) -> None:
        self._items: deque[_T] = deque()
        self._size = size
        self._newest = newest
        self._changed = changed or threading.Condition()
        self._senders = senders
        self._unwanted = False
        self._discarding = False
        self.dropped = 0
        """items that a full channel of the newest let go"""

    @property
    def _ended(self) -> bool:
        return self._senders <= 0

    def put(self, item: _T, timeout: float | None = None) -> bool:
        """Waits for room; False if nobody wants items any more, or there was no room for `timeout` seconds."""
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: self._unwanted or self._discarding or self.has_room, timeout)
            if self._discarding:
                return True
            if self._unwanted or not (self._newest or self.has_room):
                return False
            if not self.has_room:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def offer(self, item: _T) -> bool:
        """Never waits: the item is dropped where there is no room. False if nobody wants any."""
        with self._changed:
            if self._newest or self.has_room or self._unwanted:
                return self.put(item)
            return True

    @property
    def has_room(self) -> bool:
        return len(self._items) < self._size

    @property
    def unwanted(self) -> bool:
        """Whether the receiver has cancelled."""
        return self._unwanted

    def end(self) -> None:
        """A sender has no further items; those waiting are still delivered."""
        with self._changed:
            self._senders -= 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """The receiver wants no further items; those waiting are dropped."""
        with self._changed:
            self._unwanted = True
            self._items.clear()
            self._changed.notify_all()

    def discard(self) -> None:
        """The receiver is gone, but the senders shall go on: what they put is thrown away."""
        with self._changed:
            self._discarding = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[_T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._unwanted or bool(self._items))
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def take_each(inboxes: Sequence[Channel[_T]], outboxes: Sequence[Channel[Any]]) -> Iterator[list[_T]]:
    """One item of every inbox that has one, round after round, until all have ended: no inbox can starve another.

    An inbox whose outbox is full is passed over, so that the thread never waits for one stream while others have work.
    All channels share one condition.
    """
    changed = inboxes[0]._changed
    pairs = list(zip(inboxes, outboxes, strict=True))

    def ready() -> list[Channel[_T]]:
        return [inbox for inbox, outbox in pairs if inbox._items and (outbox.has_room or outbox._unwanted)]

    while True:
        with changed:
            changed.wait_for(lambda: ready() or all((i._ended or i._unwanted) and not i._items for i in inboxes))
            items = [inbox._items.popleft() for inbox in ready()]
            changed.notify_all()
        if not items:
            return
        yield items


class Step(threading.Thread):
    """Sends every item of `work` on, until it ends or fails or nobody wants more.

    Either way the steps before it are told to stop, and those after it that nothing more will come.
    """

    def __init__(
        self,
        name: str,
        work: Iterable[_T],
        send: Callable[[_T], bool],
        inboxes: Sequence[Channel[Any]],
        outboxes: Sequence[Channel[Any]],
        on_failure: Callable[[], None],
    ) -> None:
        super().__init__(name=f"ssmt-{name}", daemon=True)
        self._work = work
        self._send = send
        self._inboxes = inboxes
        self._outboxes = outboxes
        self._on_failure = on_failure
        self.failure: tuple[float, BaseException] | None = None
        """when, and what"""

    def run(self) -> None:
        try:
            for item in self._work:
                if not self._send(item):
                    break
        except BaseException as error:
            self.failure = (time.perf_counter(), error)
            self._on_failure()
        finally:
            for inbox in self._inboxes:
                inbox.cancel()
            for outbox in self._outboxes:
                outbox.end()
