"""The connected pages: each gets the newest picture that it has room for, none holds up another or the stream.

Everything here happens in the viewer's own event loop, except `wake`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from threading import Event

from ssmt_edge.segment import Result
from ssmt_edge.viewer.feed import Feed, Point
from ssmt_edge.viewer.messages import FromPage, Picture, encode, status

PAGES = 8
"""connected at the same time at most"""
ON_THE_WAY = 2
"""pictures of a stream that a page has not acknowledged yet; with one, every frame would wait for the network"""
STALLED_S = 5.0
"""a page that does not acknowledge or take anything for so long is given up"""
INTERVAL_S = 0.9 / 30
"""between two pictures of a stream; a little less than a frame at 30 a second, so that none is missed by a hair"""
STATUS_S = 0.25


class Page:
    """What one page is sent."""

    def __init__(self) -> None:
        self.watched: set[int] | None = None
        """numbers of the streams it shows; None for all"""
        self.frozen = False
        self.on_the_way: deque[tuple[float, Picture]] = deque()
        self.shown: dict[int, Result] = {}
        """what stands on its screen, by stream"""
        self.texts: deque[str] = deque(maxlen=4)
        self.pictures: dict[int, Picture] = {}
        """newest that waits to be sent, by stream"""
        self.something = asyncio.Event()
        self._last: dict[int, Picture] = {}

    def wants(self, stream: int) -> bool:
        return (
            not self.frozen
            and (self.watched is None or stream in self.watched)
            and sum(picture.stream == stream for _, picture in self.on_the_way) < ON_THE_WAY
        )

    def offer(self, picture: Picture) -> None:
        if self._last.get(picture.stream) is not picture:
            self._last[picture.stream] = picture
            self.pictures[picture.stream] = picture
            self.something.set()

    def tell(self, text: str) -> None:
        self.texts.append(text)
        self.something.set()

    def take(self) -> str | bytes | None:
        """What to send next."""
        if self.texts:
            return self.texts.popleft()
        if not self.pictures:
            return None
        stream = next(iter(self.pictures))  # the one that has waited longest
        picture = self.pictures.pop(stream)
        self.on_the_way.append((time.perf_counter(), picture))
        return picture.data

    def hear(self, said: FromPage) -> None:
        if said.shown is not None and self.on_the_way:
            _, picture = self.on_the_way.popleft()
            if said.shown:
                self.shown[picture.stream] = picture.result
        if said.watch is not None:
            self.watched = set(said.watch)
            self._last.clear()
        if said.frozen is not None:
            self.frozen = said.frozen
            self.pictures.clear()
            self._last.clear()

    @property
    def stalled(self) -> bool:
        return bool(self.on_the_way) and time.perf_counter() - self.on_the_way[0][0] > STALLED_S


class Hub:
    """Joins feeds and pages."""

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.pages: list[Page] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pumps: dict[int, asyncio.Task[None]] = {}
        self._changed: dict[int, asyncio.Event] = {}

    def wake(self, feed: Feed) -> None:
        """From any thread: the feed has something new."""
        loop = self._loop
        if loop is not None and self.pages:
            try:
                loop.call_soon_threadsafe(self.look_at, feed.number)
            except RuntimeError:  # the viewer was closed in this moment
                pass

    def look_at(self, stream: int) -> None:
        """A stream has a new result, or a page has room for one."""
        if changed := self._changed.get(stream):
            changed.set()

    def look_at_all(self) -> None:
        for changed in self._changed.values():
            changed.set()

    async def run(self, running: Event) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        running.set()
        sent: dict[int, float] = {}
        while True:
            for feed in self.feeds[len(self._pumps) :]:
                self._changed[feed.number] = asyncio.Event()
                self._changed[feed.number].set()
                self._pumps[feed.number] = asyncio.create_task(self._pump(feed))
            feeds = self.feeds[: len(self._pumps)]
            speeds = [feed.frames_a_second() for feed in feeds]
            if self.pages:
                points = [[p for p in list(feed.history) if p[0] > sent.get(feed.number, 0.0)] for feed in feeds]
                sent.update({feed.number: new[-1][0] for feed, new in zip(feeds, points, strict=True) if new})
                text = status(feeds, speeds, points)
                for page in self.pages:
                    page.tell(text)
            await asyncio.sleep(STATUS_S)

    def greeting(self) -> str:
        """The status for a page that has just come, with everything that the feeds remember."""
        points: list[list[Point]] = [list(feed.history) for feed in self.feeds]
        return status(self.feeds, [None] * len(self.feeds), points)

    async def _pump(self, feed: Feed) -> None:
        """Encodes the feed's newest result once, for all pages that have room."""
        changed = self._changed[feed.number]
        picture: Picture | None = None
        while True:
            await changed.wait()
            changed.clear()
            started, result = time.perf_counter(), feed.newest
            if result is None or not any(page.wants(feed.number) for page in self.pages):
                continue
            if picture is None or picture.result is not result:
                try:
                    picture = await asyncio.to_thread(encode, feed.number, result, feed.context.uncut)
                except Exception as error:  # the page says so, and the next frame may be better
                    feed.trouble = f"frame {result.frame} cannot be shown: {type(error).__name__}: {error}"
                    continue
                feed.trouble = None
            for page in self.pages:
                if page.wants(feed.number):
                    page.offer(picture)
            await asyncio.sleep(max(0.0, started + INTERVAL_S - time.perf_counter()))

    def find(self, stream: int, frame: int | None) -> Result | None:
        """The result that a page shows or is about to show, or the newest; from any thread."""
        newest = self.feeds[stream].newest
        if frame is None or (newest is not None and newest.frame == frame):
            return newest
        for page in list(self.pages):
            held = [picture.result for _, picture in list(page.on_the_way) if picture.stream == stream]
            for result in [page.shown.get(stream), *held]:
                if result is not None and result.frame == frame:
                    return result
        return None
