"""Live sources: connections that end, come back, bring damaged frames, hang or refuse, and what is told of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
from fakes import disc

from ssmt_edge.errors import SourceError, SourceLost
from ssmt_edge.sources import Frame, Source, live, receiver
from ssmt_edge.sources.base import BaseSource
from ssmt_edge.sources.live import Live
from ssmt_edge.sources.receiver import Receiver

pytestmark = pytest.mark.timeout(60)


def take(source: Source, count: int) -> list[Frame]:
    return list(itertools.islice(source, count))


def ends_within(seconds: float, source: Source) -> bool:
    """Whether an iteration in another thread ends when the source is closed."""
    thread = threading.Thread(target=lambda: list(source), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    source.close()
    thread.join(seconds)
    return not thread.is_alive()


# the source that opens its connection again


class Connection(BaseSource):
    """Yields frames with the given indices, then raises or ends."""

    live = True

    def __init__(self, indices: list[int], error: Exception | None = None, numbered: bool = False) -> None:
        super().__init__("fake://")
        self.fps = 30.0
        self.counts = {"frames eaten": 2}
        self.numbered = numbered
        self.closed = False
        self._indices, self._error = indices, error

    def __iter__(self) -> Iterator[Frame]:
        for index in self._indices:
            yield Frame(index, 10.0 * index, disc())
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed = True


class Opener:
    """Opens what is planned, one after another; an exception is raised instead. Then nothing ever comes."""

    def __init__(self, *planned: Connection | Exception) -> None:
        self.calls: list[float] = []
        self._planned = list(planned)

    def __call__(self) -> Source:
        self.calls.append(time.perf_counter())
        following = self._planned.pop(0) if self._planned else SourceError("nobody there")
        if isinstance(following, Exception):
            raise following
        return following


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before a lost source is opened again."""
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(live, "LONGEST_PAUSE_S", 0.2)


def test_the_first_connection_fails_at_once() -> None:
    with pytest.raises(SourceError, match="nobody there"):
        Live("fake://", Opener())


@pytest.mark.parametrize("numbered", [False, True])
def test_a_source_comes_back_and_goes_on(soon: None, numbered: bool) -> None:
    connections = [
        Connection([0, 1, 4], SourceLost("cable\npulled"), numbered),
        Connection([8, 9], None, numbered),  # ends
        Connection([0, 2], SourceError("damaged"), numbered),  # the sender has begun anew
    ]
    opener = Opener(connections[0], SourceError("not yet"), connections[1], connections[2])
    source = Live("fake://", opener)
    states: list[str] = []
    source.on_state = states.append
    with closing(source):
        frames = take(source, 7)
        assert source.state == "running"
    # an unnumbered sender may have sent anything meanwhile: no gap is made up, but those of a connection stay
    assert [f.index for f in frames] == ([0, 1, 4, 8, 9, 10, 12] if numbered else [0, 1, 4, 13, 14, 15, 17])
    times = [f.t_source_ms for f in frames]
    assert times == sorted(times) and times[2] == 40
    assert 150 <= times[3] - times[2] < 1000  # two pauses: 50 and 100 ms
    assert times[4] - times[3] == pytest.approx(10)
    assert states == ["lost", "running", "lost", "running"]
    assert all(connection.closed for connection in connections)
    assert source.notes[0] == "fake://: 6 frames eaten"
    assert "was lost 2 times" in source.notes[1] and "last: damaged" not in source.notes[1]


def test_pauses_grow_until_a_frame_comes(monkeypatch: pytest.MonkeyPatch, soon: None) -> None:
    empty = Connection([])  # opens and brings nothing: no reason to hurry
    opener = Opener(Connection([0]), SourceError("no"), empty, SourceError("no"), SourceError("no"), Connection([0]))
    source = Live("fake://", opener)
    with closing(source):
        assert len(take(source, 2)) == 2
    pauses = np.diff(opener.calls)
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.2, 0.2], abs=0.04)
    assert source.notes[-1].startswith("fake:// was lost once, for 0.")


def test_the_pauses_as_they_are() -> None:
    assert (live.FIRST_PAUSE_S, live.LONGEST_PAUSE_S) == (0.5, 8.0)


def test_close_ends_the_pause() -> None:
    source = Live("fake://", Opener(Connection([0])))
    assert ends_within(1.0, source)
    assert source.state == "lost" and "was lost once, for 0." in source.notes[-1]


def test_close_ends_an_attempt_that_hangs(soon: None) -> None:
    first, late, answer = Connection([0]), Connection([0]), threading.Event()
    opened = iter([first, late])

    def open() -> Source:
        connection = next(opened)
        assert connection is first or answer.wait(20)
        return connection

    assert ends_within(1.0, Live("fake://", open))
    answer.set()
    deadline = time.monotonic() + 5
    while not late.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert late.closed, "the connection that came after `close` is left open"


def test_a_bug_is_no_lost_connection(soon: None) -> None:
    for opener in (Opener(Connection([0], ZeroDivisionError())), Opener(Connection([0]), ZeroDivisionError())):
        with pytest.raises(ZeroDivisionError):
            list(Live("fake://", opener))


# the thread that receives


class Scripted(Receiver[int]):
    """Hands over what the test puts into `script`, as gray frames of that value."""

    def __init__(self, script: Callable[[], Iterator[int]]) -> None:
        super().__init__("scripted://")
        self._script = script
        self.start()

    def receive(self, opened: Callable[[], None]) -> Iterator[tuple[float, int]]:
        opened()
        for value in self._script():
            if value < 0:
                self.missed("broken", -value)
            else:
                yield value / 10, value

    def pixels(self, raw: int) -> np.ndarray:
        return np.full((4, 4), raw, np.uint8)


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    burst = threading.Event()

    def script() -> Iterator[int]:
        yield 0
        burst.wait(10)
        yield from (1, 2, 3, -2, 4)

    source = Scripted(script)
    frames = iter(source)
    assert next(frames).index == 0
    burst.set()
    source._thread.join(10)  # everything has arrived before the next frame is asked for
    newest = next(frames)
    assert (newest.index, newest.t_source_ms, newest.pixels[0, 0]) == (6, 400.0, 4)
    with pytest.raises(SourceLost, match="ended"):
        next(frames)
    assert source.counts == {receiver.REPLACED: 3, "broken": 2}  # the gap from 0 to 6


def test_silence_is_a_loss_and_close_ends_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def script() -> Iterator[int]:
        yield 0
        release.wait(20)

    assert ends_within(1.0, Scripted(script))
    monkeypatch.setattr(receiver, "SILENCE_S", 0.2)
    with closing(Scripted(script)) as source, pytest.raises(SourceLost, match=r"no frame for 0\.2 s"):
        list(source)
    release.set()
