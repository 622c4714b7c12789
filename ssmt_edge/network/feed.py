"""One sender, any number of receivers that must not hold it up: the newest items win."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")

WAITING = 3
"""items that wait for a receiver at most; the oldest makes room"""


@dataclass(eq=False)
class _Letter(Generic[_T]):
    item: _T
    taken: bool = False


class Feed(Generic[_T]):
    """Hands every item to all who receive at that time.

    `sent` counts the items that at least one receiver took, `skipped` how often a receiver was not given one, because
    it was too slow or left while it waited.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.skipped = 0
        self._boxes: list[deque[_Letter[_T]]] = []
        self._changed = threading.Condition()
        self._ended = False

    @property
    def receivers(self) -> int:
        return len(self._boxes)

    def publish(self, item: _T) -> None:
        """Never waits."""
        letter = _Letter(item)
        with self._changed:
            for box in self._boxes:
                if len(box) == WAITING:
                    box.popleft()
                    self.skipped += 1
                box.append(letter)
            self._changed.notify_all()

    @contextmanager
    def receive(self) -> Iterator[Iterator[_T]]:
        """Items from now on, until `end`; one counts as taken when the next one is asked for."""
        box: deque[_Letter[_T]] = deque()
        with self._changed:
            self._boxes.append(box)
        items = self._items(box)
        try:
            yield items
        finally:
            items.close()
            with self._changed:
                # not `remove`, to which two empty boxes are the same
                self._boxes = [other for other in self._boxes if other is not box]
                self.skipped += len(box)
                self._changed.notify_all()

    def _items(self, box: deque[_Letter[_T]]) -> Generator[_T, None, None]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or bool(box))
                if not box:
                    return
                letter = box.popleft()
            try:
                yield letter.item
            except GeneratorExit:
                self.skipped += 1
                raise
            with self._changed:
                self.sent += not letter.taken
                letter.taken = True

    def end(self, patience: float) -> None:
        """No further items; waits until all receivers took what waits for them, not longer than `patience` seconds."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._boxes, patience)
